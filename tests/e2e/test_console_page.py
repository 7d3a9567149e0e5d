"""The console in a real Chromium: the first row, rejected records, an outage of the API."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.processes import ALL, TOKEN, Deployment, deployment, wait_for

_HERE = Path(__file__).parent / "console"
_ROOT = Path(__file__).parents[2]
_PICTURES = "CONSOLE_PICTURES"
"""The environment variable with the folder to which `make console-pictures` saves screenshots."""
_STEPS = [
    *("first row", "every page", "rejected, fixed, replayed", "under load"),
    *("deleted in another tab", "changes of others", "a record of 1 MB"),
    *("10,000 records a second", "answers that take longer than a refresh"),
    *("a clock that is an hour off", "a mapping of 100 columns"),
    *("a call that is too slow for a proxy", "a mapping that another changes"),
    *("a filter by state",),
    *("away and back", "viewer", "signed out"),
]


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
                if number % 20:
                    record["price"] = number % 90
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
    with ExitStack() as cleanup:

        def do(line: str) -> None:
            nonlocal api
            if line.startswith("send records to "):
                name = line.removeprefix("send records to ")
                url = f"{deployed.api}/v1/branches/default/sources/{name}"
                _, source = deployed.call("GET", url)
                cleanup.enter_context(_load(deployed, source["http"]["url"]))
            elif line == "stop the API":
                api.kill()
            elif line == "start the API":
                api = deployed.start("api", node_id="api-1")

        seen = _walked(command, do)
    assert seen["problems"] == []
    assert seen["steps"] == _STEPS
    assert seen["axe"] == []
    assert seen["wide"] == []
    own = {deployed.api, f"http://127.0.0.1:{deployed.ports['source']}"}
    assert set(seen["requests"]) <= own


def _walked(command: list[str], do: Callable[[str], None]) -> dict[str, Any]:
    """Run a walk, and return its report.

    :param do: does what the walk requests in a line.
    """
    walk = subprocess.Popen(
        command,
        cwd=Path(command[1]).parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert walk.stdin is not None
    assert walk.stdout is not None
    with _stopped_at_the_end(walk):
        for line in walk.stdout:
            if line.startswith("{"):
                seen: dict[str, Any] = json.loads(line)
                return seen
            do(line.rstrip("\n"))
            walk.stdin.write("done\n")
            walk.stdin.flush()
    raise AssertionError("the walk ended without saying what it has seen")


def test_rights(tmp_path: Path, chromium: str, script: Path) -> None:
    """No page offers an action that the token has no right to, and each says which right is
    missing.

    Each offered action of a token that may only read, or only read and watch, is run: the API
    refuses none, and nothing changes. Only targets that the project can use are offered. A revoked
    token ends its session.
    """
    connections = {
        "archive": {"type": "parquet", "url": (tmp_path / "archive").as_uri(), "projects": [1]}
    }
    settings = {
        "STREAM_AUTH_PROVIDER": "stream",
        "STREAM_STORAGE_API_HOST": "",
        "STREAM_TARGET_CONNECTIONS": json.dumps(connections),
    }
    with deployment(tmp_path / "data", **settings) as deployed:
        deployed.start(*(name for name in ALL if name != "sandbox"))
        admin = _token(deployed, 1, "admin")
        sources = f"{deployed.api}/v1/branches/default/sources"
        body = {"type": "http", "name": "Shop", "sourceId": "shop"}
        _, source = deployed.call("POST", f"{sources}?wait=30s", body, token=admin)
        columns = [{"type": "path", "name": "user", "path": "user"}]
        table = {"type": "parquet", "connection": "archive", "path": "shop"}
        sink = {
            "type": "table",
            "name": "Orders",
            "table": {**table, "mapping": {"columns": columns}},
        }
        made, answer = deployed.call("POST", f"{sources}/shop/sinks?wait=30s", sink, token=admin)
        assert made == 201, answer
        # Until the source knows its sink, it accepts any record.
        wait_for(lambda: deployed.push(source["http"]["url"], {})[0] >= 400, "a rejected record")
        tokens = {
            "reader": _token(deployed, 1, "read", "reader"),
            "watcher": _token(deployed, 1, "read,tail", "watcher"),
            "writer": _token(deployed, 1, "write", "writer"),
            "elsewhere": _token(deployed, 2, "admin", "elsewhere"),
            "leaving": _token(deployed, 1, "read", "leaving"),
        }

        def do(line: str) -> None:
            name = line.removeprefix("revoke ")
            _, listed = deployed.call("GET", f"{deployed.api}/v1/tokens", token=admin)
            (id,) = (each["tokenId"] for each in listed["tokens"] if each["name"] == name)
            url = f"{deployed.api}/v1/tokens/{id}"
            assert deployed.call("DELETE", url, token=admin)[0] == 204

        walk = script.with_name("rights.mjs")
        seen = _walked(["node", str(walk), deployed.api, chromium, json.dumps(tokens)], do)
    assert seen["problems"] == [], "\n".join(seen["problems"])
    assert seen["steps"] == ["reader", "watcher", "writer", "elsewhere", "leaving"]
    assert seen["refused"] == []
    assert seen["changes"] == []
    assert seen["kinds"] == ["parquet"]
    lacks = "Your token lacks the right “write”."
    assert seen["reasons"] == {
        **dict.fromkeys(("New source", "Change", "New sink", "Replay all", "Delete all"), lacks),
        "Take the next record": "Your token lacks the right “tail”.",
    }
    assert "Pause" in seen["offered"]["watcher"]["tail"]
    assert "Pause" not in seen["offered"]["reader"]["tail"]
    assert seen["axe"] == []
    assert seen["wide"] == []


def _token(deployed: Deployment, project: int, rights: str, name: str = "first") -> str:
    command = [
        *(str(Path(sys.executable).parent / "stream-service"), "token", "create"),
        *(f"--project={project}", f"--name={name}", f"--can={rights}"),
    ]
    made = subprocess.run(
        command, env=deployed.environment(), capture_output=True, text=True, check=True
    )
    return made.stdout.strip()


@contextmanager
def _stopped_at_the_end(process: subprocess.Popen[str]) -> Iterator[None]:
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)
