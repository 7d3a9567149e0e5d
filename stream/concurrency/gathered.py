"""One call for several items that are asked for at about the same time.

Thousands of sinks that are opened or closed together each need something from etcd. One request for
each of them would take more time than the work itself, and would delay the keep-alive of the lease.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.python.failure import Failure

__all__ = ["Gathered"]

T = TypeVar("T")
R = TypeVar("R")


class Gathered(Generic[T, R]):
    """Limits calls that can be made for many items at once: items that wait share the next call.

    An item is asked for immediately if fewer than *at_once* calls are running. Otherwise it waits
    for the next call, together with all others that wait. So each call begins after its items were
    asked for.

    :param call: returns the results of its items, in order. An exception among the results is the
        failure of its item; an exception that the call raises is the failure of all its items.
    :param most: maximum number of items in a call.
    :param at_once: maximum number of concurrent calls.
    """

    def __init__(
        self,
        call: Callable[[Sequence[T]], Awaitable[Sequence[R | Exception]]],
        *,
        most: int,
        at_once: int,
    ) -> None:
        self._call = call
        self._most = most
        self._left = at_once
        self._waiting: deque[tuple[T, Deferred[R]]] = deque()

    def ask(self, item: T) -> Deferred[R]:
        """Return the result of *item*. A cancelled item that still waits isn't asked for."""
        result: Deferred[R] = Deferred()
        self._waiting.append((item, result))
        if self._left:
            self._left -= 1
            ensureDeferred(self._work())
        return result

    async def _work(self) -> None:
        """Make one call after another, until no item waits."""
        try:
            while self._waiting:
                some = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
                asked = [(item, result) for item, result in some if not result.called]
                if asked:
                    await self._ask([item for item, _ in asked], [result for _, result in asked])
        finally:
            self._left += 1

    async def _ask(self, items: Sequence[T], results: Sequence[Deferred[R]]) -> None:
        answers: Sequence[R | Exception | Failure]
        try:
            answers = await self._call(items)
            if len(answers) != len(items):
                raise ValueError(f"{len(answers)} results for {len(items)} items")
        except Exception:
            answers = [Failure()] * len(items)
        for result, answer in zip(results, answers, strict=True):
            if result.called:
                continue  # no caller waits for it any longer
            if isinstance(answer, Exception | Failure):
                result.errback(answer)
            else:
                result.callback(answer)
