from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, ensureDeferred, gatherResults
from twisted.internet.task import deferLater

from stream.etcd import EtcdClient, EtcdUnavailable, Session
from tests.etcd.servers import Proxy, fail, reactor
from tests.waiting import until

TTL = 2  # the shortest TTL that etcd grants


@pytest_twisted.async_yield_fixture()
async def session(etcd: EtcdClient) -> AsyncIterator[Session]:
    """A session with direct access to etcd."""
    started = Session(etcd, ttl=TTL, reactor=reactor)
    await started.startService()
    yield started
    await started.stopService()


@pytest_twisted.async_yield_fixture()
async def shaky(proxied: EtcdClient) -> AsyncIterator[Session]:
    """A session through the proxy."""
    started = Session(proxied, ttl=TTL, reactor=reactor)
    await started.startService()
    yield started
    await started.stopService()


def _heard(session: Session) -> list[str]:
    heard: list[str] = []
    session.on_lost.append(fail)  # independent of failures of other listeners
    session.on_lost.append(lambda: heard.append("lost"))
    session.on_renewed.append(lambda: heard.append("renewed"))
    return heard


async def _value(client: EtcdClient, key: str) -> bytes | None:
    kv = await client.get(key)
    return None if kv is None else kv.value


def _put_value(operations: list[Any]) -> bytes:
    """Return the value that a transaction with a single put writes."""
    return base64.b64decode(operations[0]._marshal()["request_put"]["value"])


class Post:
    """Delays the commits of a client, to deliver them later."""

    def __init__(self, client: EtcdClient, monkeypatch: pytest.MonkeyPatch) -> None:
        self._commit = client.commit
        self._held: list[tuple[Any, ...]] = []
        self.holds = False
        monkeypatch.setattr(client, "commit", self._take)

    async def _take(self, *args: Any) -> Any:
        if not self.holds:
            return await self._commit(*args)
        self._held.append(args)
        raise EtcdUnavailable("no answer")

    async def deliver(self) -> None:
        """Deliver the delayed requests, of which there must be some."""
        assert self._held
        for args in self._held:
            await self._commit(*args)
        self._held.clear()


@pytest_twisted.async_yield_fixture()
async def second(etcd_url: str, etcd: EtcdClient) -> AsyncIterator[EtcdClient]:
    """A client of another process."""
    client = EtcdClient(reactor, [etcd_url], etcd.namespace)
    await client.startService()
    yield client
    await client.stopService()


