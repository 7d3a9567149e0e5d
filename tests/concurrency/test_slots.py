"""A limit of concurrent work with a share for each owner."""

from __future__ import annotations

import sys
from collections.abc import Hashable
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred, succeed

from stream.concurrency.slots import Slots

MANY = 3 * sys.getrecursionlimit()


class _Work:
    """Work of several owners, each piece of which ends when the test says so."""

    def __init__(self, limit: int, *, keeps_room: bool = False) -> None:
        self.slots = Slots(limit, keeps_room=keeps_room)
        self.begun: list[str] = []
        self.ends: dict[str, Deferred[None]] = {}

    def begin(self, *names: str) -> list[Deferred[None]]:
        """Run work; the first character of each name is the owner."""
        return [self.slots.run(partial(self._work, name), name[0]) for name in names]

    def _work(self, name: str) -> Deferred[None]:
        self.begun.append(name)
        self.ends[name] = Deferred()
        return self.ends[name]

    def end(self, *names: str) -> None:
        for name in names:
            self.ends[name].callback(None)


def test_the_limit_of_concurrent_work() -> None:
    """At most the given number of pieces of work run concurrently, in their order."""
    work = _Work(2)
    done = work.begin("1a", "1b", "1c", "1d")
    assert work.begun == ["1a", "1b"]
    work.end("1b")
    assert work.begun == ["1a", "1b", "1c"]
    work.end("1c", "1a", "1d")
    assert work.begun == ["1a", "1b", "1c", "1d"]
    assert all(each.called for each in done)
    work.begin("1e", "1f")
    assert work.begun[4:] == ["1e", "1f"]


def test_work_without_an_owner() -> None:
    """It starts in its order."""
    slots, first = Slots(1), Deferred[None]()
    ended: list[str] = []
    slots.run(lambda: first).addCallback(lambda _: ended.append("first"))
    slots.run(lambda: succeed("second")).addCallback(ended.append)
    assert ended == []
    first.callback(None)
    assert sorted(ended) == ["first", "second"]


def test_the_owner_with_the_fewest_is_next() -> None:
    """A long queue of one owner doesn't delay the work of others, and no slot is idle."""
    work = _Work(3)
    work.begin("1a", "1b", "1c", "1d", "1e", "2a", "2b", "3a")
    assert work.begun == ["1a", "1b", "1c"]
    for name in ("1a", "1b", "1c", "2a"):
        work.end(name)
    assert work.begun[3:] == ["2a", "3a", "1d", "2b"]
    work.end("3a")
    assert work.begun[7:] == ["1e"]


def test_an_owner_keeps_room_for_others() -> None:
    """One owner alone gets half; its other work starts in order when there is room again."""
    work = _Work(4, keeps_room=True)
    work.begin("1a", "1b", "1c", "1d", "2a", "3a")
    assert work.begun == ["1a", "1b", "2a", "3a"]
    work.end("1b")
    assert work.begun == ["1a", "1b", "2a", "3a"]
    work.end("2a", "3a", "1a")
    assert work.begun == ["1a", "1b", "2a", "3a", "1c", "1d"]


class _Checked(Slots):
    """Compares each choice with that of a search through all owners.

    :ivar compared: number of orders that were computed.
    """

    compared = 0

    def _order(self, owner: Hashable) -> tuple[int, int]:
        self.compared += 1
        return super()._order(owner)

    def _has_next(self) -> bool:
        has_next = super()._has_next()
        ready = [owner for owner in self._waiting if self._may_start(owner)]
        assert has_next == bool(ready)
        if ready:
            assert self._queue[0][-1] == min(ready, key=super()._order)
        return has_next


@given(
    st.integers(1, 5),
    st.booleans(),
    st.lists(st.tuples(st.sampled_from(["run", "end", "cancel"]), st.integers(0, 9)), max_size=150),
)
def test_the_next_owner(limit: int, keeps_room: bool, steps: list[tuple[str, int]]) -> None:
    """The queue has the same first owner as a search, whatever begins, ends or is cancelled."""
    slots = _Checked(limit, keeps_room=keeps_room)
    running: list[Deferred[None]] = []
    waited: list[Deferred[None]] = []

    def work() -> Deferred[None]:
        running.append(Deferred())
        return running[-1]

    for step, number in steps:
        if step == "run":
            waited.append(slots.run(work, number or None))
            waited[-1].addErrback(lambda failure: failure.trap(CancelledError))
        elif step == "cancel" and waited:
            waited.pop(number % len(waited)).cancel()
        elif running:
            ending = running.pop(number % len(running))
            if not ending.called:
                ending.callback(None)
    while running:
        ending = running.pop()
        if not ending.called:
            ending.callback(None)
    assert not slots._waiting and not slots._taken and not slots._served


def test_many_owners() -> None:
    """The choice of the next owner doesn't take longer if thousands wait."""
    slots = _Checked(1)
    first: Deferred[None] = Deferred()
    slots.run(lambda: first)
    ends: list[Deferred[None]] = [Deferred() for _ in range(1000)]
    for owner, end in enumerate(ends):
        slots.run(partial(_same, end), owner)
    slots.compared = 0
    first.callback(None)
    for end in ends[:10]:
        end.callback(None)
    assert slots.compared < 100
    for end in ends[10:]:
        end.callback(None)


def _same(end: Deferred[None]) -> Deferred[None]:
    return end


@pytest.mark.parametrize("keeps_room", [False, True])
def test_a_single_slot(keeps_room: bool) -> None:
    """Owners take turns, also if new ones come again and again."""
    work = _Work(1, keeps_room=keeps_room)
    work.begin("1a", "1b", "1c", "2a", "2b", "3a")
    for owner in "456789":
        work.begin(f"{owner}a")
        work.end(work.begun[-1])
    work.end(work.begun[-1])
    assert work.begun == ["1a", "1b", "2a", "3a", "4a", "1c", "5a", "2b"]


def test_waiting_work_that_is_cancelled() -> None:
    """It isn't started, and keeps no slot."""
    work = _Work(1)
    _, cancelled, _, last = work.begin("1a", "1b", "1c", "2a")
    for each in (cancelled, last):
        each.cancel()
        each.addErrback(lambda failure: failure.trap(CancelledError))
    work.end("1a")
    assert work.begun == ["1a", "1c"]
    work.end("1c")
    assert not work.slots._waiting and not work.slots._running and not work.slots._served


def test_running_work_that_is_cancelled() -> None:
    """It is cancelled itself, and the next work starts."""
    work = _Work(1)
    cancelled, _ = work.begin("1a", "1b")
    cancelled.cancel()
    cancelled.addErrback(lambda failure: failure.trap(CancelledError))
    assert work.ends["1a"].called and work.begun == ["1a", "1b"]


def test_work_that_fails() -> None:
    """The next work starts, and the caller gets the failure."""
    work = _Work(1)
    failed, _ = work.begin("1a", "2a")
    work.ends["1a"].errback(ValueError("broken"))
    assert work.begun == ["1a", "2a"]
    failures: list[object] = []
    failed.addErrback(lambda failure: failures.append(failure.value))
    assert [str(failure) for failure in failures] == ["broken"]


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
    assert len(ended) == MANY and not slots._waiting and not slots._taken
    assert first_done.called
