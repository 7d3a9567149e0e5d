"""The two clocks of a process: monotonic time and wall-clock time.

The reactor uses monotonic time (`stream.ops.process.reactor`), so timeouts, leases, back-off and
durations don't depend on the system clock. Stored and displayed dates use wall-clock time, which
may be stepped at any time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

__all__ = ["WALL_CLOCK", "keep_monotonic", "wall_clock"]

WALL_CLOCK = "wallSeconds"
"""The method of a reactor that returns the time of day."""


def wall_clock(reactor: Any) -> Callable[[], float]:
    """Return the wall clock of *reactor*, which returns seconds since the epoch.

    If the reactor has no wall clock, its only clock is returned: Twisted's own reactors count
    seconds since the epoch by default, and so do the tests' reactors with virtual time.
    """
    clock: Callable[[], float] = getattr(reactor, WALL_CLOCK, reactor.seconds)
    return clock


def keep_monotonic(reactor: Any) -> None:
    """Make *reactor*, which other code has installed, use the monotonic clock.

    Pending calls keep their remaining delay.
    """
    if reactor.seconds is time.monotonic:
        return
    ahead = time.monotonic() - reactor.seconds()
    for call in reactor.getDelayedCalls():
        call.time += ahead
        call.seconds = time.monotonic
    reactor.seconds = time.monotonic
    setattr(reactor, WALL_CLOCK, time.time)
