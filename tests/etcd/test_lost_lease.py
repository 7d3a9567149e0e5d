"""How soon a session gets another lease, with an etcd that answers when the test says so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs
import pytest
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import Clock

from stream.etcd import EtcdError, EtcdUnavailable, Session

TTL = 9


@attrs.frozen(eq=False)
class _Call:
    method: str
    at: float
    answer: Deferred[dict[str, Any]]


class _Etcd:
    """Takes the place of the client.

    :ivar calls: those without an answer, the oldest first.
    :ivar doubts: times of requests without an answer, after which etcd was doubted.
    """

    namespace = ""

    def __init__(self, clock: Clock) -> None:
        self.calls: list[_Call] = []
        self.doubts: list[float] = []
        self._clock = clock

    def doubt(self, since: float) -> None:
        self.doubts.append(since)

    async def call(self, method: str, body: Any, **_: Any) -> dict[str, Any]:
        call = _Call(method, self._clock.seconds(), Deferred(lambda _: None))
        self.calls.append(call)
        try:
            return await call.answer
        finally:
            self.calls.remove(call)

    @property
    def methods(self) -> list[str]:
        return [call.method for call in self.calls]

    def answer(self, **answer: Any) -> None:
        self.calls[0].answer.callback(answer)

    def refuse(self) -> None:
        self.calls[0].answer.errback(EtcdUnavailable("no connection"))


@attrs.define(eq=False)
class World:
    """A session that has a lease."""

    clock: Clock
    etcd: _Etcd
    session: Session
    heard: list[str]

    def lose(self) -> None:
        """Let the lease end while a keep-alive has no answer."""
        self.clock.advance(TTL / 3)
        assert self.etcd.methods == ["lease/keepalive"]
        self.clock.advance(TTL)
        assert self.heard == ["lost"]

    def next_call(self, seconds: float) -> str:
        """Return the next call, which must be made within some seconds."""
        self.clock.pump([0.01] * round(seconds * 100))
        return self.etcd.methods[0]


@pytest.fixture
def world() -> Iterator[World]:
    clock = Clock()
    etcd = _Etcd(clock)
    session = Session(etcd, ttl=TTL, reactor=clock)  # type: ignore[arg-type]
    heard: list[str] = []
    session.on_lost.append(lambda: heard.append("lost"))
    session.on_renewed.append(lambda: heard.append("renewed"))
    starting = ensureDeferred(session.startService())
    etcd.answer(ID="7")
    assert starting.called
    yield World(clock, etcd, session, heard)
    ending = ensureDeferred(session.stopService())
    while etcd.calls:
        etcd.answer()
    assert ending.called


def test_a_keep_alive_without_an_answer_ends_with_its_lease(world: World) -> None:
    """The process was paused, or etcd is unreachable: the next lease doesn't wait for it."""
    world.lose()
    assert world.next_call(0.1) == "lease/grant"
    assert "lease/keepalive" not in world.etcd.methods


def test_a_refused_request_is_repeated_soon(world: World) -> None:
    """However long etcd refuses connections, the next attempt comes soon."""
    world.lose()
    for _ in range(20):
        assert world.next_call(0.35) == "lease/grant"
        world.etcd.refuse()
    assert world.next_call(0.35) == "lease/grant"
    world.etcd.answer(ID="8")
    assert world.etcd.methods == ["lease/revoke"]
    world.etcd.answer()
    assert world.heard == ["lost", "renewed"]
    assert world.session.lease_id == 8


def test_a_lease_is_requested_again_while_there_is_no_answer(world: World) -> None:
    """A connection that was made while etcd was unreachable may never answer."""
    world.lose()
    world.clock.pump([0.01] * 100)
    assert world.etcd.methods == ["lease/grant"] * 4
    world.etcd.calls[-1].answer.callback({"ID": "9"})
    assert world.etcd.methods == ["lease/revoke"]
    assert world.session.lease_id == 9


def test_a_lease_that_is_granted_late_is_not_used(world: World) -> None:
    """Its time counts from the request, so it would soon count as lost again."""
    world.lose()
    world.clock.pump([0.05] * 2)
    world.clock.advance(TTL / 2)
    world.etcd.answer(ID="8")
    assert world.session.lease_id is None
    assert world.etcd.methods == ["lease/grant"]
    world.etcd.answer(ID="9")
    assert world.session.lease_id == 9


def test_a_lease_is_kept_alive_before_everything_is_put_under_it(world: World) -> None:
    """A busy process or a slow etcd may need longer for that than the lease lasts."""
    world.lose()
    assert world.next_call(0.1) == "lease/grant"
    world.etcd.answer(ID="8")
    for _ in range(4):
        world.clock.pump([0.01] * (TTL * 100 // 3 + 1))
        assert world.etcd.methods == ["lease/revoke", "lease/keepalive"]
        world.etcd.calls[1].answer.callback({"result": {"TTL": TTL}})
    world.etcd.answer()
    assert world.heard == ["lost", "renewed"]
    assert world.session.lease_id == 8
    assert world.next_call(TTL / 3 + 0.1) == "lease/keepalive"


def test_a_late_answer_to_a_keep_alive_counts(world: World) -> None:
    """The next keep-alive is sent meanwhile, but the process may only be busy."""
    world.clock.advance(TTL / 3)
    world.clock.pump([0.01] * (TTL * 100 // 6 + 1))
    assert world.etcd.methods == ["lease/keepalive"] * 2
    assert world.etcd.doubts == [TTL / 3]
    world.etcd.calls[0].answer.callback({"result": {"TTL": TTL}})
    assert not world.etcd.calls
    world.clock.advance(TTL / 3)
    assert world.etcd.methods == ["lease/keepalive"]
    world.clock.advance(TTL / 3)
    assert world.session.lease_id == 7
    assert not world.heard


def test_a_keep_alive_without_a_connection_does_not_end_the_next_one(world: World) -> None:
    """The connection of the first one is lost at last, and that of the next one works."""
    world.clock.advance(TTL / 3)
    world.clock.pump([0.01] * (TTL * 100 // 6 + 1))
    world.etcd.refuse()
    assert world.etcd.methods == ["lease/keepalive"]
    world.etcd.answer(result={"TTL": TTL})
    assert not world.etcd.calls
    world.clock.advance(TTL / 2)
    assert world.session.lease_id == 7


def test_a_request_for_a_lease_without_a_connection(world: World) -> None:
    """It doesn't end the next one, so etcd doesn't grant a lease that no session uses."""
    world.lose()
    assert world.next_call(0.1) == "lease/grant"
    world.clock.pump([0.05] * 6)
    assert world.etcd.methods == ["lease/grant"] * 2
    world.etcd.refuse()
    assert world.etcd.methods == ["lease/grant"]
    world.etcd.answer(ID="8")
    assert world.session.lease_id == 8


def test_a_refused_keep_alive_is_not_repeated_at_once(world: World) -> None:
    """An etcd that refuses each request gets few of them while names are put under the lease."""
    world.lose()
    assert world.next_call(0.1) == "lease/grant"
    world.etcd.answer(ID="8")
    world.clock.advance(TTL / 3)
    for _ in range(3):
        assert world.etcd.methods == ["lease/revoke", "lease/keepalive"]
        world.etcd.calls[1].answer.errback(EtcdError("permission denied"))
        world.clock.advance(0)
        assert world.etcd.methods == ["lease/revoke"]
        world.clock.pump([0.01] * (TTL * 100 // 15 + 1))
    assert world.session.lease_id == 8
