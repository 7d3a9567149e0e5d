"""Deferreds that wait for an event."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

__all__ = ["Waiters", "ended"]

T = TypeVar("T")


class Waiters(Generic[T]):
    """Deferreds that wait for one event and are fired together.

    A cancelled Deferred is removed and fails with ``CancelledError``.
    """

    def __init__(self) -> None:
        self._waiting: dict[Deferred[T], None] = {}

    def __len__(self) -> int:
        """Return the number of waiting Deferreds."""
        return len(self._waiting)

    def wait(self) -> Deferred[T]:
        """Return a Deferred that fires with the next `fire` or `fail`."""
        waiter: Deferred[T] = Deferred(self._forget)
        self._waiting[waiter] = None
        return waiter

    def fire(self, result: T) -> None:
        """Fire all waiting Deferreds. Those that callbacks add wait for the next call."""
        for waiter in self._take():
            if not waiter.called:
                waiter.callback(result)

    def fail(self, failure: Failure | Exception) -> None:
        """Fail all waiting Deferreds."""
        for waiter in self._take():
            if not waiter.called:
                waiter.errback(failure)

    def cancel(self) -> None:
        """Cancel all waiting Deferreds."""
        for waiter in self._take():
            waiter.cancel()

    def _take(self) -> list[Deferred[T]]:
        waiting, self._waiting = list(self._waiting), {}
        return waiting

    def _forget(self, waiter: Deferred[T]) -> None:
        self._waiting.pop(waiter, None)


def ended(deferred: Deferred[Any]) -> Deferred[None]:
    """Return a Deferred that fires when *deferred* has fired or failed.

    *deferred* keeps its result. Cancelling the returned Deferred doesn't cancel *deferred*.
    """
    waiter: Deferred[None] = Deferred()

    def fire(result: Any) -> Any:
        if not waiter.called:
            waiter.callback(None)
        return result

    deferred.addBoth(fire)
    return waiter
