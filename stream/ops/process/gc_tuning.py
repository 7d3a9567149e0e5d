"""When the interpreter looks for circles of references that nobody holds any more.

By itself it looks at a part of all objects whenever 700 more have been made than given back, and at
all of them, while everything is paused for 60 ms, several times a second under load: each
request that waits for the disk is a dozen objects, so a few hundred of them look like a leak. They
aren't one; what is finished is given back at once, by counting references. So it looks seldom, and
not at what is there from the start; and now and then in any case, since a circle may hold a large
buffer.
"""

from __future__ import annotations

import gc
from typing import Any

from twisted.internet.task import LoopingCall

__all__ = ["GcTuning"]

NEW_OBJECTS = 10_000
"""More than hundreds of waiting requests have."""

SECONDS = 30.0
"""How long a circle is kept at most. A look at what was made since the start takes some ms."""


class GcTuning:
    """The times of the collector, from `start` to `stop`."""

    def __init__(self, reactor: Any) -> None:
        self._threshold = gc.get_threshold()
        self._looking = LoopingCall(gc.collect)
        self._looking.clock = reactor

    def start(self) -> None:
        """All that is there now stays: never look at it again, and seldom at what comes."""
        gc.collect()
        gc.freeze()
        gc.set_threshold(NEW_OBJECTS, *self._threshold[1:])
        self._looking.start(SECONDS, now=False)

    def stop(self) -> None:
        """As the interpreter has it by itself. May be called without a start."""
        if self._looking.running:
            self._looking.stop()
            gc.set_threshold(*self._threshold)
            gc.unfreeze()
