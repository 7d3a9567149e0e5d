"""The queue of one caller that tails a source."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from stream.concurrency.wakeup import HEARTBEAT_SECONDS
from stream.tail.watch import MAX_WAITING_BYTES, NOTICE_SECONDS, Watch
from tests.tail.test_sampler import SOURCE as KEY


def test_the_limit_is_shared() -> None:
    """With many callers, the limit of each is smaller."""
    clock = Clock()
    watch = Watch(clock, KEY, None, lambda: 1000)
    watch.put([b"x" * 400] * 3, 0, 0)
    assert (watch._bytes, watch._overflow) == (800, 1)


class Slow:
    """A caller that takes one event at a time on request."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.turn: Deferred[None] = Deferred()

    async def send(self, data: bytes) -> None:
        self.sent.append(data)
        await self.turn

    def go_on(self) -> None:
        turn, self.turn = self.turn, Deferred()
        turn.callback(None)


def test_a_slow_caller_has_bounded_memory() -> None:
    """Records that a slow caller doesn't read in time are counted instead of kept."""
    clock, slow = Clock(), Slow()
    watch = Watch(clock, KEY, None)
    writing = Deferred.fromCoroutine(watch.write(slow.send))
    large = b"x" * (MAX_WAITING_BYTES // 4)
    watch.put([b"{}"], 0, 0)
    for _ in range(6):
        watch.put([large], 0, 0)
    watch.end("duration")
    while not writing.called:
        slow.go_on()
    names = [data.split(b"\n")[0] for data in slow.sent]
    assert names == [b"event: record"] * 5 + [b"event: dropped", b"event: end"]
    assert b'"overflow":2' in slow.sent[-2]


def test_a_busy_caller_learns_what_was_left_out() -> None:
    """The notice comes within a second, also if there is always a next record."""
    clock, slow = Clock(), Slow()
    watch = Watch(clock, KEY, None)
    Deferred.fromCoroutine(watch.write(slow.send))
    watch.put([b"{}"] * 100, 3, 0)
    for _ in range(40):
        clock.advance(NOTICE_SECONDS / 10)
        watch.put([b"{}"], 1, 0)
        slow.go_on()
    places = [n for n, data in enumerate(slow.sent) if data.startswith(b"event: dropped")]
    assert len(places) >= 3
    assert places[0] <= 11
    assert watch._waiting


def test_an_idle_source_sends_a_heartbeat() -> None:
    """Heartbeats distinguish an idle source from a dead connection."""
    clock, slow = Clock(), Slow()
    watch = Watch(clock, KEY, None)
    writing = Deferred.fromCoroutine(watch.write(slow.send))
    clock.advance(HEARTBEAT_SECONDS)
    assert slow.sent == [b": nothing new\n\n"]
    slow.go_on()
    watch.end("duration")
    slow.go_on()
    assert writing.called
    assert not clock.getDelayedCalls()
