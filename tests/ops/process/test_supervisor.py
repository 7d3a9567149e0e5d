"""Child processes: start, restart and stop."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as _reactor
from twisted.internet.defer import DeferredList, ensureDeferred, maybeDeferred

from stream.errors import UserError
from stream.ops.process.supervisor import Supervisor
from tests.waiting import until

reactor: Any = _reactor

SERVES = """
import os, signal, sys
open(sys.argv[1], "a").write(f"{os.getpid()}\\n")
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
os.write(3, b"ready")
os.close(3)
sys.stdin.read()
"""
STUBBORN = SERVES.replace("lambda *_: sys.exit(0)", "signal.SIG_IGN").replace(
    "sys.stdin.read()", "signal.pause()"
)

HEARS = SERVES.replace(
    'os.write(3, b"ready")',
    'signal.signal(signal.SIGHUP, lambda *_: open(sys.argv[1] + ".new", "a").write("opened"))\n'
    'os.write(3, b"ready")',
)

TOLD = SERVES.replace(
    'os.write(3, b"ready")',
    "import time\n"
    'while not os.path.exists(sys.argv[1] + ".go"): time.sleep(0.01)\n'
    'os.write(3, b"ready")',
)
SLOW = SERVES.replace('os.write(3, b"ready")\nos.close(3)\n', "")


class _Around:
    """The reactor with some overridden methods."""

    def __getattr__(self, name: str) -> Any:
        return getattr(reactor, name)


class _Stopping(_Around):
    """A reactor whose stop doesn't end the tests."""

    def __init__(self) -> None:
        self._before: list[Callable[[], Any]] = []

    def addSystemEventTrigger(self, phase: str, event: str, call: Callable[[], Any]) -> Any:
        assert (phase, event) == ("before", "shutdown")
        self._before.append(call)
        return call

    def removeSystemEventTrigger(self, trigger: Any) -> None:
        self._before.remove(trigger)

    async def stop(self) -> None:
        await DeferredList([maybeDeferred(call) for call in list(self._before)])


class _Full(_Around):
    """A reactor that can't start a process for a while."""

    def __init__(self, refusals: int = 0) -> None:
        self.refusals = refusals

    def spawnProcess(self, *args: Any, **kwargs: Any) -> Any:
        if self.refusals:
            self.refusals -= 1
            raise BlockingIOError(11, "no room")
        return reactor.spawnProcess(*args, **kwargs)


def supervisor(script: str, log: Path, *, names: str = "ab", timeout: float = 20) -> Supervisor:
    commands = {name: [sys.executable, "-c", script, str(log)] for name in names}
    return Supervisor(reactor, commands, os.environ, timeout)


def lives(log: Path) -> list[int]:
    """The ids of all processes that were started."""
    return [int(line) for line in log.read_text().split()] if log.exists() else []


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


@pytest_twisted.ensureDeferred
async def test_start_and_stop(tmp_path: Path) -> None:
    """The start ends when all children are ready, and the stop when all have ended."""
    log = tmp_path / "log"
    children = supervisor(SERVES, log)
    await children.startService()
    assert len(lives(log)) == 2
    await children.stopService()
    assert not any(is_alive(pid) for pid in lives(log))


@pytest_twisted.ensureDeferred
async def test_a_lost_child_is_restarted(tmp_path: Path) -> None:
    """A child that ends unexpectedly is restarted, and the other one continues."""
    log = tmp_path / "log"
    children = supervisor(SERVES, log)
    await children.startService()
    first, second = lives(log)
    os.kill(first, 9)
    await until(lambda: len(lives(log)) == 3)
    assert is_alive(second)
    await children.stopService()
    assert not any(is_alive(pid) for pid in lives(log))


@pytest_twisted.ensureDeferred
async def test_a_child_that_can_not_start(tmp_path: Path) -> None:
    """The start fails as a whole, and no other child remains."""
    log = tmp_path / "log"
    commands = {
        "good": [sys.executable, "-c", SERVES, str(log)],
        "bad": [sys.executable, "-c", "raise SystemExit(3)"],
    }
    children = Supervisor(reactor, commands, os.environ, 20)
    with pytest.raises(UserError, match=r"bad did not start: .*exit code 3"):
        await children.startService()
    assert not any(is_alive(pid) for pid in lives(log))


@pytest_twisted.ensureDeferred
async def test_a_child_that_does_not_drain(tmp_path: Path) -> None:
    """The child is killed at the time limit, and the stop reports it."""
    log = tmp_path / "log"
    children = supervisor(STUBBORN, log, names="a", timeout=0.3)
    await children.startService()
    with pytest.raises(UserError, match=r"child processes were killed after 0\.3 s"):
        await children.stopService()
    assert not any(is_alive(pid) for pid in lives(log))


@pytest_twisted.ensureDeferred
async def test_stop_before_readiness(tmp_path: Path) -> None:
    """A stop waits for children that aren't ready yet."""
    log = tmp_path / "log"
    stopping = _Stopping()
    children = Supervisor(stopping, {"a": [sys.executable, "-c", SLOW, str(log)]}, os.environ, 20)
    starting = ensureDeferred(children.startService())
    await until(lambda: len(lives(log)) == 1)
    await stopping.stop()
    assert not any(is_alive(pid) for pid in lives(log))
    with pytest.raises(UserError, match="a was stopped"):
        await starting


@pytest_twisted.ensureDeferred
async def test_a_child_that_can_not_be_spawned(tmp_path: Path) -> None:
    """The start fails at once if the host can't spawn a process."""
    full = _Full(refusals=1)
    children = Supervisor(full, {"a": [sys.executable, "-c", SERVES, "x"]}, os.environ, 20)
    with pytest.raises(UserError, match=r"a did not start: .*no room"):
        await children.startService()


@pytest_twisted.ensureDeferred
async def test_a_lost_child_is_restarted_later(tmp_path: Path) -> None:
    """The restart is repeated while the host can't spawn a process."""
    log = tmp_path / "log"
    full = _Full()
    children = Supervisor(full, {"a": [sys.executable, "-c", SERVES, str(log)]}, os.environ, 20)
    await children.startService()
    full.refusals = 1
    os.kill(lives(log)[0], 9)
    await until(lambda: len(lives(log)) == 2)
    assert full.refusals == 0
    await children.stopService()
    assert not any(is_alive(pid) for pid in lives(log))


@pytest_twisted.ensureDeferred
async def test_sighup_is_forwarded(tmp_path: Path) -> None:
    """Each child reopens its log file, and none ends."""
    log, new = tmp_path / "log", tmp_path / "log.new"
    children = supervisor(HEARS, log)
    await children.startService()
    children.hangup()
    await until(lambda: new.exists() and new.read_text() == "openedopened")
    assert all(is_alive(pid) for pid in lives(log))
    await children.stopService()


@pytest_twisted.ensureDeferred
async def test_sighup_before_readiness(tmp_path: Path) -> None:
    """A child that isn't ready gets no signal, which would end it."""
    log = tmp_path / "log"
    children = supervisor(TOLD, log)
    starting = ensureDeferred(children.startService())
    await until(lambda: len(lives(log)) == 2)
    children.hangup()
    (tmp_path / "log.go").touch()
    await starting
    await children.stopService()
