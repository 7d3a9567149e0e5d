from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import deferLater

from stream.etcd import AtomicTxn, Batch, EtcdClient, EtcdUnavailable, KeyValue, Mirror, atomic
from stream.etcd import client as client_module
from stream.etcd import mirror as mirror_module
from stream.etcd import watch as watch_module
from stream.etcd.mirror import Change
from stream.etcd.watch import Event, LineSplitter
from tests.etcd.servers import EtcdServer, Proxy, reactor
from tests.waiting import mirrored, until


def _decode(kv: KeyValue) -> str:
    return kv.value.decode()


async def _started(
    client: EtcdClient, batches: list[Batch[str]] | None = None, decode: Any = _decode
) -> Mirror[str]:
    mirror = Mirror(client, "m/", decode, on_change=None if batches is None else batches.append)
    await mirror.startService()
    return mirror


@pytest_twisted.ensureDeferred
async def test_a_mirror_follows_its_prefix(etcd: EtcdClient) -> None:
    """A mirror has the content of its prefix, and reports old and new values of changes."""
    await etcd.put("m/a", b"1")
    await etcd.put("mm/x", b"not below it")
    batches: list[Batch[str]] = []
    mirror = await _started(etcd, batches)
    assert mirror.items == {"m/a": "1"}
    assert batches[0].reset and batches[0].revision == mirror.revision
    await etcd.put("m/a", b"2")
    await etcd.delete("m/a")
    revision = await etcd.put("m/b", b"3")
    await mirrored(mirror, revision)
    assert mirror.items == {"m/b": "3"}
    changes = [change for batch in batches for change in batch.changes]
    assert [(c.key, c.previous, c.value) for c in changes] == [
        ("m/a", None, "1"),
        ("m/a", "1", "2"),
        ("m/a", "2", None),
        ("m/b", None, "3"),
    ]
    assert not any(batch.reset for batch in batches[1:])
    await mirror.stopService()


@pytest_twisted.ensureDeferred
async def test_one_batch_for_one_transaction(etcd: EtcdClient) -> None:
    """Keys written together are reported together."""
    batches: list[Batch[str]] = []
    mirror = await _started(etcd, batches)

    async def body(txn: AtomicTxn) -> None:
        for i in range(50):
            txn.put(f"m/{i}", b"x")

    await atomic(etcd, body)
    await until(lambda: len(mirror.items) == 50)
    assert [len(batch.changes) for batch in batches] == [0, 50]
    await mirror.stopService()


@pytest_twisted.ensureDeferred
async def test_batches_are_applied_in_order(etcd: EtcdClient) -> None:
    """The next batch is applied when the handler of the previous one has finished."""
    told: list[tuple[str, dict[str, str]]] = []
    gates: list[Deferred[None]] = []

    async def handle(batch: Batch[str]) -> None:
        told.append(("begin", dict(mirror.items)))
        gates.append(Deferred())
        await gates[-1]
        told.append(("end", dict(mirror.items)))

    mirror = Mirror(etcd, "m/", _decode, on_change=handle)
    starting = ensureDeferred(mirror.startService())
    await until(lambda: len(gates) == 1)
    await deferLater(reactor, 0.05)
    assert not starting.called
    gates[0].callback(None)
    await starting
    await etcd.put("m/a", b"1")
    for i in (1, 2):
        await until(lambda i=i: len(gates) == i + 1)
        if i == 1:
            revision = await etcd.put("m/a", b"2")
        await deferLater(reactor, 0.05)
        assert mirror.items == {"m/a": str(i)} and mirror.revision < revision
        gates[i].callback(None)
    await mirrored(mirror, revision)
    assert [what for what, _ in told] == ["begin", "end"] * 3
    await mirror.stopService()


@pytest_twisted.ensureDeferred
async def test_an_invalid_value_and_a_failing_handler(etcd: EtcdClient) -> None:
    """An invalid value is skipped, a failure of the handler is logged, and the mirror continues."""
    await etcd.put("m/bad", b"\xff")
    await etcd.put("m/good", b"1")

    def handle(batch: Batch[str]) -> None:
        raise RuntimeError("the handler failed")

    mirror = Mirror(etcd, "m/", _decode, on_change=handle)
    await mirror.startService()
    assert mirror.items == {"m/good": "1"}
    await etcd.put("m/bad", b"now good")
    await etcd.put("m/good", b"\xff")
    revision = await etcd.put("m/c", b"3")
    await mirrored(mirror, revision)
    assert mirror.items == {"m/bad": "now good", "m/c": "3"}
    await mirror.stopService()


@pytest_twisted.ensureDeferred
async def test_answers_in_single_bytes(etcd: EtcdClient, proxied: EtcdClient, proxy: Proxy) -> None:
    """Changes that arrive byte by byte are reported like any other."""
    mirror = await _started(proxied)
    proxy.bytewise = True
    await etcd.put("m/a", b"1")
    await etcd.delete("m/a")
    revision = await etcd.put("m/b", b"2")
    await mirrored(mirror, revision)
    assert mirror.items == {"m/b": "2"}
    await mirror.stopService()


