"""Turns of work that may run at the same time only so often."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, DeferredSemaphore

__all__ = ["Slots"]


class Slots(DeferredSemaphore):
    """A semaphore for any number of waiters, also if their work ends at once.

    Twisted's own begins the next work inside the end of the last one. A thousand that fail at once,
    such as those that need a lease which has ended, exceed the depth of the interpreter's stack;
    some of them never end then. Here they begin one after the other.
    """

    def __init__(self, tokens: int) -> None:
        super().__init__(tokens)
        self._is_handing_on = False

    def release(self) -> None:
        """Give a slot back; the next who waits has it before the caller goes on, or soon after."""
        self.tokens += 1
        if self._is_handing_on:
            return
        self._is_handing_on = True
        try:
            while self.waiting and self.tokens:
                self.tokens -= 1
                waiter: Deferred[Any] = self.waiting.pop(0)
                waiter.callback(self)
        finally:
            self._is_handing_on = False
