from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred, gatherResults
from twisted.internet.task import deferLater

from stream.etcd import EtcdClient, EtcdUnavailable, LockTimeout, Session
from tests.etcd.servers import Proxy, reactor
from tests.waiting import until


async def _session(client: EtcdClient, ttl: int = 5) -> Session:
    session = Session(client, ttl=ttl, reactor=reactor)
    await session.startService()
    return session


@pytest_twisted.async_yield_fixture()
async def sessions(etcd: EtcdClient) -> AsyncIterator[list[Session]]:
    """Three sessions that act as three processes."""
    started = [await _session(etcd) for _ in range(3)]
    yield started
    await gatherResults([ensureDeferred(session.stopService()) for session in started])


async def _keys(client: EtcdClient) -> list[str]:
    return [kv.key for kv in (await client.range("lock/")).kvs]


@pytest_twisted.ensureDeferred
async def test_one_holder_at_a_time(etcd: EtcdClient, sessions: list[Session]) -> None:
    """The sessions hold the lock one at a time, and each of them gets it."""
    inside: list[int] = []
    done = []

    async def use(number: int) -> None:
        async with await sessions[number % 3].lock("name", timeout=20):
            inside.append(number)
            assert inside == [number]
            await deferLater(reactor, 0.01)
            assert inside == [number]
            inside.clear()
        done.append(number)

    await gatherResults([ensureDeferred(use(i)) for i in range(12)])
    assert sorted(done) == list(range(12))
    assert await _keys(etcd) == []


@pytest_twisted.ensureDeferred
async def test_try_lock(etcd: EtcdClient, sessions: list[Session]) -> None:
    """Trying returns the lock if it is free or nothing at once, and leaves no key."""
    lock = await sessions[0].try_lock("name")
    assert lock is not None
    assert await sessions[0].try_lock("name") is None
    assert await sessions[1].try_lock("name") is None
    assert await _keys(etcd) == [lock.key]
    await lock.release()
    await lock.release()
    again = await sessions[1].try_lock("name")
    assert again is not None
    await again.release()


@pytest_twisted.ensureDeferred
async def test_names_that_contain_each_other(sessions: list[Session]) -> None:
    """Locks ``a`` and ``a/b`` are independent."""
    below = await sessions[0].lock("a/b", timeout=1)
    above = await sessions[1].lock("a", timeout=1)
    await below.release()
    await above.release()


@pytest_twisted.ensureDeferred
async def test_a_waiter_that_times_out_leaves_the_queue(
    etcd: EtcdClient, sessions: list[Session]
) -> None:
    """A waiter that times out leaves the queue, in the same session and in others."""
    lock = await sessions[0].lock("name", timeout=1)
    with pytest.raises(LockTimeout, match='lock "name" is held by another process'):
        await sessions[0].lock("name", timeout=0.1)
    with pytest.raises(LockTimeout):
        await sessions[1].lock("name", timeout=0.2)
    assert await _keys(etcd) == [lock.key]
    waiting = ensureDeferred(sessions[2].lock("name", timeout=5))
    await deferLater(reactor, 0.05)
    await lock.release()
    await (await waiting).release()


@pytest_twisted.ensureDeferred
async def test_cancellation_at_any_moment(etcd: EtcdClient, sessions: list[Session]) -> None:
    """The key of a cancelled waiter is removed, even if it is just being put."""
    held = await sessions[0].lock("name", timeout=1)
    for delay in (0, 0, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.05):
        waiting: Deferred[Any] = ensureDeferred(sessions[1].lock("name", timeout=5))
        if delay:
            await deferLater(reactor, delay)
        waiting.cancel()
        with pytest.raises(CancelledError):
            await waiting
    await held.release()
    lock = await sessions[2].lock("name", timeout=5)
    while await _keys(etcd) != [lock.key]:
        await deferLater(reactor, 0.01)
    await lock.release()
    own = await sessions[1].lock("name", timeout=1)
    await own.release()


@pytest_twisted.ensureDeferred
async def test_release_without_a_lease(etcd: EtcdClient, sessions: list[Session]) -> None:
    """A lock without a lease can be released, and another session already holds it."""
    lock = await sessions[0].lock("name", timeout=1)
    await etcd.call("lease/revoke", {"ID": sessions[0].lease_id})
    other = await sessions[1].lock("name", timeout=1)
    await lock.release()
    assert await _keys(etcd) == [other.key]
    await other.release()


@pytest_twisted.ensureDeferred
async def test_a_lease_lost_while_waiting(etcd: EtcdClient, sessions: list[Session]) -> None:
    """A waiter whose lease has ended doesn't get the lock."""
    held = await sessions[0].lock("name", timeout=1)
    waiting = ensureDeferred(sessions[1].lock("name", timeout=5))
    while len(await _keys(etcd)) < 2:
        await deferLater(reactor, 0.01)
    await etcd.call("lease/revoke", {"ID": sessions[1].lease_id})
    await held.release()
    with pytest.raises(EtcdUnavailable, match="lease has ended"):
        await waiting
    assert await sessions[2].try_lock("name") is not None


@pytest_twisted.ensureDeferred
async def test_a_key_whose_answer_is_lost(
    etcd: EtcdClient, proxied: EtcdClient, proxy: Proxy, sessions: list[Session]
) -> None:
    """The session later deletes a key that was put although the answer was lost."""
    session = await _session(proxied)
    proxy.cut_after = 10
    with pytest.raises(EtcdUnavailable):
        await session.lock("name", timeout=5)
    await (await sessions[0].lock("name", timeout=5)).release()
    lock = await session.lock("name", timeout=5)
    await proxy.refuse()
    await lock.release()
    assert await _keys(etcd) == [lock.key]
    proxy.listen()
    await (await sessions[0].lock("name", timeout=5)).release()
    await session.stopService()


@pytest_twisted.ensureDeferred
async def test_a_broken_watch_while_waiting(
    etcd: EtcdClient, proxied: EtcdClient, proxy: Proxy, sessions: list[Session]
) -> None:
    """A waiter whose connection breaks checks the lock again, and gets it if it was released
    meanwhile.
    """
    session = await _session(proxied)
    held = await sessions[0].lock("name", timeout=1)
    waiting = ensureDeferred(session.lock("name", timeout=10))
    await until(lambda: len(proxy.connections) >= 2)
    await deferLater(reactor, 0.05)
    proxy.is_deaf = True
    await held.release()
    await deferLater(reactor, 0.05)
    proxy.is_deaf = False
    await proxy.cut()
    await (await waiting).release()
    await session.stopService()


@pytest_twisted.ensureDeferred
async def test_a_key_that_is_reused_while_another_one_is_deleted(
    etcd: EtcdClient, sessions: list[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After two failed releases, a caller takes one lock while the key of the other is deleted."""
    locks = sessions[0]._locks
    real = etcd.delete

    async def delete(key: str) -> bool:
        if key == "lock/one/key":
            lock = await sessions[0].try_lock("two")
            assert lock is not None
            await lock.release()
        return await real(key)

    monkeypatch.setattr(etcd, "delete", delete)
    locks._left.update({"one": "lock/one/key", "two": "lock/two/key"})
    await locks.tidy()
    assert not locks._left
    lock = await sessions[0].try_lock("two")
    assert lock is not None
    await lock.release()