@pytest_twisted.ensureDeferred
async def test_a_connection_closed_during_an_event(
    etcd: EtcdClient, proxied: EtcdClient, proxy: Proxy
) -> None:
    """A connection closed at any position loses no change and repeats none."""
    batches: list[Batch[str]] = []
    mirror = await _started(proxied, batches)
    for i, cut in enumerate([1, 7, 60, 120, 199, 250, 299, 330, 400]):
        await until(lambda: proxy.connections)
        proxy.cut_after = cut
        for j in range(4):
            revision = await etcd.put("m/a", f"{i}.{j}".encode())
        await mirrored(mirror, revision)
    values = [change.value for batch in batches for change in batch.changes]
    assert values == [f"{i}.{j}" for i in range(9) for j in range(4)]
    await mirror.stopService()


@pytest_twisted.ensureDeferred
async def test_compaction_while_disconnected(
    etcd: EtcdClient, proxied: EtcdClient, proxy: Proxy
) -> None:
    """After a compaction the mirror reports its whole content again."""
    await etcd.put("m/gone", b"1")
    await etcd.put("m/kept", b"1")
    batches: list[Batch[str]] = []
    mirror = await _started(proxied, batches)
    await proxy.refuse()
    await etcd.delete("m/gone")
    await etcd.put("m/kept", b"2")
    revision = await etcd.put("m/new", b"1")
    await etcd.call("kv/compaction", {"revision": revision})
    proxy.listen()
    await mirrored(mirror, revision)
    assert mirror.items == {"m/kept": "2", "m/new": "1"}
    assert len(batches) == 2 and batches[1].reset and batches[1].revision >= revision
    assert {(c.key, c.previous, c.value) for c in batches[1].changes} == {
        ("m/kept", "1", "2"),
        ("m/new", None, "1"),
    }
    await mirrored(mirror, await etcd.put("m/new", b"2"))
    assert mirror.items["m/new"] == "2" and not batches[-1].reset
    await mirror.stopService()


@pytest_twisted.ensureDeferred
async def test_etcd_restarted(server: EtcdServer) -> None:
    """A mirror continues after a restart of etcd."""
    client = EtcdClient(reactor, [server.url], "x")
    await client.startService()
    await client.put("m/a", b"1")
    batches: list[Batch[str]] = []
    mirror = await _started(client, batches)
    server.kill()
    await deferLater(reactor, 0.3)
    await server.start()
    await mirrored(mirror, await client.put("m/b", b"2"))
    assert mirror.items == {"m/a": "1", "m/b": "2"}
    assert [batch.reset for batch in batches] == [True, False]
    await mirror.stopService()
    await client.stopService()


@pytest_twisted.ensureDeferred
async def test_etcd_restored(server: EtcdServer, tmp_path: Path) -> None:
    """A mirror has the content of an etcd that was restored from an older snapshot, and
    follows it.
    """
    client = EtcdClient(reactor, [server.url], "x")
    await client.startService()
    await client.put("m/a", b"old")
    server.save(tmp_path / "snapshot")
    for _ in range(20):
        await client.put("m/a", b"new")
    batches: list[Batch[str]] = []
    mirror = await _started(client, batches)
    assert mirror.items == {"m/a": "new"}
    server.kill()
    server.restore(tmp_path / "snapshot")
    await server.start()
    await until(lambda: mirror.items == {"m/a": "old"})
    assert batches[-1].reset and batches[-1].revision == mirror.revision
    await client.put("m/b", b"later")
    await until(lambda: mirror.items == {"m/a": "old", "m/b": "later"})
    await mirror.stopService()
    await client.stopService()


@pytest_twisted.ensureDeferred
async def test_an_idle_watch_is_checked(
    etcd: EtcdClient, proxied: EtcdClient, proxy: Proxy, monkeypatch: Any
) -> None:
    """A silently dead connection is detected, and an idle one is kept."""
    monkeypatch.setattr(mirror_module, "_SILENCE_SECONDS", 0.1)
    await etcd.put("m/a", b"1")
    await etcd.put("m/bad", b"\xff")
    batches: list[Batch[str]] = []
    mirror = await _started(proxied, batches)
    await until(lambda: len(proxy.connections) == 2)
    before = proxy.accepted
    revision = await etcd.put("elsewhere", b"1")
    await mirrored(mirror, revision)
    assert proxy.accepted == before and len(batches) == 1
    proxy.is_deaf = True
    await etcd.delete("m/a")
    await deferLater(reactor, 0.05)
    proxy.is_deaf = False
    await until(lambda: mirror.items == {})
    assert [batch.reset for batch in batches] == [True, True]
    await mirror.stopService()


class _Forgetful(Mirror[str]):
    """A watch that loses one change but not the later ones."""

    lost = "m/lost"

    def _apply(self, event: Event) -> Change[str] | None:
        if event.key == self.lost:
            self.lost = ""
            return None
        return super()._apply(event)


