"""The two clocks of a process: monotonic time and wall-clock time.

The reactor uses monotonic time (`stream.ops.process.reactor`), so timeouts, leases, back-off and
durations don't depend on the machine's time. Stored and shown dates use wall-clock time, which may
be stepped at any moment.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

__all__ = ["WALL_CLOCK", "keep_monotonic", "wall_clock"]

WALL_CLOCK = "wallSeconds"
"""The method of a reactor that returns the time of day."""


def wall_clock(reactor: Any) -> Callable[[], float]:
    """Return the clock for timestamps, seconds since the epoch, that belongs to *reactor*.

    A reactor without one counts seconds since the epoch, as Twisted's do by default, and reactors
    of tests with virtual time.
    """
    clock: Callable[[], float] = getattr(reactor, WALL_CLOCK, reactor.seconds)
    return clock


def keep_monotonic(reactor: Any) -> None:
    """Make *reactor*, installed elsewhere, use the monotonic clock.

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
