"""A command that is stopped and restarted after a change."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from watchfiles import Change

from tests.docs.blocks import ROOT
from tests.e2e.processes import wait_for
from tools.rerun import counts

_COMMAND = """
import signal, sys, time
def interrupted(*_):
    print("interrupted", file=open(sys.argv[1], "a"), flush=True)
    if len(sys.argv) < 3:
        raise SystemExit(0)
signal.signal(signal.SIGINT, interrupted)
print("started", file=open(sys.argv[1], "a"), flush=True)
while True:
    time.sleep(0.01)
"""


@contextmanager
def _rerun(folder: Path, *command: str, kill_after: float = 30) -> Iterator[Path]:
    """Run the tool with its output in a file, and interrupt it at the end."""
    said = folder / "said"
    watched = folder / "watched" / "below"
    watched.mkdir(parents=True)
    options = (f"--watch={watched.parent}", "--delay=0.05", f"--kill-after={kill_after}")
    with said.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "tools.rerun", *options, "--", *command],
            cwd=ROOT,
            stderr=output,
        )
    try:
        yield said
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


def _wait_lines(path: Path, lines: list[str]) -> None:
    wait_for(lambda: path.exists() and path.read_text().splitlines() == lines, f"{lines} in {path}")


def test_a_change_restarts_the_command(tmp_path: Path) -> None:
    """The command is interrupted before the restart and at the end; the first changed file is
    named.
    """
    log, changed = tmp_path / "log", tmp_path / "watched" / "below" / "a.py"
    with _rerun(tmp_path, sys.executable, "-c", _COMMAND, str(log)) as said:
        _wait_lines(log, ["started"])
        wait_for(lambda: "watching" in said.read_text(), "the watch")
        changed.write_text("1")
        _wait_lines(log, ["started", "interrupted", "started"])
        assert "a.py changed: starting again" in said.read_text()
    assert log.read_text().split() == ["started", "interrupted"] * 2


def test_a_command_that_does_not_end_is_killed(tmp_path: Path) -> None:
    """A command that ignores SIGINT gets SIGKILL."""
    log = tmp_path / "log"
    with _rerun(
        tmp_path, sys.executable, "-c", _COMMAND, str(log), "stays", kill_after=0.2
    ) as said:
        _wait_lines(log, ["started"])
    assert "killed: it did not end within 0.2 s" in said.read_text()
    assert log.read_text().split() == ["started", "interrupted"]


def test_a_command_that_has_ended(tmp_path: Path) -> None:
    """A command that has failed is restarted only after a change."""
    log, changed = tmp_path / "log", tmp_path / "watched" / "a.yaml"
    with _rerun(tmp_path, "sh", "-c", f"echo ran >> {log}; exit 3") as said:
        wait_for(lambda: "the command has ended" in said.read_text(), "the end of the command")
        changed.write_text("1")
        _wait_lines(log, ["ran", "ran"])


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a/b.py", True),
        ("a.yaml", True),
        ("a.sql", True),
        ("a.pyc", False),
        ("a.py~", False),
        (".a.py.swp", False),
        ("a", False),
    ],
)
def test_watched_files(path: str, expected: bool) -> None:
    """Programs and settings are watched, and other files next to them aren't."""
    assert counts(Change.modified, path) is expected


def test_a_missing_folder(tmp_path: Path) -> None:
    """The tool ends at once and names the folder, without starting the command."""
    log = tmp_path / "log"
    command = ["--watch", str(tmp_path / "none"), "--", "touch", str(log)]
    done = subprocess.run(
        [sys.executable, "-m", "tools.rerun", *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert f"cannot watch {tmp_path / 'none'}" in done.stderr
    assert not log.exists()
