"""The two clocks of a process: one that only grows, and the one on the wall.

The reactor runs on the first (`stream.ops.process.reactor`): timeouts, leases, back-off and
durations don't care what somebody sets the machine's time to. Whatever is stored or shown as a date
comes from the second, which may be stepped back and forth at any moment.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

__all__ = ["WALL_CLOCK", "keep_monotonic", "wall_clock"]

WALL_CLOCK = "wallSeconds"
"""The method of a reactor that returns the time of day."""


def wall_clock(reactor: Any) -> Callable[[], float]:
    """The clock for timestamps, seconds since the epoch, that goes with *reactor*.

    A reactor without one of its own counts seconds since the epoch, as Twisted's do by default and
    those of tests do whose time is virtual.
    """
    clock: Callable[[], float] = getattr(reactor, WALL_CLOCK, reactor.seconds)
    return clock


def keep_monotonic(reactor: Any) -> None:
    """Have *reactor*, which somebody else has installed, count by the monotonic clock.

    What it is to do later keeps its distance from now.
    """
    if reactor.seconds is time.monotonic:
        return
    ahead = time.monotonic() - reactor.seconds()
    for call in reactor.getDelayedCalls():
        call.time += ahead
        call.seconds = time.monotonic
    reactor.seconds = time.monotonic
    setattr(reactor, WALL_CLOCK, time.time)
