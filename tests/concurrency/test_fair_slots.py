"""A limit of concurrent work with a share for each project."""

from __future__ import annotations

import sys

from twisted.internet.defer import CancelledError, Deferred, ensureDeferred

from stream.concurrency.fair_slots import FairSlots

MANY = 3 * sys.getrecursionlimit()


class _Work:
    """Work of several projects, each piece of which ends when the test says so."""

    def __init__(self, limit: int) -> None:
        self.slots = FairSlots(limit)
        self.begun: list[str] = []
        self.ends: dict[str, Deferred[None]] = {}

    def begin(self, name: str) -> Deferred[None]:
        """Run work; the first character of *name* is the project."""

        async def work() -> None:
            self.begun.append(name)
            await self.ends[name]

        self.ends[name] = Deferred()
        return ensureDeferred(self.slots.run(int(name[0]), work))


def test_a_project_leaves_room_for_others() -> None:
    """One project alone gets half; its other work starts in order when there is room again."""
    work = _Work(4)
    for name in ("1a", "1b", "1c", "1d", "2a", "3a"):
        work.begin(name)
    assert work.begun == ["1a", "1b", "2a", "3a"]
    work.ends["1b"].callback(None)
    assert work.begun == ["1a", "1b", "2a", "3a"]
    for name in ("2a", "3a", "1a"):
        work.ends[name].callback(None)
    assert work.begun == ["1a", "1b", "2a", "3a", "1c", "1d"]


def test_a_single_slot() -> None:
    """Projects use it one after the other."""
    work = _Work(1)
    for name in ("1a", "1b", "2a"):
        work.begin(name)
    for name in ("1a", "1b", "2a"):
        assert work.begun[-1] == name
        work.ends[name].callback(None)


def test_waiting_work_that_is_cancelled() -> None:
    """It isn't started, and keeps no slot."""
    work = _Work(1)
    work.begin("1a")
    cancelled = work.begin("1b")
    work.begin("1c")
    cancelled.cancel()
    cancelled.addErrback(lambda failure: failure.trap(CancelledError))
    work.ends["1a"].callback(None)
    assert work.begun == ["1a", "1c"]


def test_work_that_fails() -> None:
    """The next work starts, and the caller gets the failure."""
    work = _Work(1)
    failed = work.begin("1a")
    work.begin("2a")
    work.ends["1a"].errback(ValueError("broken"))
    assert work.begun == ["1a", "2a"]
    failures: list[object] = []
    failed.addErrback(lambda failure: failures.append(failure.value))
    assert [str(failure) for failure in failures] == ["broken"]


def test_much_work_that_ends_at_once() -> None:
    """It is started without nested calls."""
    work = _Work(1)
    work.begin("1first")
    done: list[int] = []

    async def at_once(number: int) -> None:
        done.append(number)

    for number in range(MANY):
        ensureDeferred(work.slots.run(2, lambda number=number: at_once(number)))  # type: ignore[misc]
    work.ends["1first"].callback(None)
    assert done == list(range(MANY))
