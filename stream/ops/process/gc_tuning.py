"""When the interpreter looks for reference cycles that nobody holds any more.

By itself it looks at a part of all objects whenever 700 more have been made than given back, and at
all of them, which blocks the reactor for 60 ms, several times a second under load: each
request that waits for the disk is a dozen objects, so a few hundred of them look like a leak. They
aren't one; what is finished is given back at once, by counting references. So it looks rarely, and
not at what is there from the start; and now and then in any case, since a circle may hold a large
buffer.

What has survived such a look isn't checked again for a while: with ten thousand connections that
would take a fifth of a second each time. Nearly all circles are found before, since they are made
and left within a request.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from twisted.internet.task import LoopingCall

__all__ = ["GcTuning", "without_collector"]

NEW_OBJECTS = 10_000
"""More than hundreds of waiting requests have."""

YOUNG_LOOKS = 3
"""After so many looks at new objects those that survived them are checked: a few ten thousand."""

OLD_LOOKS = 1000
"""The same for all objects since the last of our own looks, which comes long before."""

SECONDS = 30.0
"""How long a circle of new objects is kept at most."""

FULL_LOOKS = 60
"""After so many of our own looks all objects are checked, even those from the start."""


@contextmanager
def without_collector() -> Iterator[None]:
    """Don't look for circles meanwhile, nor afterwards at what is there then.

    Imports make a million objects that stay, and each look at them is in vain.
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
    """The times of the collector, from `start` to `stop`."""

    def __init__(self, reactor: Any) -> None:
        self._threshold = gc.get_threshold()
        self._looks = 0
        self._looking = LoopingCall(self._look)
        self._looking.clock = reactor

    def start(self) -> None:
        """Exempt all present objects from collections, and collect new ones rarely.

        Nothing is collected before: that takes a twelfth of the time of a start, and imports leave
        few reference cycles.
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
        """As the interpreter has it by itself. May be called without a start."""
        if self._looking.running:
            self._looking.stop()
            gc.set_threshold(*self._threshold)
            gc.unfreeze()
