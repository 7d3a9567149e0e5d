"""The two clocks of a process."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

from twisted.internet.task import Clock

import stream
from stream.ops.clock import keep_monotonic, wall_clock

_DATES = re.compile(r"(from_timestamp|from_milliseconds|iso_time)\([^\n]*reactor\.seconds")
TELLS = """
import sys, time
if "chosen" in sys.argv:
    from twisted.internet import selectreactor
    selectreactor.install()
    from twisted.internet import reactor
    reactor.callLater(0.1, print, "rings")
from stream.ops.process.reactor import install
from stream.ops.clock import wall_clock
install()
from twisted.internet import reactor
print(abs(reactor.seconds() - time.monotonic()) < 5, abs(wall_clock(reactor)() - time.time()) < 5)
time.time = lambda: 0.0  # the clock is set back by decades
reactor.callLater(0.2, print, "also")
reactor.callLater(0.3, reactor.stop)
reactor.run()
"""


def _told(*arguments: str) -> list[str]:
    ended = subprocess.run(
        [sys.executable, "-c", TELLS, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return ended.stdout.splitlines()


def test_the_reactor_uses_the_monotonic_clock() -> None:
    """Calls are made in time, whatever the wall clock shows."""
    assert _told() == ["True True", "also"]


def test_an_existing_reactor_is_changed() -> None:
    """Pending calls of the reactor keep their time."""
    assert _told("chosen") == ["True True", "rings", "also"]


def test_virtual_time() -> None:
    """A reactor with virtual time has one clock, unless it has two."""
    clock = Clock()
    clock.advance(7)
    assert wall_clock(clock)() == 7
    clock.wallSeconds = lambda: 99.0  # type: ignore[attr-defined]
    assert wall_clock(clock)() == 99


def test_the_reactor_has_no_dates() -> None:
    """The reactor's time is only used for durations, never converted to a date."""
    package = Path(stream.__file__).parent
    modules = {path: path.read_text() for path in package.rglob("*.py")}
    assert [str(path) for path, text in modules.items() if _DATES.search(text)] == []


def test_calls_keep_their_delay() -> None:
    """Calls scheduled before the clock is replaced keep their delay."""
    clock = Clock()
    call = clock.callLater(5, lambda: None)
    keep_monotonic(clock)
    assert 4 < call.getTime() - time.monotonic() <= 5
    keep_monotonic(clock)
    assert 4 < call.getTime() - time.monotonic() <= 5