@pytest_twisted.ensureDeferred
async def test_a_put_of_a_dead_process_arrives_late(
    etcd: EtcdClient, second: EtcdClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next life of the node keeps its key, value and lease: neither a put nor an update of the
    former life replaces them.
    """
    post = Post(etcd, monkeypatch)
    dead = Session(etcd, ttl=60, reactor=reactor)
    await dead.startService()
    updated = await dead.register("r/updated", b"1")
    post.holds = True
    await updated.update(b"7")
    with pytest.raises(EtcdUnavailable):
        await dead.register("r/first", b"1")
    assert dead._living is not None
    dead._living.cancel()  # a dead process makes no further attempts
    living = Session(second, ttl=60, reactor=reactor)
    await living.startService()
    await living.register("r/updated", b"2")
    await living.register("r/first", b"2")
    post.holds = False
    await post.deliver()
    for key in ("r/updated", "r/first"):
        kv = await second.get(key)
        assert kv is not None and (kv.value, kv.lease) == (b"2", living.lease_id)
    await dead.stopService()  # and deletes the keys under its lease
    for key in ("r/updated", "r/first"):
        assert await _value(second, key) == b"2"
    await living.stopService()


@pytest_twisted.ensureDeferred
async def test_an_abandoned_update_arrives_late(
    etcd: EtcdClient, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The late update doesn't replace the newer value."""
    registration = await session.register("r/a", b"1")
    post = Post(etcd, monkeypatch)
    post.holds = True
    await registration.update(b"2")
    post.holds = False
    await registration.update(b"3")
    await post.deliver()
    assert await _value(etcd, "r/a") == b"3"


@pytest_twisted.ensureDeferred
async def test_a_deleted_key_is_put_again(etcd: EtcdClient, session: Session) -> None:
    """The next update detects the deletion."""
    registration = await session.register("r/a", b"1")
    await etcd.delete("r/a")
    await registration.update(b"2")
    kv = await etcd.get("r/a")
    assert kv is not None and (kv.value, kv.lease) == (b"2", session.lease_id)


@pytest_twisted.ensureDeferred
async def test_a_registration(etcd: EtcdClient, session: Session) -> None:
    """A registration is put with the lease, changed, and removed."""
    registration = await session.register("r/a", b"1")
    kv = await etcd.get("r/a")
    assert kv is not None and (kv.value, kv.lease) == (b"1", session.lease_id)
    await registration.update(b"2")
    assert await _value(etcd, "r/a") == b"2"
    await registration.remove()
    assert await _value(etcd, "r/a") is None
    await registration.update(b"3")
    assert await _value(etcd, "r/a") is None


@pytest_twisted.ensureDeferred
async def test_the_lease_of_a_session(etcd: EtcdClient, session: Session) -> None:
    """The lease is renewed until the session stops, which revokes it."""
    heard = _heard(session)
    await session.register("r/a", b"1")
    await deferLater(reactor, TTL * 1.8)
    assert await _value(etcd, "r/a") == b"1" and heard == []
    await session.stopService()
    assert await _value(etcd, "r/a") is None
    assert session.lease_id is None and heard == []


@pytest_twisted.ensureDeferred
async def test_a_revoked_lease(etcd: EtcdClient, session: Session) -> None:
    """Everything is registered again with a new lease."""
    heard = _heard(session)
    first = session.lease_id
    await session.register("r/a", b"1")
    removed = await session.register("r/b", b"1")
    await removed.remove()
    await etcd.call("lease/revoke", {"ID": first})
    assert await _value(etcd, "r/a") is None
    await until(lambda: "renewed" in heard)
    assert heard == ["lost", "renewed"]
    kv = await etcd.get("r/a")
    assert kv is not None and (kv.value, kv.lease) == (b"1", session.lease_id)
    assert session.lease_id != first
    assert await _value(etcd, "r/b") is None


@pytest_twisted.ensureDeferred
async def test_a_revoked_lease_found_by_an_update(etcd: EtcdClient, session: Session) -> None:
    """An update that finds the lease expired doesn't wait for the next keep-alive."""
    heard = _heard(session)
    registration = await session.register("r/a", b"1")
    await etcd.call("lease/revoke", {"ID": session.lease_id})
    await registration.update(b"2")
    assert heard == ["lost"]
    await until(lambda: "renewed" in heard, seconds=0.3)
    assert await _value(etcd, "r/a") == b"2"


@pytest_twisted.ensureDeferred
async def test_unreachable_etcd(etcd: EtcdClient, shaky: Session, proxy: Proxy) -> None:
    """The session detects the end of its lease without etcd, and recovers with etcd."""
    heard = _heard(shaky)
    first = shaky.lease_id
    registration = await shaky.register("r/a", b"1")
    proxy.is_blackhole = True
    cut = reactor.seconds()
    await until(lambda: heard)
    lease = shaky.lease_id
    assert heard == ["lost"] and lease is None
    assert reactor.seconds() - cut <= TTL + 0.5
    with pytest.raises(EtcdUnavailable, match="no valid lease"):
        await shaky.lock("name", timeout=1)
    await registration.update(b"2")
    proxy.is_blackhole = False
    await proxy.cut()
    await until(lambda: "renewed" in heard)
    kv = await etcd.get("r/a")
    assert kv is not None and (kv.value, kv.lease) == (b"2", shaky.lease_id)
    leases = (await etcd.call("lease/leases", {})).get("leases", [])
    assert str(first) not in [lease["ID"] for lease in leases]


@pytest_twisted.ensureDeferred
async def test_a_short_outage(etcd: EtcdClient, shaky: Session, proxy: Proxy) -> None:
    """A lease survives a blocked connection, and delayed updates are done afterwards."""
    heard = _heard(shaky)
    registration = await shaky.register("r/a", b"1")
    other = await shaky.register("r/b", b"1")
    await proxy.refuse()
    await registration.update(b"2")
    await other.remove()
    assert await _value(etcd, "r/a") == b"1"
    proxy.listen()
    while (await _value(etcd, "r/a"), await _value(etcd, "r/b")) != (b"2", None):
        await deferLater(reactor, 0.02)
    assert heard == []


@pytest_twisted.ensureDeferred
async def test_a_failed_registration_is_repeated(
    etcd: EtcdClient, session: Session, monkeypatch: Any
) -> None:
    """A registration that fails with the new lease is repeated."""
    heard = _heard(session)
    await session.register("r/a", b"1")
    commit = etcd.commit
    failures = [EtcdUnavailable("once"), EtcdUnavailable("twice")]

    async def failing(*args: Any) -> Any:
        if failures:
            raise failures.pop()
        return await commit(*args)

    monkeypatch.setattr(etcd, "commit", failing)
    await etcd.call("lease/revoke", {"ID": session.lease_id})
    await until(lambda: "renewed" in heard)
    assert await _value(etcd, "r/a") == b"1" and not failures


@pytest_twisted.ensureDeferred
async def test_concurrent_updates(etcd: EtcdClient, session: Session, monkeypatch: Any) -> None:
    """The last of many concurrent updates is stored, however slow the first one is."""
    registration = await session.register("r/a", b"0")
    commit = etcd.commit
    gate: Deferred[None] = Deferred()
    values = []

    async def slow(compare: list[Any], success: list[Any], *rest: Any) -> Any:
        values.append(_put_value(success))
        if len(values) == 1:
            await gate
        return await commit(compare, success, *rest)

    monkeypatch.setattr(etcd, "commit", slow)
    updates = [ensureDeferred(registration.update(str(i).encode())) for i in range(1, 9)]
    gate.callback(None)
    await gatherResults(updates)
    assert await _value(etcd, "r/a") == b"8"
    assert values == [b"1", b"8"]


@pytest_twisted.ensureDeferred
async def test_update_and_removal(etcd: EtcdClient, session: Session, monkeypatch: Any) -> None:
    """A removal overrides an unfinished update."""
    registration = await session.register("r/a", b"0")
    commit = etcd.commit
    gate: Deferred[None] = Deferred()

    async def slow(*args: Any) -> Any:
        await gate
        return await commit(*args)

    monkeypatch.setattr(etcd, "commit", slow)
    both = [ensureDeferred(registration.update(b"1")), ensureDeferred(registration.remove())]
    gate.callback(None)
    await gatherResults(both)
    assert await _value(etcd, "r/a") is None


@pytest_twisted.ensureDeferred
async def test_stop_without_etcd(proxied: EtcdClient, proxy: Proxy) -> None:
    """A session stops in a few seconds, whether etcd refuses or ignores its requests."""
    for limit in (4.0, 0.5):
        session = Session(proxied, ttl=60, reactor=reactor)
        await session.startService()
        lock = await session.lock("name", timeout=1)
        if limit > 1:
            proxy.is_blackhole = True
        else:
            await proxy.refuse()
        began = reactor.seconds()
        await session.stopService()
        assert reactor.seconds() - began < limit
        await lock.release()
        proxy.is_blackhole = False
        if limit > 1:
            await proxied.delete_prefix("lock/")
    session = Session(proxied, ttl=60, reactor=reactor)
    with pytest.raises(EtcdUnavailable):
        await session.startService()
    await session.stopService()


@pytest_twisted.ensureDeferred
async def test_keys_of_the_next_life_are_not_deleted(etcd: EtcdClient) -> None:
    """The request to delete a key may arrive when the key belongs to the next session."""
    ending, next_ = (Session(etcd, ttl=10, reactor=reactor) for _ in range(2))
    await ending.startService()
    await next_.startService()
    registration = await ending.register("runtime/node", b"n")
    await next_.register("runtime/node", b"n")
    await registration.remove()
    assert await etcd.get("runtime/node") is not None
    await next_.stopService()
    await ending.stopService()
    assert await etcd.get("runtime/node") is None


@pytest_twisted.ensureDeferred
async def test_a_late_deletion_keeps_a_key_that_was_registered_again(
    etcd: EtcdClient, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease is the same; a request that was given up may reach etcd after the new put."""
    registration = await session.register("r/a", b"1")
    late: list[Any] = []
    commit = etcd.commit

    async def unanswered(*arguments: Any) -> Any:
        late.append(arguments)
        raise EtcdUnavailable("no answer within 10 s")

    with monkeypatch.context() as patch:
        patch.setattr(etcd, "commit", unanswered)
        await registration.remove()
    await session.register("r/a", b"2")
    await commit(*late[0])
    assert await _value(etcd, "r/a") == b"2"
