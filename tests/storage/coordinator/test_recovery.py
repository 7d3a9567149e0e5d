"""Two coordinators that both act as the owner of a file: different clocks, a disconnected node."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from stream.etcd import EtcdClient, Session
from stream.storage.model.entity import File
from stream.storage.model.state import FileState, SliceState
from stream.storage.reconcile.operator import SWEEP_SECONDS
from tests.etcd.servers import Proxy, reactor
from tests.storage.coordinator.conftest import Coordinator
from tests.storage.coordinator.test_file_import import importing_file
from tests.waiting import until

LEASE_SECONDS = 2


@pytest_twisted.async_yield_fixture()
async def proxy(etcd_url: str) -> AsyncIterator[Proxy]:
    """A proxy for etcd that one of the nodes uses."""
    listening = Proxy(etcd_url)
    listening.listen()
    yield listening
    await listening.refuse()


@pytest_twisted.async_yield_fixture()
async def other(etcd: EtcdClient, proxy: Proxy) -> AsyncIterator[Coordinator]:
    """A second coordinator that also owns everything, and reaches etcd through the proxy."""
    client = EtcdClient(reactor, [proxy.url], etcd.namespace, request_timeout=1.0)
    await client.startService()
    session = Session(client, ttl=LEASE_SECONDS, reactor=reactor)
    await session.startService()
    coordinator = Coordinator(client, session)
    yield coordinator
    if coordinator.service.running:
        await coordinator.service.stopService()
    await session.stopService()
    await client.stopService()


async def _imported(coordinator: Coordinator, file: File) -> bool:
    return (await coordinator.storage.file(file.key)).state is FileState.IMPORTED


@pytest.mark.parametrize("minutes", [-5, 5])
@pytest_twisted.ensureDeferred
async def test_different_clocks(coordinator: Coordinator, other: Coordinator, minutes: int) -> None:
    """A node whose clock is wrong by minutes imports nothing twice, and no file is stuck."""
    other.storage.now = coordinator.storage.now + timedelta(minutes=minutes)
    files = [await importing_file(coordinator) for _ in range(3)]
    await coordinator.service.startService()
    await other.service.startService()
    for file in files:
        await coordinator.until(lambda file=file: _imported(coordinator, file))  # type: ignore[misc]
    for _ in range(5):
        coordinator.tick(SWEEP_SECONDS)
        other.tick(SWEEP_SECONDS)
    by_both = [file.key for node in (coordinator, other) for file in node.target.imported]
    assert sorted(by_both) == sorted(file.key for file in files)
    await coordinator.storage.check()


@pytest_twisted.ensureDeferred
async def test_disconnected_during_an_import(
    coordinator: Coordinator, other: Coordinator, proxy: Proxy
) -> None:
    """A node that is disconnected for longer than its lease loses its lock, and changes nothing
    later.

    The next owner repeats the import, and the importer finds the same job.
    """
    file = await importing_file(coordinator)
    begun: Deferred[None] = Deferred()
    may_end: Deferred[None] = Deferred()

    async def slow(file: File) -> int:
        other.target.imported.append(file)
        begun.callback(None)
        await may_end
        return 0

    other.target.import_file = slow  # type: ignore[method-assign]
    other.service._file_import._import_file = slow
    await other.service.startService()
    other.clock.advance(0)
    await begun
    proxy.is_blackhole = True
    await proxy.cut()
    await coordinator.service.startService()
    await coordinator.until(lambda: _imported(coordinator, file))
    done = await coordinator.storage.file(file.key)
    proxy.is_blackhole = False
    await proxy.cut()
    may_end.callback(None)
    slices = await coordinator.storage.slices(file.key)
    await until(lambda: not other.service._file_import.operator._running)
    assert await coordinator.storage.file(file.key) == done
    assert all(slice_.state is SliceState.IMPORTED for slice_ in slices)
    await coordinator.storage.check()


@pytest_twisted.ensureDeferred
async def test_two_owners(coordinator: Coordinator, other: Coordinator) -> None:
    """A node that waited for the lock of a file doesn't import it again after the other owner."""
    file = await importing_file(coordinator)
    begun: Deferred[None] = Deferred()
    may_end: Deferred[None] = Deferred()

    async def slow(file: File) -> int:
        begun.callback(None)
        await may_end
        return 0

    coordinator.service._file_import._import_file = slow
    await coordinator.service.startService()
    coordinator.clock.advance(0)
    await begun
    await other.service.startService()
    other.clock.advance(0)
    waiting = other.service._file_import.operator._running
    assert waiting
    may_end.callback(None)
    await coordinator.until(lambda: _imported(coordinator, file))
    await until(lambda: not waiting)
    assert other.target.imported == []
