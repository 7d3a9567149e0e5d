"""A limit of concurrent work, of which each owner has a share."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from heapq import heapify, heappop, heappush
from itertools import count
from typing import TypeVar

from twisted.internet.defer import Deferred, ensureDeferred

from stream.values.fair_share import may_take

__all__ = ["Slots"]

T = TypeVar("T")

_OUTDATED = 100
"""Number of outdated entries of the queue that are always left in it."""


class Slots:
    """Limits work that runs elsewhere, in threads, processes or other services.

    A free slot is given to the owner that has the fewest; those that have the same number take
    turns. So the queue of one owner, however long, doesn't delay the work of another one. But one
    owner alone gets all slots, and another one then waits for the end of a piece of work. If this
    may take long, use *keeps_room*.

    :param limit: maximum number of concurrent pieces of work.
    :param keeps_room: whether an owner may have only as many slots as are free; see Note [Shares]
        of `stream.values.fair_share`.
    """

    def __init__(self, limit: int, *, keeps_room: bool = False) -> None:
        self._limit = limit
        self._keeps_room = keeps_room
        self._taken = 0
        self._running: Counter[Hashable] = Counter()
        self._served: dict[Hashable, int] = {}
        """When each owner got its last slot, as long as it has work."""
        self._waiting: dict[Hashable, OrderedDict[Deferred[None], int]] = {}
        self._queue: list[tuple[int, int, int, Hashable]] = []
        """Owners with waiting work, the next one first; entries with an old order are outdated."""
        self._numbers = count()
        self._is_handing_on = False

    def run(self, work: Callable[[], Awaitable[T]], owner: Hashable = None) -> Deferred[T]:
        """Return the result of *work*, which starts immediately or after earlier work has ended.

        Work that is cancelled while it waits doesn't start.

        :param owner: the owner of the work, for example a project.
        """
        return ensureDeferred(self._run(work, owner))

    async def _run(self, work: Callable[[], Awaitable[T]], owner: Hashable) -> T:
        # New work never overtakes older work of the same owner.
        if self._may_start(owner) and owner not in self._waiting:
            self._take(owner)
        else:
            turn: Deferred[None] = Deferred(lambda turn: self._forget(turn, owner))
            self._waiting.setdefault(owner, OrderedDict())[turn] = next(self._numbers)
            if len(self._waiting[owner]) == 1:
                self._enter(owner)
            await turn
        try:
            return await work()
        finally:
            self._release(owner)
            self._hand_on()

    def _may_start(self, owner: Hashable) -> bool:
        if self._keeps_room:
            return may_take(self._running[owner], self._taken, self._limit)
        return self._taken < self._limit

    def _take(self, owner: Hashable) -> None:
        self._taken += 1
        self._running[owner] += 1
        self._served[owner] = next(self._numbers)

    def _release(self, owner: Hashable) -> None:
        self._taken -= 1
        self._running[owner] -= 1
        if not self._running[owner]:
            del self._running[owner]
        self._enter(owner)
        self._forget_served(owner)

    def _forget(self, turn: Deferred[None], owner: Hashable) -> None:
        turns = self._waiting.get(owner)
        if turns is None or turns.pop(turn, None) is None:
            return
        if turns:
            self._enter(owner)
        else:
            del self._waiting[owner]
            self._forget_served(owner)

    def _forget_served(self, owner: Hashable) -> None:
        if owner not in self._waiting and owner not in self._running:
            self._served.pop(owner, None)

    def _hand_on(self) -> None:
        """Start work that waits; a loop, because work may end as soon as it is started.

        Otherwise the nested calls of a thousand pieces of work that fail at once, for example
        because a lease has expired, would exceed the recursion limit.
        """
        if self._is_handing_on:
            return
        self._is_handing_on = True
        try:
            while self._has_next():
                owner = self._queue[0][-1]
                turn = next(iter(self._waiting[owner]))
                self._take(owner)
                self._forget(turn, owner)
                turn.callback(None)
        finally:
            self._is_handing_on = False

    def _has_next(self) -> bool:
        """Return whether work may start; its owner is then the first of the queue.

        If the owner with the fewest slots may not have another one, no owner may.
        """
        while self._queue:
            *order, _, owner = self._queue[0]
            if owner in self._waiting and tuple(order) == self._order(owner):
                return self._may_start(owner)
            heappop(self._queue)
        return False

    def _enter(self, owner: Hashable) -> None:
        """Put an owner that has waiting work at its place in the queue."""
        if owner not in self._waiting:
            return
        heappush(self._queue, (*self._order(owner), next(self._numbers), owner))
        if len(self._queue) > 2 * len(self._waiting) + _OUTDATED:
            self._queue = [
                (*self._order(each), next(self._numbers), each) for each in self._waiting
            ]
            heapify(self._queue)

    def _order(self, owner: Hashable) -> tuple[int, int]:
        oldest = next(iter(self._waiting[owner].values()))
        return self._running[owner], max(oldest, self._served.get(owner, 0))
