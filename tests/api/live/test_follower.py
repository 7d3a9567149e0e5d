from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from stream.api.live.follower import Follower, sse
from stream.concurrency.wakeup import HEARTBEAT_SECONDS

END = b'event: end\ndata: {"reason":"%s"}\n\n'


class Caller:
    """A caller that receives events until it is blocked."""

    def __init__(self, follower: Follower) -> None:
        self.got = b""
        self.held: Deferred[None] | None = None
        self.writing = Deferred.fromCoroutine(follower.write(self.send))

    async def send(self, data: bytes) -> None:
        self.got += data
        if self.held is not None:
            await self.held


def test_events() -> None:
    """Events are written as server-sent events with an id, a name and JSON."""
    assert sse("x", {"a": 1}) == b'event: x\ndata: {"a":1}\n\n'
    assert sse("x", {}, 7) == b"id: 7\nevent: x\ndata: {}\n\n"


def test_pending_events_are_written_at_once() -> None:
    """Pending events are written at once and later ones as they occur; nothing follows the end."""
    clock = Clock()
    follower = Follower(clock)
    follower.put(b"a")
    follower.put(b"b")
    caller = Caller(follower)
    assert caller.got == b"ab"
    follower.put(b"c")
    follower.end("stopping")
    follower.end("token")
    follower.put(b"d")
    assert caller.got == b"abc" + END % b"stopping"
    assert caller.writing.called
    assert not clock.getDelayedCalls()


def test_a_slow_caller_is_dropped() -> None:
    """Pending events are dropped, and the last event contains the reason."""
    follower = Follower(Clock(), max_waiting=4)
    caller = Caller(follower)
    caller.held = Deferred()
    follower.put(b"a")
    follower.put(b"large first one", always=True)
    follower.put(b"bcde")
    assert not follower.is_ended
    follower.put(b"f")
    assert follower.is_ended
    held, caller.held = caller.held, None
    held.callback(None)
    assert caller.got == b"a" + END % b"slow"


def test_nothing_happens() -> None:
    """A comment, which is no event, keeps an idle connection open."""
    clock = Clock()
    follower = Follower(clock)
    caller = Caller(follower)
    clock.advance(HEARTBEAT_SECONDS)
    assert caller.got == b": nothing new\n\n"
    caller.writing.addErrback(lambda _: None)
    caller.writing.cancel()
    assert not clock.getDelayedCalls()
