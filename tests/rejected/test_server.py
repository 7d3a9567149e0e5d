"""The API and a source node over a real connection, with and without certificates."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as _reactor
from twisted.internet.defer import CancelledError, Deferred

from stream.etcd import EtcdClient, Session
from stream.rejected.nodes import RejectedNodes
from stream.rejected.server import RejectedServer
from stream.settings.local import WriterTlsSettings
from stream.values.utctime import from_timestamp
from tests.rejected.samples import KEY, NOW
from tests.storage.network.authority import Authority

reactor: Any = _reactor

PLAIN = WriterTlsSettings()


@pytest_twisted.async_yield_fixture()
async def session(etcd: EtcdClient) -> AsyncIterator[Session]:
    made = Session(etcd, ttl=30, reactor=reactor)
    await made.startService()
    yield made
    await made.stopService()


async def _answer(question: dict[str, Any]) -> dict[str, Any]:
    return {"large": "x" * 300_000, "sink": question["sink"]}


async def _asked(
    etcd: EtcdClient,
    session: Session,
    of_node: WriterTlsSettings,
    of_api: WriterTlsSettings,
    host: str = "localhost",
) -> tuple[bool, str]:
    """Return whether the node answers, and the reason if it doesn't."""
    server = RejectedServer(
        reactor,
        session,
        "one",
        "127.0.0.1:0",
        "localhost",
        _answer,
        lambda: False,
        lambda: "",
        of_node,
    )
    await server.startService()
    nodes = RejectedNodes(reactor, etcd, host, lambda: from_timestamp(NOW), of_api)
    nodes.startService()
    assert not (await nodes.all())["one"].has_files
    try:
        (asked,) = await nodes.ask_all(KEY, "list")
    finally:
        await server.stopService()
    assert await nodes.all() == {}
    assert asked.answer is None or asked.answer["sink"] == str(KEY)
    return asked.answer is not None, asked.problem


@pytest.mark.parametrize("has_tls", [False, True])
@pytest_twisted.ensureDeferred
async def test_a_node_answers(
    etcd: EtcdClient, session: Session, tmp_path: Path, has_tls: bool
) -> None:
    """The node is found in etcd as long as it runs."""
    authority = Authority(tmp_path)
    of_node = authority.issue("node") if has_tls else PLAIN
    of_api = authority.issue("api") if has_tls else PLAIN
    assert await _asked(etcd, session, of_node, of_api) == (True, "")


@pytest_twisted.ensureDeferred
async def test_a_disconnected_caller(etcd: EtcdClient, session: Session) -> None:
    """No more nodes are called for a disconnected caller, and no failure is logged."""
    begun: Deferred[None] = Deferred()

    async def slow(question: dict[str, Any]) -> dict[str, Any]:
        begun.callback(None)
        await Deferred()
        return question

    server = RejectedServer(
        reactor, session, "one", "127.0.0.1:0", "localhost", slow, lambda: True, lambda: "", PLAIN
    )
    await server.startService()
    nodes = RejectedNodes(reactor, etcd, "localhost", lambda: from_timestamp(NOW), PLAIN)
    asking = Deferred.fromCoroutine(nodes.ask_all(KEY, "list"))
    await begun
    asking.cancel()
    with pytest.raises(CancelledError):
        await asking
    await server.stopService()


@pytest_twisted.ensureDeferred
async def test_a_certificate_of_another_authority_is_refused(
    etcd: EtcdClient, session: Session, tmp_path: Path
) -> None:
    """The error names the node with the reason."""
    of_node = Authority(tmp_path).issue("node")
    of_api = Authority(tmp_path, "another").issue("api")
    answers, problem = await _asked(etcd, session, of_node, of_api)
    assert not answers
    assert problem.startswith("the node is unavailable: ")


@pytest_twisted.ensureDeferred
async def test_a_node_on_loopback_is_not_called_from_another_machine(
    etcd: EtcdClient, session: Session
) -> None:
    """Another process may listen at the same address on the caller's machine."""
    answers, problem = await _asked(etcd, session, PLAIN, PLAIN, host="api-host")
    assert not answers
    assert "set source.quarantine.listen" in problem