@pytest.mark.parametrize("was_there", [True, False])
@pytest_twisted.ensureDeferred
async def test_a_lost_change_before_another(
    etcd: EtcdClient, monkeypatch: pytest.MonkeyPatch, was_there: bool
) -> None:
    """A lost deletion or creation is detected by the number of keys."""
    monkeypatch.setattr(mirror_module, "_SILENCE_SECONDS", 0.1)
    if was_there:
        await etcd.put("m/lost", b"old")
    mirror = _Forgetful(etcd, "m/", _decode)
    await mirror.startService()
    if was_there:
        await etcd.delete("m/lost")
    else:
        await etcd.put("m/lost", b"new")
    revision = await etcd.put("m/later", b"1")
    await mirrored(mirror, revision)
    assert ("m/lost" in mirror.items) is was_there
    await until(lambda: ("m/lost" in mirror.items) is not was_there)
    assert mirror.items["m/later"] == "1"
    await mirror.stopService()


@pytest_twisted.ensureDeferred
async def test_stop_without_etcd(proxied: EtcdClient, proxy: Proxy) -> None:
    """A mirror stops at once whether etcd refuses or swallows its requests."""
    for is_blackhole in (True, False):
        mirror = await _started(proxied)
        if is_blackhole:
            proxy.is_blackhole = True
            await proxy.cut()
        else:
            await proxy.refuse()
        await deferLater(reactor, 0.3)
        began = reactor.seconds()
        await mirror.stopService()
        assert reactor.seconds() - began < 0.5
        proxy.is_blackhole = False
    with pytest.raises(EtcdUnavailable):
        await _started(proxied)


@pytest_twisted.ensureDeferred
async def test_stop_during_a_handler(etcd: EtcdClient) -> None:
    """Stopping cancels the Deferred that the handler waits for."""
    forever: Deferred[None] = Deferred()

    async def handle(batch: Batch[str]) -> None:
        if not batch.reset:
            await forever

    mirror = Mirror(etcd, "m/", _decode, on_change=handle)
    await mirror.startService()
    await etcd.put("m/a", b"1")
    await until(lambda: mirror.items)
    await mirror.stopService()
    assert forever.called


@pytest_twisted.ensureDeferred
async def test_stop_by_the_deferred_of_a_handler(etcd: EtcdClient) -> None:
    """A firing Deferred can't be cancelled; the mirror still ends without further reports."""
    stopping: list[Deferred[None]] = []
    waited_for: Deferred[None] = Deferred()
    handled: list[str] = []

    async def handle(batch: Batch[str]) -> None:
        for change in batch.changes:
            handled.append(change.key)
            await (waited_for if change.key == "m/a" else Deferred())

    mirror = Mirror(etcd, "m/", _decode, on_change=handle)

    def stop(_: None) -> None:
        stopping.append(ensureDeferred(mirror.stopService()))

    waited_for.addCallback(stop)
    await mirror.startService()
    await etcd.put("m/a", b"1")
    await until(lambda: handled)
    await etcd.put("m/b", b"2")
    await until(lambda: mirror._stream is not None and mirror._stream._batches)
    waited_for.callback(None)
    await stopping[0].addTimeout(5, reactor)
    assert handled == ["m/a"]


@pytest_twisted.ensureDeferred
async def test_too_many_changes_at_once(etcd: EtcdClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Changes that exceed the limit of a watch's line are read from etcd instead."""
    monkeypatch.setattr(watch_module, "LineSplitter", partial(LineSplitter, 5000))
    mirror = Mirror(etcd, "m/", _decode)
    await mirror.startService()
    await etcd.put("m/large", b"x" * 10_000)
    await until(lambda: "m/large" in mirror.items)
    await etcd.put("m/small", b"1")
    await until(lambda: "m/small" in mirror.items)
    assert len(mirror.items["m/large"]) == 10_000
    await mirror.stopService()


@pytest_twisted.ensureDeferred
async def test_a_watch_is_replaced_after_an_outage(
    etcd: EtcdClient, proxied: EtcdClient, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection stays open, but changes of that time would arrive late or never."""
    monkeypatch.setattr(client_module, "DOUBTED_SECONDS", 0.0)
    mirror = await _started(proxied)
    await until(lambda: mirror._watches == 1)
    proxy.is_blackhole = True
    revision = await etcd.put("m/a", b"1")
    with pytest.raises(EtcdUnavailable):
        await proxied.call("lease/leases", {}, timeout=0.2)
    proxy.is_blackhole = False
    await proxied.call("lease/leases", {})
    await mirrored(mirror, revision)
    assert mirror.items == {"m/a": "1"}
    await mirror.stopService()


@pytest_twisted.ensureDeferred
async def test_a_watch_that_has_reported_since_the_outage_is_kept(etcd: EtcdClient) -> None:
    """It works; only a silent one is replaced."""
    mirror = await _started(etcd)
    await until(lambda: mirror._stream is not None)
    stream, since = mirror._stream, reactor.seconds()
    await mirrored(mirror, await etcd.put("m/a", b"1"))
    mirror.doubt(since)
    await mirrored(mirror, await etcd.put("m/b", b"1"))
    assert mirror._stream is stream and mirror._watches == 1
    mirror.doubt(reactor.seconds())
    await until(lambda: mirror._watches == 2)
    await mirrored(mirror, await etcd.put("m/c", b"1"))
    await mirror.stopService()
