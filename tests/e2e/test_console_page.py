"""The console in a real Chromium: the first row, rejected records, an outage of the API."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.processes import ALL, TOKEN, Deployment

_HERE = Path(__file__).parent / "console"
_ROOT = Path(__file__).parents[2]
_NAMES = ("chromium", "chromium-browser", "google-chrome")
_PICTURES = "CONSOLE_PICTURES"
"""The environment variable with the folder to which `make console-pictures` saves screenshots."""
_STEPS = [
    *("first row", "every page", "rejected, fixed, replayed", "under load"),
    *("deleted in another tab", "changes of others", "a record of 1 MB"),
    *("10,000 records a second", "answers that take longer than a refresh"),
    *("a clock that is an hour off", "a mapping of 100 columns"),
    *("away and back", "viewer", "signed out"),
]


@pytest.fixture(scope="module")
def chromium() -> str:
    """The browser."""
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        pytest.skip(f"none of {', '.join(_NAMES)} is installed: the console is not tested")
    return found


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The script with its libraries, after a build of the console."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("Node.js is not installed: the console is not tested")
    folder = tmp_path_factory.mktemp("console")
    shutil.copytree(_HERE, folder, dirs_exist_ok=True)
    install = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    installed = subprocess.run(install, cwd=folder, capture_output=True, text=True, check=False)
    if installed.returncode:
        reason = installed.stderr.strip().splitlines()[:1]
        pytest.skip(f"npm can't install the libraries of the console's test: {reason}")
    build = [sys.executable, "-m", "tools.console"]
    built = subprocess.run(build, cwd=_ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return folder / "walk.mjs"


@contextmanager
def _load(deployed: Deployment, url: str) -> Iterator[None]:
    """Push records until the block ends."""
    ended = threading.Event()

    def send() -> None:
        for number in count(1):
            # a load that varies, as that of real users does
            if ended.wait(0.02 + 0.015 * math.sin(number / 40)):
                return
            for name in ("Ada", "Grace", "Edsger"):
                record = {"user": {"name": name}, "action": "bought", "number": number}
                deployed.push(url, record)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    try:
        yield
    finally:
        ended.set()
        sender.join(30)


def test_types_and_unit_tests(script: Path) -> None:
    """The sources have no type errors, and the unit tests of their pure functions pass."""
    command = [sys.executable, "-m", "tools.console", "--check"]
    checked = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr


def test_the_pages(deployed: Deployment, chromium: str, script: Path) -> None:
    """A user creates a source and a sink, sees a row, fixes a mapping, and sees an outage of the
    API.

    No page has a serious finding of axe; each fits 360 pixels and loads nothing from elsewhere.
    """
    deployed.start(*(name for name in ALL if name != "api"))
    api = deployed.start("api", node_id="api-1")
    command = ["node", str(script), deployed.api, TOKEN, chromium, os.environ.get(_PICTURES, "")]
    walk = subprocess.Popen(
        command, cwd=script.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert walk.stdin is not None
    assert walk.stdout is not None
    seen: dict[str, Any] = {}
    with ExitStack() as cleanup:
        cleanup.enter_context(_stopped_at_the_end(walk))
        for line in walk.stdout:
            if line.startswith("{"):
                seen = json.loads(line)
                break
            if line.startswith("send records to "):
                name = line.removeprefix("send records to ").strip()
                url = f"{deployed.api}/v1/branches/default/sources/{name}"
                _, source = deployed.call("GET", url)
                cleanup.enter_context(_load(deployed, source["http"]["url"]))
            elif line == "stop the API\n":
                api.kill()
            elif line == "start the API\n":
                api = deployed.start("api", node_id="api-1")
            walk.stdin.write("done\n")
            walk.stdin.flush()
    assert seen["problems"] == []
    assert seen["steps"] == _STEPS
    assert seen["axe"] == []
    assert seen["wide"] == []
    own = {deployed.api, f"http://127.0.0.1:{deployed.ports['source']}"}
    assert set(seen["requests"]) <= own


@contextmanager
def _stopped_at_the_end(process: subprocess.Popen[str]) -> Iterator[None]:
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)
