from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import ensureDeferred, gatherResults

from stream.etcd import (
    AtomicConflict,
    AtomicTxn,
    EtcdClient,
    EtcdUnavailable,
    LockLost,
    Session,
    TxnTooLarge,
    atomic,
)
from tests.etcd.servers import Proxy, fail, reactor


async def _increment(txn: AtomicTxn) -> int:
    kv = await txn.get("n")
    number = int(kv.value) + 1 if kv else 1
    txn.put("n", str(number).encode())
    return number


@pytest_twisted.ensureDeferred
async def test_concurrent_increments(etcd: EtcdClient) -> None:
    """No increment is lost, and each attempt sees a different number."""
    found = await gatherResults([ensureDeferred(atomic(etcd, _increment)) for _ in range(20)])
    assert sorted(found) == list(range(1, 21))


@pytest_twisted.ensureDeferred
async def test_reads_its_own_writes(etcd: EtcdClient) -> None:
    """Reads within an operation include its puts and deletes before they are written."""
    for key in ("a/1", "a/2", "b/1", "b/2"):
        await etcd.put(key, b"old")

    async def body(txn: AtomicTxn) -> None:
        async def values(prefix: str) -> dict[str, bytes]:
            return {kv.key: kv.value for kv in await txn.range(prefix)}

        txn.put("a/2", b"new")
        txn.put("a/3", b"new")
        txn.delete("a/1")
        put, deleted = await txn.get("a/3"), await txn.get("a/1")
        assert put is not None and put.value == b"new" and deleted is None
        assert await values("a/") == {"a/2": b"new", "a/3": b"new"}
        txn.put("b/0", b"vanishes")
        assert len(await values("b/")) == 3
        txn.delete_prefix("b/")
        assert await values("b/") == {}
        assert await txn.get_many(["b/0", "b/1"]) == {"b/0": None, "b/1": None}
        txn.put("b/2", b"after")
        txn.put("b/9", b"after")
        assert await values("b/") == {"b/2": b"after", "b/9": b"after"}
        assert (await etcd.range("b/")).count == 2

    await atomic(etcd, body)
    stored = {kv.key: kv.value for kv in (await etcd.range("")).kvs}
    assert stored == {"a/2": b"new", "a/3": b"new", "b/2": b"after", "b/9": b"after"}


@pytest_twisted.ensureDeferred
async def test_reads_at_one_revision(etcd: EtcdClient) -> None:
    """All reads of an attempt are at the same revision, even concurrent ones."""
    await etcd.put("a", b"1")
    await etcd.put("p/b", b"1")
    runs = []

    async def body(txn: AtomicTxn) -> list[bytes]:
        runs.append(1)
        found = [await txn.get("a")]
        if len(runs) == 1:
            await etcd.put("a", b"2")
            await etcd.put("p/b", b"2")
        found += await txn.range("p/")
        others = [ensureDeferred(txn.get(key)) for key in ("p/b", "a")]
        found += await gatherResults(others)
        return [kv.value for kv in found if kv]

    assert await atomic(etcd, body) == [b"1"] * 4
    assert len(runs) == 1


Disturb = Callable[[EtcdClient], Awaitable[Any]]


