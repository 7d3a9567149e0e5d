from __future__ import annotations

import sys

import pytest
from twisted.internet.defer import CancelledError, Deferred, succeed

from stream.concurrency.slots import Slots

MANY = 3 * sys.getrecursionlimit()


def test_the_limit_of_concurrent_work() -> None:
    """At most the given number of calls runs concurrently, in their order."""
    slots = Slots(2)
    work: list[Deferred[None]] = [Deferred() for _ in range(4)]
    begun: list[int] = []

    def begin(number: int) -> Deferred[None]:
        begun.append(number)
        return work[number]

    done = [slots.run(begin, number) for number in range(4)]
    assert begun == [0, 1]
    work[1].callback(None)
    assert begun == [0, 1, 2]
    for number in (2, 0, 3):
        work[number].callback(None)
    assert begun == [0, 1, 2, 3]
    assert all(each.called for each in done) and slots.tokens == 2


@pytest.mark.parametrize("fails", [False, True])
def test_synchronous_work_does_not_exhaust_the_stack(fails: bool) -> None:
    """All waiting work ends, regardless of its number."""
    slots = Slots(1)
    first: Deferred[None] = Deferred()
    first_done = slots.run(lambda: first)
    ended: list[object] = []

    def work() -> Deferred[None]:
        if fails:
            raise ZeroDivisionError
        return succeed(None)

    for _ in range(MANY):
        slots.run(work).addBoth(ended.append)
    first.callback(None)
    assert len(ended) == MANY and slots.tokens == 1 and not slots.waiting
    assert first_done.called


def test_a_waiter_that_is_cancelled() -> None:
    """Other waiters still get their turn."""
    slots = Slots(1)
    held = slots.acquire()
    assert held.called
    gone, waiting = slots.acquire(), slots.acquire()
    gone.addErrback(lambda failure: failure.trap(CancelledError))
    gone.cancel()
    slots.release()
    assert waiting.called
