"""A call that is repeated while earlier attempts have no answer yet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

__all__ = ["hedged"]

T = TypeVar("T")


def hedged(attempt: Callable[[], Deferred[T]], seconds: float, reactor: Any) -> Deferred[T]:
    """Return the outcome of the first attempt that ends; the others are cancelled.

    An attempt may wait on a connection that will never answer, although a new attempt would be
    answered at once. The timeout of the attempts themselves limits their number.

    :param seconds: seconds between attempts while none has ended.
    """
    running: dict[Deferred[T], None] = {}
    outcome: Deferred[T] = Deferred(lambda _: end())

    def end() -> None:
        if starting.running:
            starting.stop()
        others = list(running)
        running.clear()
        for other in others:
            other.cancel()

    def ended(result: T | Failure, which: Deferred[T]) -> None:
        if which in running:
            del running[which]
            end()
            outcome.callback(result)

    def start() -> None:
        which = attempt()
        running[which] = None
        which.addBoth(ended, which)

    starting = LoopingCall(start)
    starting.clock = reactor
    starting.start(seconds)
    return outcome
