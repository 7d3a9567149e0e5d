"""Items that are asked for together."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from stream.concurrency.gathered import Gathered


class _Calls:
    """Calls that the test answers.

    :ivar made: the items and the answer of each call.
    """

    def __init__(self) -> None:
        self.made: list[tuple[Sequence[int], Deferred[Sequence[str | Exception]]]] = []

    async def __call__(self, items: Sequence[int]) -> Sequence[str | Exception]:
        answer: Deferred[Sequence[str | Exception]] = Deferred()
        self.made.append((items, answer))
        return await answer

    @property
    def items(self) -> list[list[int]]:
        return [list(items) for items, _ in self.made]


def _result(asked: Deferred[str]) -> str:
    found: list[str] = []
    asked.addCallback(found.append)
    (result,) = found
    return result


def test_items_wait_for_the_next_call() -> None:
    """The first ones are asked for immediately, all others together."""
    calls = _Calls()
    gathered = Gathered(calls, most=3, at_once=2)
    asked = [gathered.ask(item) for item in range(8)]
    assert calls.items == [[0], [1]]
    calls.made[0][1].callback(["a"])
    assert calls.items == [[0], [1], [2, 3, 4]]
    assert _result(asked[0]) == "a"
    calls.made[1][1].callback(["b"])
    assert calls.items[3:] == [[5, 6, 7]]
    calls.made[3][1].callback(["f", "g", "h"])
    assert [_result(each) for each in asked[5:]] == ["f", "g", "h"]
    assert not asked[2].called
    calls.made[2][1].callback(["c", "d", "e"])
    gathered.ask(9)
    assert calls.items[4:] == [[9]]


def test_a_failure_of_one_item() -> None:
    """The other items of the call have their results."""
    calls = _Calls()
    gathered = Gathered(calls, most=2, at_once=1)
    first, second, third = (gathered.ask(item) for item in range(3))
    calls.made[0][1].callback([ValueError("no")])
    calls.made[1][1].callback(["b", "c"])
    with pytest.raises(ValueError, match="no"):
        _raise(first)
    assert [_result(second), _result(third)] == ["b", "c"]


def test_a_failure_of_a_call() -> None:
    """All its items fail, and the next call is made."""
    calls = _Calls()
    gathered = Gathered(calls, most=2, at_once=1)
    asked = [gathered.ask(item) for item in range(4)]
    calls.made[0][1].callback(["a"])
    calls.made[1][1].errback(ValueError("no"))
    assert calls.items == [[0], [1, 2], [3]]
    for each in asked[1:3]:
        with pytest.raises(ValueError, match="no"):
            _raise(each)
    calls.made[2][1].callback(["d"])
    assert _result(asked[3]) == "d"


def test_a_call_with_too_few_results() -> None:
    """All its items fail instead of waiting forever, and the next call is made."""
    calls = _Calls()
    gathered = Gathered(calls, most=2, at_once=1)
    asked = [gathered.ask(item) for item in range(4)]
    calls.made[0][1].callback(["a"])
    calls.made[1][1].callback(["b"])
    for each in asked[1:3]:
        with pytest.raises(ValueError, match="1 results for 2 items"):
            _raise(each)
    assert calls.items[2:] == [[3]]


def test_a_cancelled_item() -> None:
    """It isn't asked for; if it already was, its result is ignored."""
    calls = _Calls()
    gathered = Gathered(calls, most=2, at_once=1)
    asked = [gathered.ask(item) for item in range(4)]
    for each in asked[:2]:
        each.cancel()
        with pytest.raises(CancelledError):
            _raise(each)
    calls.made[0][1].callback(["a"])
    assert calls.items == [[0], [2]]
    calls.made[1][1].callback(["c"])
    assert calls.items[2:] == [[3]]


def _raise(asked: Deferred[str]) -> None:
    failures: list[BaseException | None] = []

    def keep(failure: Failure) -> str:
        failures.append(failure.value)
        return ""

    asked.addErrback(keep)
    (error,) = failures
    assert error is not None
    raise error
