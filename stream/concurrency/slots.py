"""A limit of concurrent work."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, DeferredSemaphore

__all__ = ["Slots"]


class Slots(DeferredSemaphore):
    """A semaphore for any number of waiters, even if their work ends immediately.

    Twisted's semaphore begins the next work inside the end of the last one. If a thousand fail at
    once, such as those that need an expired lease, they exceed the recursion limit, and some of
    them never end. Here they begin one after the other.
    """

    def __init__(self, tokens: int) -> None:
        super().__init__(tokens)
        self._is_handing_on = False

    def release(self) -> None:
        """Release a slot; the next waiter gets it immediately, or soon after."""
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
