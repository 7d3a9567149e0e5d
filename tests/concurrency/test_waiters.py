"""Waiters for an event, which fires each of them once."""

from __future__ import annotations

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from stream.concurrency.waiters import Waiters, ended


def _results(*deferreds: Deferred[int]) -> list[object]:
    found: list[object] = []
    for deferred in deferreds:
        deferred.addBoth(lambda r: found.append(r.type if isinstance(r, Failure) else r))
    return found


def test_all_are_fired_together() -> None:
    """Waiters fire in order; later waiters are fired by the next event."""
    waiters = Waiters[int]()
    found = _results(waiters.wait(), waiters.wait())
    assert (len(waiters), found) == (2, [])
    waiters.fire(1)
    assert (len(waiters), found) == (0, [1, 1])
    later = _results(waiters.wait())
    waiters.fire(2)
    assert (found, later) == ([1, 1], [2])


def test_a_cancelled_waiter_is_forgotten() -> None:
    """A cancelled waiter fails, and the others are fired."""
    waiters = Waiters[int]()
    first, second = waiters.wait(), waiters.wait()
    found = _results(first, second)
    first.cancel()
    assert (len(waiters), found) == (1, [CancelledError])
    waiters.fire(1)
    assert found == [CancelledError, 1]


def test_a_waiter_that_is_cancelled_by_another() -> None:
    """An event that makes a waiter cancel the next one doesn't fire it twice."""
    waiters = Waiters[int]()
    first, second = waiters.wait(), waiters.wait()
    first.addCallback(lambda _: second.cancel())
    found = _results(second)
    waiters.fire(1)
    assert found == [CancelledError]


def test_waiting_again_during_an_event() -> None:
    """A waiter that waits again waits for the next event."""
    waiters = Waiters[int]()
    again: list[Deferred[int]] = []
    waiters.wait().addCallback(lambda _: again.append(waiters.wait()))
    waiters.fire(1)
    assert len(waiters) == len(again) == 1
    assert not again[0].called


def test_all_fail_or_are_cancelled() -> None:
    """All waiters get the same failure."""
    waiters = Waiters[int]()
    found = _results(waiters.wait(), waiters.wait())
    waiters.fail(ValueError("no"))
    cancelled = _results(waiters.wait(), waiters.wait())
    waiters.cancel()
    assert found == [ValueError, ValueError]
    assert cancelled == [CancelledError, CancelledError]


@pytest.mark.parametrize("result", [3, ValueError("no")])
def test_the_end_of_another_deferred(result: object) -> None:
    """The other Deferred keeps its own result."""
    other: Deferred[object] = Deferred()
    waiter = ended(other)
    found: list[object] = []
    other.addBoth(found.append)
    assert not waiter.called
    if isinstance(result, Exception):
        other.errback(result)
        assert isinstance(found[0], Failure)
    else:
        other.callback(result)
        assert found == [result]
    assert waiter.result is None


def test_cancelling_does_not_affect_the_other_deferred() -> None:
    """The other Deferred continues."""
    other: Deferred[int] = Deferred()
    waiter = ended(other)
    waiter.addErrback(lambda failure: failure.trap(CancelledError) and None)
    waiter.cancel()
    assert not other.called
    other.callback(1)
    assert other.result == 1
