"""A request and its answer over a connection, with authentication."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.test.iosim import FakeTransport, IOPump, connect

from stream.errors import UserError
from stream.rejected import link
from stream.rejected.link import Asking, NodeFactory, NodeUnavailable


class _Node:
    """A source node that answers with the request."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.questions: list[dict[str, Any]] = []
        self.factory = NodeFactory(self.clock, "secret", self._answer)

    async def _answer(self, question: dict[str, Any]) -> dict[str, Any]:
        self.questions.append(question)
        if question.get("kind") == "bad":
            raise UserError("the disk is gone")
        if question.get("kind") == "slow":
            await Deferred()
        return {"echo": question}

    def ask(self, secret: str, question: dict[str, Any]) -> tuple[Asking, IOPump]:
        server, client = self.factory.buildProtocol(None), Asking(secret, question)
        pump: IOPump = connect(
            server,
            FakeTransport(server, isServer=True),
            client,
            FakeTransport(client, isServer=False),
        )
        pump.flush()
        return client, pump


@pytest.fixture
def node() -> Iterator[_Node]:
    node = _Node()
    yield node
    assert node.clock.getDelayedCalls() == []
    assert not node.factory.connections


def problem(asking: Asking) -> str:
    failures: list[Failure] = []
    asking.done.addErrback(failures.append)
    (failure,) = failures
    assert failure.check(NodeUnavailable)
    return str(failure.value)


def test_a_request_is_answered(node: _Node) -> None:
    """One request is answered, and the connection ends."""
    asking, _ = node.ask("secret", {"kind": "list"})
    answers: list[Any] = []
    asking.done.addCallback(answers.append)
    assert answers == [{"echo": {"kind": "list"}}]


def test_a_caller_without_the_secret_gets_no_answer(node: _Node) -> None:
    """The request isn't parsed."""
    asking, _ = node.ask("guess", {"kind": "list"})
    assert problem(asking) == "the connection was closed"
    assert node.questions == []


def test_a_failure_of_the_node(node: _Node) -> None:
    """The caller gets the failure as the answer."""
    asking, _ = node.ask("secret", {"kind": "bad"})
    assert problem(asking) == "the disk is gone"


def test_an_answer_of_another_program_is_refused(node: _Node) -> None:
    """Another program may listen at the address of a dead node."""
    asking = Asking("secret", {"kind": "list"})
    transport = StringTransport()
    asking.makeConnection(transport)
    for message in (b"c" * 32, b"p" * 32 + b'{"answer":{}}'):
        asking.dataReceived(struct.pack("!I", len(message)) + message)
    assert problem(asking) == "another process answers at its address"
    assert transport.disconnecting


@pytest.mark.parametrize("size", [0, 31, 33, 100])
def test_a_challenge_of_another_length_is_refused(size: int) -> None:
    """A longer challenge could contain a nonce and the beginning of another request, for which the
    proof would then be valid.
    """
    asking = Asking("secret", {"kind": "list"})
    transport = StringTransport()
    asking.makeConnection(transport)
    asking.dataReceived(struct.pack("!I", size) + b"c" * size)
    assert problem(asking) == "another process answers at its address"
    assert transport.value() == b""


def test_many_messages_of_an_unauthenticated_caller(
    node: _Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The messages arrive in one packet, and only the first one is logged."""
    told: list[str] = []
    monkeypatch.setattr(node.factory, "tell_of_refused", told.append)
    server = node.factory.buildProtocol(None)
    server.makeConnection(StringTransport())
    server.dataReceived(bytes(4 * 10_000))
    server.dataReceived(bytes(4 * 10_000))
    assert len(told) == 1
    server.connectionLost()


def test_a_message_in_many_packets(node: _Node) -> None:
    """The message is assembled from any parts."""
    asking = Asking("secret", {"kind": "list"})
    server = node.factory.buildProtocol(None)
    here, there = StringTransport(), StringTransport()
    server.makeConnection(there)
    asking.makeConnection(here)
    for receiver, sender in ((asking, there), (server, here), (asking, there)):
        sent = sender.value()
        sender.clear()
        for place in range(len(sent)):
            receiver.dataReceived(sent[place : place + 1])
    answers: list[Any] = []
    asking.done.addCallback(answers.append)
    assert answers == [{"echo": {"kind": "list"}}]
    server.connectionLost()


def test_unauthenticated_connections_do_not_block_others(
    node: _Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new connection closes the oldest one without a request."""
    monkeypatch.setattr(link, "MAX_CONNECTIONS", 2)
    strangers = [(node.factory.buildProtocol(None), StringTransport()) for _ in range(2)]
    for server, transport in strangers:
        server.makeConnection(transport)
    asking, _ = node.ask("secret", {"kind": "list"})
    answers: list[Any] = []
    asking.done.addCallback(answers.append)
    assert len(answers) == 1
    assert [transport.disconnecting for _, transport in strangers] == [True, False]
    for server, _ in strangers:
        server.connectionLost()


def test_an_answer_that_is_too_large() -> None:
    """The answer is refused before its bytes are buffered."""
    asking = Asking("secret", {})
    asking.makeConnection(StringTransport())
    asking.dataReceived(struct.pack("!I", link.MAX_ANSWER_BYTES + 1))
    assert "bytes" in problem(asking)


def test_an_idle_connection_is_closed(node: _Node) -> None:
    """An idle connection is closed after a timeout."""
    server = node.factory.buildProtocol(None)
    transport = StringTransport()
    server.makeConnection(transport)
    node.clock.advance(link.QUESTION_SECONDS)
    assert transport.disconnected or transport.disconnecting
    server.connectionLost()


def test_connections_are_limited(node: _Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """An excess connection is closed at once; a closed one frees its slot and gets no answer."""
    monkeypatch.setattr(link, "MAX_CONNECTIONS", 1)
    first, pump = node.ask("secret", {"kind": "slow"})
    assert len(node.factory.connections) == 1
    second, _ = node.ask("secret", {"kind": "list"})
    assert problem(second) == "the connection was closed"
    node.factory.hang_up()
    pump.flush()
    assert problem(first) == "the connection was closed"
