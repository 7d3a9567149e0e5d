"""A call that is repeated while earlier attempts have no answer yet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

__all__ = ["Attempts", "hedged"]

T = TypeVar("T")


class Attempts(Generic[T]):
    """The attempts of one call; the outcome is that of the first attempt that ends.

    An attempt may wait on a connection that will never answer, although a new attempt would be
    answered at once. Once there is an outcome, no reference cycle remains.

    :param no_answer: errors that say nothing about the call, for example that a connection was
        lost. The first such failure isn't the outcome until all attempts that are then running have
        failed, too. Later attempts may still be answered before, but their failures don't count;
        otherwise there might never be an outcome.
    """

    def __init__(
        self, attempt: Callable[[], Deferred[T]], no_answer: tuple[type[Exception], ...] = ()
    ) -> None:
        self._attempt = attempt
        self._no_answer = no_answer
        self._running: dict[Deferred[T], None] = {}
        self._outcome: Deferred[T] | None = None
        self._undecided: set[Deferred[T]] | None = None

    def begin(self) -> Deferred[T]:
        """Make the first attempt; return the outcome. Cancelling it cancels all attempts."""
        outcome: Deferred[T] = Deferred(lambda _: self._end())
        self._outcome = outcome
        self.add()
        return outcome

    def add(self) -> None:
        """Make another attempt while the earlier ones continue."""
        which = self._attempt()
        self._running[which] = None
        which.addBoth(self._ended, which)

    def replace(self) -> None:
        """Cancel the earlier attempts, whose outcomes no longer count, and make another one."""
        self._cancel()
        self._undecided = None
        self.add()

    def _ended(self, result: T | Failure, which: Deferred[T]) -> None:
        outcome = self._outcome
        if outcome is None or which not in self._running:
            return
        del self._running[which]
        if isinstance(result, Failure) and result.check(*self._no_answer):
            if self._undecided is None:
                self._undecided = set(self._running)
            self._undecided.discard(which)
            if self._undecided:
                return
        self._end()
        outcome.callback(result)

    def _end(self) -> None:
        self._outcome = None
        self._cancel()

    def _cancel(self) -> None:
        running, self._running = self._running, {}
        for each in running:
            each.cancel()


def hedged(
    attempt: Callable[[], Deferred[T]],
    seconds: float,
    reactor: Any,
    no_answer: tuple[type[Exception], ...] = (),
) -> Deferred[T]:
    """Return the outcome of the first attempt that ends; the others are cancelled.

    If the first attempt fails before another one was made, its failure is the outcome: the caller
    decides when to try again. The timeout of the attempts themselves limits their number.

    :param seconds: seconds between attempts while there is no outcome.
    :param no_answer: see `Attempts`.
    """
    attempts = Attempts(attempt, no_answer)
    outcome = attempts.begin()
    if not outcome.called:
        adding = LoopingCall(attempts.add)
        adding.clock = reactor
        adding.start(seconds, now=False)
        outcome.addBoth(_after, adding.stop)
    return outcome


def _after(result: T, call: Callable[[], object]) -> T:
    call()
    return result
