"""Work in time slices that all sources share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from stream.errors import UserError
from stream.ops.process.between import BetweenClients
from stream.source.turns import ROOM_SECONDS, SHARES, SLICE_SECONDS, Steps, Turns


class SlowClock(Clock):
    """A clock by which each step of work takes a fifth of a slice."""

    def __init__(self) -> None:
        super().__init__()
        self.between = BetweenClients()

    def work(self) -> None:
        self.rightNow += SLICE_SECONDS / 5


@pytest.fixture
def clock() -> SlowClock:
    return SlowClock()


def steps(clock: SlowClock, log: list[str], name: str, count: int) -> Iterator[None]:
    for _ in range(count):
        log.append(name)
        clock.work()
        yield


def test_short_work_is_done_at_once(clock: SlowClock) -> None:
    """A small batch doesn't wait for the next turn."""
    log: list[str] = []
    done = Turns(clock).work("a", 1, steps(clock, log, "a", 3))
    assert (log, done.called) == (["a"] * 3, True)


def test_all_work_shares_the_slice(clock: SlowClock) -> None:
    """Work added in the same turn is included; the next turn has a whole slice."""
    turns, log = Turns(clock), list[str]()
    for name in "abc":
        turns.work(name, 1, steps(clock, log, name, 3))
    assert len(log) == 5
    clock.advance(0)
    assert len(log) == 9


def test_work_waits_for_capacity(clock: SlowClock) -> None:
    """Waiting work checks the capacity again, since others may have used it."""
    rooms = [Deferred[None](), Deferred[None]()]
    asked = iter([*rooms, None])
    turns = Turns(clock)
    done = turns.work("a", 1, turns.patience(1.0).until_room(lambda: next(asked)))
    for room in rooms:
        assert not done.called
        room.callback(None)
    assert done.called


def test_sinks_share_the_time_of_a_request(clock: SlowClock) -> None:
    """It waits for none of them any more once the time is used up."""
    turns = Turns(clock)
    patience = turns.patience(ROOM_SECONDS)
    asked: list[Deferred[None]] = []

    def ask() -> Deferred[None]:
        asked.append(Deferred())
        return asked[-1]

    def wait() -> Steps:
        for _ in range(100):
            yield from patience.until_room(ask)

    done = turns.work("a", 10, wait())
    clock.advance(ROOM_SECONDS / 2)
    asked[-1].callback(None)
    clock.advance(ROOM_SECONDS / 2)
    clock.advance(0)
    assert done.called
    assert len(asked) == 2


def test_work_does_not_wait_forever(clock: SlowClock) -> None:
    """The work fails after a time limit, and counts as held until then."""
    turns = Turns(clock, max_held_bytes=10)
    done = turns.work("a", 10, turns.patience(ROOM_SECONDS).until_room(Deferred))
    clock.advance(ROOM_SECONDS - 1)
    assert turns.is_full
    assert not done.called
    clock.advance(1)
    clock.advance(0)
    assert done.called
    assert not turns.is_full


def test_sources_take_turns(clock: SlowClock) -> None:
    """A source with much work delays only itself."""
    turns, log = Turns(clock), list[str]()
    turns.work("busy", 1, steps(clock, log, "busy", 5))
    for _ in range(9):
        turns.work("busy", 1, steps(clock, log, "busy", 20))
    turns.work("other", 1, steps(clock, log, "other", 2))
    clock.advance(0)
    assert log[5:10].count("other") == 2


def test_waiting_work_does_not_block_others(clock: SlowClock) -> None:
    """Other work continues meanwhile."""
    turns, log = Turns(clock), list[str]()
    waited: Deferred[None] = Deferred()

    def waiting() -> Iterator[Deferred[None] | None]:
        yield waited
        log.append("went on")

    done = turns.work("a", 1, waiting())
    turns.work("a", 1, steps(clock, log, "b", 1))
    assert (log, done.called) == (["b"], False)
    waited.callback(None)
    assert (log, done.called) == (["b", "went on"], True)


def test_an_error_ends_only_its_own_work(clock: SlowClock) -> None:
    """The caller gets the error, and the bytes are no longer held."""
    turns, log = Turns(clock, max_held_bytes=10), list[str]()

    def broken() -> Iterator[None]:
        yield
        raise ValueError("broken")

    failures: list[Any] = []
    turns.work("a", 10, broken()).addErrback(failures.append)
    turns.work("a", 10, steps(clock, log, "b", 1))
    assert failures[0].check(ValueError)
    assert log == ["b"]


def test_held_bytes_are_limited(clock: SlowClock) -> None:
    """The limits apply to each source and to all of them; a single body is always accepted."""
    turns, log = Turns(clock, max_held_bytes=100), list[str]()
    ended: list[bool] = []
    turns.ended = lambda: ended.append(turns.is_full)
    turns.work("a", 1000, steps(clock, log, "a", 6))
    assert turns.is_full
    for key in "ab":
        with pytest.raises(UserError, match="please try again") as caught:
            turns.work(key, 1, steps(clock, log, key, 1))
        assert (caught.value.status, caught.value.name) == (503, "overloaded")
    clock.advance(0)
    assert ended == [False]
    turns.work("a", 100 // SHARES, steps(clock, log, "a", 6))
    with pytest.raises(UserError):
        turns.work("a", 1, steps(clock, log, "a", 1))
    with pytest.raises(UserError):
        turns.work("b", 76, steps(clock, log, "b", 1))
    turns.work("b", 75, steps(clock, log, "b", 6))
    assert turns.is_full
    for _ in range(9):
        clock.advance(0)
    assert not turns.is_full and len(ended) == 3


def test_calls_between_the_steps_of_a_turn(clock: SlowClock) -> None:
    """A result of the disk doesn't wait for the end of the slice."""
    log: list[str] = []
    turns = Turns(clock)
    clock.between.watch(lambda: log.append("checked"))
    turns.work("a", 1, steps(clock, log, "a", 10))
    assert "checked" not in log  # the caller may be a client
    del log[:]
    clock.advance(0)
    assert log[:4] == ["a", "checked", "a", "checked"]
