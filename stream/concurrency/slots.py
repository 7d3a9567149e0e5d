"""A limit of concurrent work."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, DeferredSemaphore

__all__ = ["Slots"]


class Slots(DeferredSemaphore):
    """A semaphore for any number of waiters, even if their work ends immediately.

    Twisted's semaphore starts the next waiter's work within the call that ends the previous work.
    If the work of a thousand waiters fails at once, for example because a lease has expired, these
    nested calls exceed the recursion limit, and some waiters never end. This semaphore starts the
    work of one waiter after another.
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
