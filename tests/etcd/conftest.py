"""Fixtures of this package: separate servers, faulty networks, and a check for lost errors."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.logger import LogLevel, globalLogPublisher

from stream.etcd import EtcdClient
from tests.etcd.servers import EtcdServer, Proxy


@pytest.fixture
def logged() -> Iterator[list[dict[str, Any]]]:
    """All log events of the test."""
    events: list[dict[str, Any]] = []
    globalLogPublisher.addObserver(events.append)  # type: ignore[arg-type]
    yield events
    globalLogPublisher.removeObserver(events.append)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def nothing_lost(logged: list[dict[str, Any]]) -> Iterator[None]:
    """Fail a test with an unhandled error in a Deferred."""
    gc.collect()  # not the errors of earlier tests
    logged.clear()
    yield
    gc.collect()
    lost = [event for event in logged if event["log_level"] is LogLevel.critical]
    assert not [event for event in lost if "Unhandled" in str(event.get("log_format"))], lost


@pytest_twisted.async_yield_fixture()
async def server(tmp_path: Path) -> AsyncIterator[EtcdServer]:
    """A running etcd that only this test uses."""
    started = EtcdServer(tmp_path / "etcd")
    await started.start()
    yield started
    started.kill()


@pytest_twisted.async_yield_fixture()
async def proxy(etcd_url: str) -> AsyncIterator[Proxy]:
    """A proxy for the shared etcd."""
    listening = Proxy(etcd_url)
    listening.listen()
    yield listening
    await listening.refuse()


@pytest_twisted.async_yield_fixture()
async def proxied(etcd: EtcdClient, proxy: Proxy) -> AsyncIterator[EtcdClient]:
    """A client that sees the same keys as `etcd`, but through the proxy."""
    client = EtcdClient(reactor, [proxy.url], etcd.namespace, request_timeout=1.0)
    await client.startService()
    yield client
    await client.stopService()
