"""A limit of concurrent work, of which each project has a share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TypeVar

from twisted.internet.defer import Deferred

from stream.values.fair_share import may_take

__all__ = ["FairSlots"]

T = TypeVar("T")


class FairSlots:
    """Runs work of projects; work beyond the share of its project waits.

    The oldest work that may start is started first. See Note [Shares] of
    `stream.values.fair_share`.

    :param limit: maximum number of concurrent pieces of work.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._running: Counter[int] = Counter()
        self._waiting: dict[Deferred[None], int] = {}
        self._is_handing_on = False

    async def run(self, project_id: int, work: Callable[[], Awaitable[T]]) -> T:
        """Return the result of *work* of a project; cancelling it while it waits is possible."""
        # New work never overtakes older work of the same project.
        if self._may_start(project_id) and project_id not in self._waiting.values():
            self._running[project_id] += 1
        else:
            turn: Deferred[None] = Deferred(self._forget)
            self._waiting[turn] = project_id
            await turn
        try:
            return await work()
        finally:
            self._running[project_id] -= 1
            self._hand_on()

    def _may_start(self, project_id: int) -> bool:
        return may_take(self._running[project_id], self._running.total(), self._limit)

    def _forget(self, turn: Deferred[None]) -> None:
        self._waiting.pop(turn, None)

    def _hand_on(self) -> None:
        """Start work that waits; a loop, because work may end as soon as it is started."""
        if self._is_handing_on:
            return
        self._is_handing_on = True
        try:
            while (turn := self._next()) is not None:
                self._running[self._waiting.pop(turn)] += 1
                turn.callback(None)
        finally:
            self._is_handing_on = False
        self._running = +self._running

    def _next(self) -> Deferred[None] | None:
        return next((turn for turn, of in self._waiting.items() if self._may_start(of)), None)
