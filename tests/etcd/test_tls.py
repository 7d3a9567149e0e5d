"""Connections to etcd over TLS, whose normal end needs an answer from etcd."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred, maybeDeferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import Certificate, DefaultOpenSSLContextFactory
from twisted.web.client import BrowserLikePolicyForHTTPS
from twisted.web.iweb import IResponse

from stream.etcd import EtcdClient, EtcdUnavailable
from stream.etcd.body import read_body
from tests.etcd.servers import Proxy, reactor
from tests.storage.network.authority import Authority
from tests.waiting import until

_CREATED = b'{"result":{"header":{"revision":"1"},"created":true}}\n'


class _Answers(Protocol):
    """Answers each request with the first part of a body that never ends."""

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + _CREATED)


@pytest_twisted.async_yield_fixture()
async def distant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Proxy]:
    """A proxy for a server with TLS, whose certificate is trusted."""
    settings = Authority(tmp_path).issue("etcd")
    root = Certificate.loadPEM(Path(settings.ca).read_bytes())
    monkeypatch.setattr(
        "stream.etcd.connection.BrowserLikePolicyForHTTPS",
        partial(BrowserLikePolicyForHTTPS, trustRoot=root),
    )
    context = DefaultOpenSSLContextFactory(settings.key, settings.certificate)
    factory = Factory.forProtocol(_Answers)
    listening = reactor.listenSSL(0, factory, context, interface="127.0.0.1")
    proxy = Proxy(f"http://127.0.0.1:{listening.getHost().port}")
    proxy.listen()
    yield proxy
    await proxy.refuse()
    await maybeDeferred(listening.stopListening)


def _client(proxy: Proxy) -> EtcdClient:
    return EtcdClient(reactor, [f"https://127.0.0.1:{proxy.port}"], "test")


@pytest_twisted.ensureDeferred
async def test_a_cancelled_watch_ends_at_once(distant: Proxy) -> None:
    """It doesn't wait for an etcd that can't be reached."""
    stream = await _client(distant).watch("a/", 1)
    distant.is_blackhole = True
    waiting = stream.next()
    stream.cancel()
    with pytest.raises(EtcdUnavailable, match="the watch was cancelled"):
        await waiting
    with pytest.raises(EtcdUnavailable, match="the watch was cancelled"):
        await stream.next()
    await until(lambda: not distant.connections)


@pytest_twisted.ensureDeferred
async def test_a_cancelled_request_ends_its_connection(
    distant: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection of an unfinished answer isn't left to the timeouts of the system."""
    bodies: list[IResponse] = []

    def noted(response: IResponse) -> Deferred[bytes]:
        bodies.append(response)
        return read_body(response)

    monkeypatch.setattr("stream.etcd.transport.read_body", noted)
    reading: Deferred[object] = ensureDeferred(_client(distant).get("a"))
    await until(lambda: bodies)
    distant.is_blackhole = True
    reading.cancel()
    with pytest.raises(CancelledError):
        await reading
    await until(lambda: not distant.connections)
