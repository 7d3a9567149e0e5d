"""Races with an outcome that doesn't depend on timing.

Each operation reads its input, up to its first write. When all have read, they continue one after
the other. So the operations, not the network, determine whether one misses another's writes.
"""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from contextvars import ContextVar
from typing import Any, TypeVar

import attrs
from twisted.internet.defer import Deferred, DeferredList, ensureDeferred

__all__ = ["at_its_turn", "race", "takes_lock"]

T = TypeVar("T")


@attrs.define(eq=False)
class _Runner:
    """One operation of a race.

    :ivar locks: names of the locks that operations of the race have requested.
    :ivar stopped: fires before its first write, when it waits for a lock, or at its end.
    :ivar turn: fires when it may write.
    """

    locks: set[str]
    stopped: Deferred[None] = attrs.Factory(Deferred)
    turn: Deferred[None] = attrs.Factory(Deferred)

    def stop(self) -> None:
        if not self.stopped.called:
            self.stopped.callback(None)


_runner: ContextVar[_Runner | None] = ContextVar("runner", default=None)


async def race(operations: Sequence[Coroutine[Any, Any, Any]]) -> list[Any]:
    """Run all *operations*, and return their results or `Failure`s in order."""
    locks: set[str] = set()
    runners = [_Runner(locks) for _ in operations]
    running: list[Deferred[Any]] = []

    async def run(runner: _Runner, operation: Coroutine[Any, Any, Any]) -> Any:
        _runner.set(runner)
        try:
            return await operation
        finally:
            runner.stop()

    for runner, operation in zip(runners, operations, strict=True):
        running.append(ensureDeferred(run(runner, operation)))
        await runner.stopped
    results = []
    for runner, done in zip(runners, running, strict=True):
        runner.turn.callback(None)
        ((_, result),) = await DeferredList([done], consumeErrors=True)
        results.append(result)
    return results


async def at_its_turn(writing: Coroutine[Any, Any, T]) -> T:
    """Run *writing* when the current operation may write; at once if it isn't in a race."""
    runner = _runner.get()
    if runner is not None:
        runner.stop()
        if not runner.turn.called:
            await runner.turn
    return await writing


def takes_lock(name: str) -> None:
    """Report that the current operation is about to wait for a lock that others may hold."""
    runner = _runner.get()
    if runner is None:
        return
    if name in runner.locks:
        runner.stop()
    runner.locks.add(name)
