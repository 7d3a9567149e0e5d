"""The watched command is interrupted, ends, and is started again."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest_twisted
from twisted.internet import reactor

from tests.waiting import until
from watcher.restarter import Restarter

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


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


@pytest_twisted.ensureDeferred
async def test_restart_and_stop(tmp_path: Path) -> None:
    """A restart interrupts first and starts when the command has ended; so does the stop."""
    log, said = tmp_path / "log", list[str]()
    restarter = Restarter(reactor, [sys.executable, "-c", _COMMAND, str(log)], said.append, 30)
    restarter.startService()
    await until(lambda: _lines(log) == ["started"])
    restarter.restart("a.py changed")
    restarter.restart("b.py changed")
    await until(lambda: len(_lines(log)) == 3)
    await restarter.stopService()
    assert _lines(log) == ["started", "interrupted"] * 2
    assert said == ["a.py changed: starting anew", "b.py changed: starting anew"]


@pytest_twisted.ensureDeferred
async def test_command_that_does_not_end_is_killed(tmp_path: Path) -> None:
    """What ignores the interruption is killed in time."""
    log, said = tmp_path / "log", list[str]()
    command = [sys.executable, "-c", _COMMAND, str(log), "stays"]
    restarter = Restarter(reactor, command, said.append, 0.2)
    restarter.startService()
    await until(lambda: _lines(log) == ["started"])
    await restarter.stopService()
    assert said == ["killed: it did not end within 0.2 s"]


@pytest_twisted.ensureDeferred
async def test_command_that_ends_by_itself_waits_for_a_change(tmp_path: Path) -> None:
    """A command that fails isn't tried again until something has changed."""
    log, said = tmp_path / "log", list[str]()
    restarter = Restarter(reactor, ["sh", "-c", f"echo ran >> {log}; exit 3"], said.append, 30)
    restarter.startService()
    await until(lambda: len(said) == 1)
    restarter.restart("a.py changed")
    await until(lambda: len(said) == 3)
    assert _lines(log) == ["ran", "ran"]
    assert said[0] == "it has ended by itself; the next change starts it anew"
    await restarter.stopService()
