"""Concurrent work whose results are collected."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred

from stream.concurrency.together import together


def _run(*waiting: Deferred[Any]) -> tuple[Deferred[Any], list[Any]]:
    async def one(deferred: Deferred[Any]) -> Any:
        return await deferred

    async def all_() -> Any:
        return await together(*map(one, waiting))

    ended: list[Any] = []
    running = Deferred.fromCoroutine(all_()).addBoth(ended.append)
    return running, ended


def test_the_order_of_results() -> None:
    """Results have the order of the work, whichever ends first."""
    first, second = Deferred[str](), Deferred[str]()
    _, ended = _run(first, second)
    second.callback("second")
    assert ended == []
    first.callback("first")
    assert ended == [["first", "second"]]
    assert _run()[1] == [[]]


def test_a_failure_waits_for_the_others() -> None:
    """The first failure in order is raised, and the others aren't logged as unhandled."""
    first, second, third = Deferred[None](), Deferred[None](), Deferred[None]()
    _, ended = _run(first, second, third)
    third.errback(ValueError("third"))
    second.errback(ValueError("second"))
    assert ended == []
    first.callback(None)
    with pytest.raises(ValueError, match="second"):
        ended[0].raiseException()


def test_cancelling() -> None:
    """Cancelling stops all unfinished work."""
    first, second = Deferred[None](), Deferred[None]()
    running, ended = _run(first, second)
    running.cancel()
    assert first.called and second.called
    assert ended[0].check(CancelledError)
