"""The version is defined once, and all its occurrences are equal."""

from __future__ import annotations

import re
from configparser import ConfigParser

import stream
from stream.api.spec.openapi import openapi3
from tests.docs.blocks import ROOT


def test_version() -> None:
    """The package, the API's document and the newest entry of the changelog have the same
    version.
    """
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    assert config["metadata"]["version"] == "attr: stream.__version__"
    newest = re.search(r"^## (\S+) – ", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest[1] == stream.__version__
    assert openapi3([])["info"]["version"] == stream.__version__