@pytest.mark.parametrize(
    ("disturb", "track_deletes", "runs"),
    [
        (lambda etcd: etcd.put("p/new", b""), True, 2),
        (lambda etcd: etcd.put("p/a", b"changed"), True, 2),
        (lambda etcd: etcd.delete("p/a"), True, 2),
        (lambda etcd: etcd.put("p/new", b""), False, 2),
        (lambda etcd: etcd.delete("p/a"), False, 1),
        (lambda etcd: etcd.put("q/elsewhere", b""), True, 1),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_changed_range(
    etcd: EtcdClient, disturb: Disturb, track_deletes: bool, runs: int
) -> None:
    """The operation runs again if a key is created, changed or deleted in a range that was read."""
    await etcd.put("p/a", b"1")
    await etcd.put("p/b", b"1")
    seen = []

    async def body(txn: AtomicTxn) -> None:
        seen.append(await txn.range("p/", track_deletes=track_deletes))
        if len(seen) == 1:
            await disturb(etcd)
        txn.put("result", b"x")

    await atomic(etcd, body)
    assert len(seen) == runs


@pytest.mark.parametrize("before", [None, b"1"])
@pytest_twisted.ensureDeferred
async def test_a_changed_key(etcd: EtcdClient, before: bytes | None) -> None:
    """The operation runs again if a key that was read, or read as missing, changes."""
    if before is not None:
        await etcd.put("a", before)
    seen = []

    async def body(txn: AtomicTxn) -> None:
        kv = await txn.get("a")
        seen.append(kv.value if kv else None)
        if len(seen) == 1:
            await (etcd.put("a", b"2") if before is None else etcd.delete("a"))
        txn.put("result", b"x")

    await atomic(etcd, body)
    assert seen == ([None, b"2"] if before is None else [b"1", None])


@pytest_twisted.ensureDeferred
async def test_a_read_only_operation(etcd: EtcdClient) -> None:
    """An operation that writes nothing returns its result, and can't conflict."""
    revision = await etcd.put("a", b"1")
    told: list[int] = []

    async def body(txn: AtomicTxn) -> bytes:
        txn.on_commit(told.append)
        kv = await txn.get("a")
        await etcd.put("a", b"2")
        assert kv is not None
        return kv.value

    assert await atomic(etcd, body) == b"1"
    assert told == [revision]


@pytest_twisted.ensureDeferred
async def test_failing_body(etcd: EtcdClient) -> None:
    """The body's exception is passed on, and nothing is written or reported."""
    told: list[int] = []

    async def body(txn: AtomicTxn) -> None:
        txn.put("a", b"1")
        txn.on_commit(told.append)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await atomic(etcd, body)
    assert await etcd.get("a") is None and not told


@pytest_twisted.ensureDeferred
async def test_callbacks_get_the_revision_of_the_write(etcd: EtcdClient) -> None:
    """Callbacks get the revision of the write, even if one of them fails."""
    told: list[int] = []

    async def body(txn: AtomicTxn) -> None:
        txn.on_commit(fail)
        txn.on_commit(told.append)
        txn.put("a", b"1")

    await atomic(etcd, body)
    kv = await etcd.get("a")
    assert kv is not None and told == [kv.mod_revision]


@pytest_twisted.ensureDeferred
async def test_a_transaction_that_is_too_large(etcd: EtcdClient) -> None:
    """A transaction above etcd's limit fails at once, with a specific error."""

    async def many(txn: AtomicTxn) -> None:
        for i in range(1025):
            txn.put(f"p/{i}", b"")

    with pytest.raises(TxnTooLarge):
        await atomic(etcd, many)

    for megabytes in (1.6, 3):

        async def big(txn: AtomicTxn, size: int = int(megabytes * 1024 * 1024)) -> None:
            txn.put("a", bytes(size))

        with pytest.raises(TxnTooLarge):
            await atomic(etcd, big)
    assert (await etcd.range("")).count == 0


@pytest_twisted.ensureDeferred
async def test_permanent_conflicts(etcd: EtcdClient, monkeypatch: Any) -> None:
    """The operation fails after a limited number of conflicts."""
    import sys

    monkeypatch.setattr(sys.modules["stream.etcd.atomic"], "_MAX_TIME_SECONDS", 0.2)

    async def body(txn: AtomicTxn) -> None:
        await txn.get("a")
        await etcd.put("a", b"")
        txn.put("b", b"")

    with pytest.raises(AtomicConflict, match="atomic update failed"):
        await atomic(etcd, body)
    assert await etcd.get("b") is None


@pytest_twisted.ensureDeferred
async def test_compacted_snapshot(etcd: EtcdClient) -> None:
    """If the history is compacted between two reads, the operation starts again."""
    runs = []

    async def body(txn: AtomicTxn) -> None:
        runs.append(1)
        await txn.get("a")
        if len(runs) == 1:
            await etcd.put("x", b"")
            await etcd.call("kv/compaction", {"revision": await etcd.put("x", b"")})
        await txn.get("b")
        txn.put("b", b"")

    await atomic(etcd, body)
    assert len(runs) == 2


@pytest_twisted.ensureDeferred
async def test_a_lost_lock(etcd: EtcdClient) -> None:
    """An operation without its lock writes nothing, even if the lock is acquired again."""
    session = Session(etcd, ttl=5, reactor=reactor)
    await session.startService()
    lock = await session.lock("name", timeout=5)
    await atomic(etcd, _increment, lock=lock)

    await lock.release()
    for _ in range(2):
        with pytest.raises(LockLost, match="name"):
            await atomic(etcd, _increment, lock=lock)
        await session.lock("name", timeout=5) if not _ else None
    kv = await etcd.get("n")
    assert kv is not None and kv.value == b"1"
    await session.stopService()


@pytest_twisted.ensureDeferred
async def test_a_commit_without_answer(etcd: EtcdClient, proxied: EtcdClient, proxy: Proxy) -> None:
    """A committed transaction whose answer is lost isn't executed a second time."""
    runs = []

    async def create(txn: AtomicTxn) -> str:
        runs.append(1)
        assert await txn.get("new") is None, "it found its own transaction"
        number = await _increment(txn)
        txn.put("new", b"x")
        proxy.cut_after = 10
        return f"run {number}"

    told: list[int] = []

    async def told_body(txn: AtomicTxn) -> str:
        txn.on_commit(told.append)
        return await create(txn)

    assert await atomic(proxied, told_body) == "run 1"
    kv = await etcd.get("n")
    assert kv is not None and kv.value == b"1" and told == [kv.mod_revision]
    assert len(runs) == 1


@pytest_twisted.ensureDeferred
async def test_a_commit_without_answer_and_later_changes(
    etcd: EtcdClient, proxied: EtcdClient, proxy: Proxy, monkeypatch: Any
) -> None:
    """The transaction is found even if other clients have changed its keys since."""
    commit = proxied.commit
    calls = []

    async def cut(*args: Any) -> Any:
        calls.append(1)
        proxy.cut_after = 10
        try:
            return await commit(*args)
        except EtcdUnavailable:
            for _ in range(3):
                await atomic(etcd, _increment)
            raise

    monkeypatch.setattr(proxied, "commit", cut)
    assert await atomic(proxied, _increment) == 1
    kv = await etcd.get("n")
    assert kv is not None and kv.value == b"4" and len(calls) == 1


@pytest_twisted.ensureDeferred
async def test_a_commit_that_was_not_received(
    etcd: EtcdClient, proxied: EtcdClient, proxy: Proxy, monkeypatch: Any
) -> None:
    """A transaction that etcd didn't receive is executed by another attempt."""
    commit = proxied.commit
    runs = []

    async def body(txn: AtomicTxn) -> int:
        runs.append(1)
        number = await _increment(txn)
        txn.delete("other")
        return number

    async def lost(*args: Any) -> Any:
        proxy.is_blackhole = len(runs) == 1
        try:
            return await commit(*args)
        finally:
            proxy.is_blackhole = False

    monkeypatch.setattr(proxied, "commit", lost)
    assert await atomic(proxied, body) == 1
    kv = await etcd.get("n")
    assert kv is not None and kv.value == b"1" and len(runs) == 2


@pytest_twisted.ensureDeferred
async def test_a_deletion_without_answer(
    etcd: EtcdClient, proxied: EtcdClient, proxy: Proxy
) -> None:
    """A deletion whose answer was lost isn't mistaken for another client's."""
    await etcd.put("a", b"")
    await etcd.put("p/x", b"")

    async def body(txn: AtomicTxn) -> None:
        assert await txn.get("a") is not None
        txn.delete("a")
        txn.delete_prefix("p/")
        proxy.cut_after = 10

    await atomic(proxied, body)
    assert (await etcd.range("")).count == 0


@pytest_twisted.ensureDeferred
async def test_reads_of_an_earlier_attempt_are_sent_together(etcd: EtcdClient) -> None:
    """The reads have one revision and the same guards, so the body needs no more reads."""
    for name in ("a", "b", "below/c"):
        await etcd.put(name, b"1")
    before = AtomicTxn(etcd)
    await before.get("a")
    await before.get("nothing")
    await before.range("below/", track_deletes=False)
    asked: list[str] = []
    txn = AtomicTxn(etcd)
    with pytest.MonkeyPatch.context() as patch:
        await txn.read_as(before)
        for name in ("get_many", "range"):
            patch.setattr(etcd, name, lambda *arguments, **_: asked.append(str(arguments)))
        assert (await txn.get_many(["a", "nothing"]))["nothing"] is None
        assert [kv.key for kv in await txn.range("below/", track_deletes=False)] == ["below/c"]
    assert asked == []
    await etcd.put("nothing", b"2")
    txn.put("b", b"2")
    assert not await txn.commit()
    await AtomicTxn(etcd).read_as(AtomicTxn(etcd))


@pytest_twisted.ensureDeferred
async def test_an_assumption_that_holds(etcd: EtcdClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that is expected to be absent isn't read: one request writes it."""
    calls = _count_calls(etcd, monkeypatch)

    async def body(txn: AtomicTxn) -> None:
        assert await txn.expect_absent(["a", "b"]) == {"a": None, "b": None}
        txn.put("a", b"1")

    await atomic(etcd, body)
    assert calls == ["kv/txn"]
    stored = await etcd.get("a")
    assert stored is not None and stored.value == b"1"


@pytest_twisted.ensureDeferred
async def test_an_assumption_that_is_wrong(etcd: EtcdClient) -> None:
    """Nothing is written, and the next attempt reads the key."""
    await etcd.put("a", b"0")
    seen = []

    async def body(txn: AtomicTxn) -> None:
        found = await txn.expect_absent(["a"])
        seen.append(found["a"] is None)
        if found["a"] is None:
            txn.put("b", b"1")

    await atomic(etcd, body)
    assert seen == [True, False]
    assert await etcd.get("b") is None


@pytest_twisted.ensureDeferred
async def test_a_lost_answer_after_an_assumption(
    etcd: EtcdClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The written keys are recognised: the body doesn't find its own write."""
    commit, attempts = etcd.commit, 0

    async def losing(*arguments: Any) -> Any:
        await commit(*arguments)
        raise EtcdUnavailable("the answer was lost")

    async def body(txn: AtomicTxn) -> None:
        nonlocal attempts
        attempts += 1
        assert (await txn.expect_absent(["lock"]))["lock"] is None
        txn.put("lock", b"1")
        txn.put("task", b"2")

    monkeypatch.setattr(etcd, "commit", losing)
    await atomic(etcd, body)
    assert attempts == 1


@pytest_twisted.ensureDeferred
async def test_a_load_in_one_request(etcd: EtcdClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys and prefixes are read together, however many keys a prefix has."""
    for number in range(250):
        await etcd.put(f"p/{number:03d}", b"x" * number)
    await etcd.put("k", b"1")

    async def body(txn: AtomicTxn) -> tuple[list[bytes], dict[str, Any]]:
        await txn.load(["k", "none"], ["p/", "q/"])
        calls = _count_calls(etcd, monkeypatch)
        found = [kv.value for kv in await txn.range("p/", track_deletes=False)]
        assert await txn.range("q/") == []
        result = found, await txn.get_many(["k", "none"])
        assert calls == []
        return result

    found, keys = await atomic(etcd, body)
    assert found == [b"x" * number for number in range(250)]
    assert keys["k"].value == b"1" and keys["none"] is None


@pytest_twisted.ensureDeferred
async def test_what_a_transaction_has_changed(etcd: EtcdClient) -> None:
    """Deletions count if they have found a key; nothing counts before the commit."""
    for key in ("deleted/a", "below/a", "below/b/c", "spared/a", "spared/b"):
        await etcd.put(key, b"1")

    async def body(txn: AtomicTxn) -> AtomicTxn:
        txn.delete_prefix("below/b/")
        txn.delete_prefix("spared/")
        txn.delete_prefix("empty/a/")
        txn.delete("deleted/a")
        txn.delete("absent/a")
        txn.put("spared/a", b"2")
        txn.put("put/a", b"2")
        assert not txn.has_changed("put/")
        return txn

    txn = await atomic(etcd, body)
    assert [
        each for each in ("deleted/", "below/", "spared/", "put/") if txn.has_changed(each)
    ] == [
        "deleted/",
        "below/",
        "spared/",
        "put/",
    ]
    assert txn.has_changed("below/b/c/") and not txn.has_changed("below/a/")
    assert not txn.has_changed("empty/") and not txn.has_changed("absent/")

    async def again(txn: AtomicTxn) -> AtomicTxn:
        txn.delete_prefix("below/b/")
        txn.delete_prefix("spared/")
        txn.put("spared/a", b"2")
        return txn

    txn = await atomic(etcd, again)
    assert not txn.has_changed("below/") and txn.has_changed("spared/")


def _count_calls(etcd: EtcdClient, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the methods that the client calls from now on."""
    calls: list[str] = []
    call = etcd.call

    async def counted(method: str, *arguments: Any, **options: Any) -> Any:
        calls.append(method)
        return await call(method, *arguments, **options)

    monkeypatch.setattr(etcd, "call", counted)
    return calls
