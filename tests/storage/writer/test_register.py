"""Look-ups of the writer, with an etcd that answers when the test says so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import Clock

from stream.etcd import EtcdUnavailable
from stream.storage.writer.register import ASK_AGAIN_SECONDS, REQUESTS_AT_ONCE, EtcdRegister
from tests.storage.samples import sample_slice


class _Etcd:
    """Takes the place of the client.

    :ivar requests: the keys and the answer of each request.
    """

    def __init__(self) -> None:
        self.reactor = Clock()
        self.requests: list[tuple[Sequence[str], Deferred[Any]]] = []

    async def get_many(self, keys: Sequence[str]) -> Any:
        answer: Deferred[Any] = Deferred()
        self.requests.append((keys, answer))
        return await answer

    def answer(self, number: int) -> None:
        keys, answer = self.requests[number]
        answer.callback((dict.fromkeys(keys), 1))


def _looked_up(register: EtcdRegister, count: int) -> list[Any]:
    """Look up *count* slices; return the list to which the results are added."""
    outcomes: list[Any] = []
    for number in range(count):
        key = sample_slice(f"sink-{number}").key
        ensureDeferred(register.look_up(key, "node-1")).addBoth(outcomes.append)
    return outcomes


def test_connections_that_never_answer() -> None:
    """Each request is sent again, and what waits behind it doesn't wait for a timeout."""
    etcd = _Etcd()
    client: Any = etcd
    outcomes = _looked_up(EtcdRegister(client), REQUESTS_AT_ONCE + 2)
    assert len(etcd.requests) == REQUESTS_AT_ONCE
    etcd.reactor.advance(ASK_AGAIN_SECONDS)
    assert len(etcd.requests) == 2 * REQUESTS_AT_ONCE
    etcd.answer(REQUESTS_AT_ONCE)
    assert outcomes == [(None, 0)]
    etcd.answer(-1)
    assert outcomes == [(None, 0)] * 3
    for number in range(REQUESTS_AT_ONCE + 1, 2 * REQUESTS_AT_ONCE):
        etcd.answer(number)
    assert outcomes == [(None, 0)] * (REQUESTS_AT_ONCE + 2)
    assert not etcd.reactor.getDelayedCalls()


def test_a_connection_that_is_lost_while_another_one_is_used() -> None:
    """The look-up continues."""
    etcd = _Etcd()
    client: Any = etcd
    outcomes = _looked_up(EtcdRegister(client), 1)
    etcd.reactor.advance(ASK_AGAIN_SECONDS)
    etcd.requests[0][1].errback(EtcdUnavailable("no answer"))
    assert outcomes == []
    etcd.answer(1)
    assert outcomes == [(None, 0)]


def test_an_unavailable_etcd() -> None:
    """The look-up fails, and the next one works."""
    etcd = _Etcd()
    client: Any = etcd
    register = EtcdRegister(client)
    outcomes = _looked_up(register, 1)
    etcd.requests[0][1].errback(EtcdUnavailable("no answer"))
    assert outcomes[0].check(EtcdUnavailable)
    outcomes = _looked_up(register, 1)
    etcd.answer(-1)
    assert outcomes == [(None, 0)]
