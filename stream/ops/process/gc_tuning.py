"""Tuning of the garbage collector, which looks for reference cycles.

By default the collector examines a part of all objects each time 700 more have been created than
freed, and sometimes all objects. Under load this blocks the reactor for 60 ms several times a
second. Each request that waits for the disk consists of a dozen objects, so a few hundred requests
look like a leak. They aren't one, because reference counting frees finished requests immediately.
Therefore the collector runs rarely and skips the objects that were created at startup. It still
runs at intervals, because a cycle may hold a large buffer.

Objects that survive a collection aren't examined again for a while; with ten thousand connections
that would take a fifth of a second each time. Nearly all cycles are found by then, because they are
created and abandoned within a request.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from twisted.internet.task import LoopingCall

__all__ = ["GcTuning", "without_collector"]

NEW_OBJECTS = 10_000
"""Number of new objects that starts a collection; hundreds of waiting requests have fewer."""

YOUNG_LOOKS = 3
"""Number of collections of new objects before the survivors, tens of thousands, are examined."""

OLD_LOOKS = 1000
"""Number of collections of survivors before all objects are examined.

Only objects created since this module's last full collection count; that collection comes long
before this number is reached.
"""

SECONDS = 30.0
"""Maximum time after which a cycle of new objects is found, in seconds."""

FULL_LOOKS = 60
"""Number of this module's collections before all objects are examined, including older ones.
"""


@contextmanager
def without_collector() -> Iterator[None]:
    """Disable the collector in the context, and exempt all objects that exist at its end.

    Imports create a million permanent objects, in which the collector would find nothing.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


class GcTuning:
    """The schedule of the collector between `start` and `stop`."""

    def __init__(self, reactor: Any) -> None:
        self._threshold = gc.get_threshold()
        self._looks = 0
        self._looking = LoopingCall(self._look)
        self._looking.clock = reactor

    def start(self) -> None:
        """Exempt all current objects from collections, and collect new ones rarely.

        Nothing is collected before that: a collection would take a twelfth of the startup time, and
        imports leave few reference cycles.
        """
        gc.freeze()
        gc.set_threshold(NEW_OBJECTS, YOUNG_LOOKS, OLD_LOOKS)
        self._looking.start(SECONDS, now=False)

    def _look(self) -> None:
        self._looks += 1
        if self._looks % FULL_LOOKS == 0:
            gc.unfreeze()
        gc.collect()
        gc.freeze()

    def stop(self) -> None:
        """Restore the interpreter's defaults. May be called without `start`."""
        if self._looking.running:
            self._looking.stop()
            gc.set_threshold(*self._threshold)
            gc.unfreeze()
