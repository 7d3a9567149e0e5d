"""Work for thousands of objects, done for a few milliseconds in each turn of the reactor.

Without pauses, such work would delay the keep-alive of the lease and the answers to producers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, ensureDeferred, maybeDeferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

__all__ = ["SLICE_SECONDS", "Paced", "begin_in_turns", "in_turns"]

_log = Logger()

T = TypeVar("T")

_Waiting = tuple[Callable[[], Any], Deferred[Any], list[Deferred[Any]]]
"""The work, its outcome, and the Deferred of the work once it has started."""

SLICE_SECONDS = 0.01
"""Time per turn of the reactor; exceeded by at most one step."""


async def in_turns(items: Iterable[T], step: Callable[[T], object], reactor: Any) -> None:
    """Call *step* with each item, for a few milliseconds in each turn of the reactor."""
    end = reactor.seconds() + SLICE_SECONDS
    for item in items:
        step(item)
        if reactor.seconds() >= end:
            await deferLater(reactor, 0)
            end = reactor.seconds() + SLICE_SECONDS


def begin_in_turns(
    items: Iterable[T], step: Callable[[T], object], reactor: Any, problem: str
) -> None:
    """Begin `in_turns` with independent items, without waiting for the end.

    A failure of one step is logged and doesn't affect the others.

    :param problem: message of a failure, for example ``cannot close a file``.
    """

    def attempt(item: T) -> None:
        try:
            step(item)
        except Exception:
            _log.failure(problem)

    ensureDeferred(in_turns(items, attempt, reactor))


class Paced:
    """Limits work that uses the reactor's own time: each turn starts only a few milliseconds of it.

    See `stream.concurrency.slots.Slots` for work that runs elsewhere.

    :param at_once: maximum number of works that run concurrently.
    """

    def __init__(self, reactor: Any, at_once: int) -> None:
        self._reactor = reactor
        self._free = at_once
        self._left = SLICE_SECONDS
        self._is_starting = False
        self._is_called = False
        self._waiting: deque[_Waiting] = deque()

    def run(self, work: Callable[[], Any]) -> Deferred[Any]:
        """Return the result of *work*, which starts immediately or after earlier ones.

        Work that is cancelled while it waits doesn't start.

        :param work: returns a Deferred or a coroutine.
        """
        running: list[Deferred[Any]] = []

        def cancel(_: Deferred[Any]) -> None:
            for each in running:
                each.cancel()

        outcome: Deferred[Any] = Deferred(cancel)
        self._waiting.append((work, outcome, running))
        self._start_some()
        return outcome

    def _start_some(self) -> None:
        """Start work until the time of this turn is used up."""
        if self._is_starting:
            return  # the work that is being started has started or ended other work
        self._is_starting = True
        now = self._reactor.seconds()
        end = now + self._left
        is_used = False
        while self._waiting and self._free and now < end:
            self._start(*self._waiting.popleft())
            now, began = self._reactor.seconds(), now
            is_used = is_used or now > began
        self._is_starting = False
        if is_used:
            self._left = end - now
        if (is_used or self._left <= 0) and not self._is_called:
            self._is_called = True
            self._reactor.callLater(0, self._next_turn)

    def _next_turn(self) -> None:
        self._is_called = False
        self._left = SLICE_SECONDS
        self._start_some()

    def _start(
        self, work: Callable[[], Any], outcome: Deferred[Any], running: list[Deferred[Any]]
    ) -> None:
        if outcome.called:
            return
        self._free -= 1

        def ended(result: Any) -> None:
            self._free += 1
            if not outcome.called:
                outcome.callback(result)
            self._start_some()

        working: Deferred[Any] = maybeDeferred(work)
        running.append(working)
        working.addBoth(ended)
