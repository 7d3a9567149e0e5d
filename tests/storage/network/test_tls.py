"""Certificates between source nodes and writers."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from stream.errors import UserError
from stream.settings.local import WriterTlsSettings
from stream.storage.network.tls import credentials
from tests.storage.network.authority import Authority


def test_no_files_mean_no_tls() -> None:
    """It is off by default."""
    assert credentials(WriterTlsSettings()) is None


@pytest.mark.parametrize("name", ["certificate", "key", "ca"])
def test_all_files_are_needed(tmp_path: Path, name: str) -> None:
    """Half a configuration isn't a weaker one, it is a mistake."""
    settings = attrs.evolve(Authority(tmp_path).issue("node"), **{name: ""})
    with pytest.raises(UserError, match=rf'network\.tls\.{name}" is not set'):
        credentials(settings)


@pytest.mark.parametrize("name", ["certificate", "key", "ca"])
def test_what_is_wrong_is_named(tmp_path: Path, name: str) -> None:
    """The setting and the file, for one that is missing and one that holds something else."""
    settings = Authority(tmp_path).issue("node")
    missing = attrs.evolve(settings, **{name: str(tmp_path / "missing")})
    with pytest.raises(UserError, match=rf'tls\.{name}": cannot read ".*missing"'):
        credentials(missing)
    other = tmp_path / "other"
    other.write_text("-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n")
    with pytest.raises(UserError, match=rf'tls\.{name}": ".*other" holds no PEM'):
        credentials(attrs.evolve(settings, **{name: str(other)}))


def test_a_foreign_key_is_found_at_the_start(tmp_path: Path) -> None:
    """Not only when the first node connects."""
    authority = Authority(tmp_path)
    one, other = authority.issue("one"), authority.issue("other")
    with pytest.raises(UserError, match="does not belong"):
        credentials(attrs.evolve(one, key=other.key))
