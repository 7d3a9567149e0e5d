"""The output of the service on a terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import attrs
import pytest

from tests.e2e.processes import TABLE, Deployment, wait_for

pytestmark = pytest.mark.e2e

_ROWS = 4


@attrs.frozen
class _Terminal:
    deployed: Deployment
    process: subprocess.Popen[bytes]
    output: Path

    @property
    def text(self) -> str:
        """Return the output so far, without colors."""
        if not self.output.exists():
            return ""
        text = self.output.read_text(errors="replace").replace("\r\n", "\n")
        return re.sub(r"\x1b\[\d+m", "", text)


def _copy(descriptor: int, path: Path) -> None:
    with path.open("wb", buffering=0) as output:
        while True:
            try:
                output.write(os.read(descriptor, 65536))
            except OSError:
                return  # the other end is closed


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[_Terminal]:
    """``stream-service dev`` at a separate terminal."""
    deployed = Deployment(tmp_path / "var")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "stream", "dev"],
        env=deployed.environment(),
        cwd=tmp_path,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    output = tmp_path / "terminal"
    reader = Thread(target=_copy, args=(ours, output), daemon=True)
    reader.start()
    yield _Terminal(deployed, process, output)
    if process.poll() is None:
        process.kill()
    process.wait(10)
    reader.join(10)
    os.close(ours)


def test_first_records(terminal: _Terminal) -> None:
    """The readiness, the quick start and a line for each import fit on one screen."""
    wait_for(lambda: "A few seconds later" in terminal.text, "the quick start", 60)
    deployed = terminal.deployed
    url = deployed.define()
    for number in range(_ROWS):
        assert deployed.push(url, {"id": f"r{number}", "user": {"name": "Ada"}})[0] == 200
    imported = re.compile(rf"^\d\d:\d\d:\d\d {TABLE} \+(\d+) rows?, \d+\.\d s after arrival$", re.M)

    def rows() -> int:
        return sum(map(int, imported.findall(terminal.text)))

    wait_for(lambda: rows() == _ROWS, "the rows", 60)
    lines = terminal.text.splitlines()
    assert any(line.endswith(" ready to serve") for line in lines)
    assert len(lines) < 40
    assert "configuration:" not in terminal.text
    assert not [line for line in lines if line.startswith('{"time"')]
    os.killpg(terminal.process.pid, signal.SIGINT)
    assert terminal.process.wait(60) == 0
    wait_for(lambda: terminal.text.splitlines()[-1].endswith(" exited"), "the last line", 10)


def test_closing_the_terminal_ends_the_service(terminal: _Terminal) -> None:
    """SIGHUP is a stop, because a log at a terminal can't be reopened."""
    wait_for(lambda: "ready to serve" in terminal.text, "the start", 60)
    os.killpg(terminal.process.pid, signal.SIGHUP)
    assert terminal.process.wait(60) == 0
    wait_for(lambda: "exiting (the terminal was closed)" in terminal.text, "the reason", 10)


def test_a_pipe_gets_only_json(tmp_path: Path) -> None:
    """Each line of a log in a file is JSON."""
    deployed = Deployment(tmp_path / "var")
    running = deployed.start("dev")
    assert running.stop() == 0
    lines = [json.loads(line) for line in running.log.read_text().splitlines()]
    assert {"ready to serve", "exited"} <= {line["message"] for line in lines}
