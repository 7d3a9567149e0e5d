"""Lists of live definitions in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs

from stream.definition import lifecycle, prefix
from stream.definition.entity import SYSTEM, KeboolaTable, TableSink
from stream.definition.key import BranchKey
from stream.definition.live import LiveDefinitions
from stream.definition.reads import DefinitionReads
from stream.definition.repository import Definitions
from stream.definition.transaction import Change
from stream.etcd import AtomicTxn, Batch, EtcdClient, EtcdUnavailable, Session, atomic
from stream.mapping.columns import Mapping, column_from_plain
from tests.waiting import until

BRANCH = BranchKey(1, 2)
SOURCE = BRANCH.source("s")
AT = datetime(2024, 1, 1, tzinfo=UTC)


@pytest_twisted.async_yield_fixture()
async def live(etcd: EtcdClient) -> AsyncIterator[LiveDefinitions]:
    session = Session(etcd, ttl=10, reactor=reactor)
    await session.startService()
    live = LiveDefinitions(reactor, etcd, session)
    await live.startService()
    yield live
    await live.stopService()
    await session.stopService()


async def _define(etcd: EtcdClient, sinks: list[str]) -> AtomicTxn:
    table = TableSink(
        type="keboola",
        keboola=KeboolaTable("in.c-b.t"),
        mapping=Mapping((column_from_plain({"type": "body", "name": "b"}),)),
    )

    async def body(txn: AtomicTxn) -> AtomicTxn:
        change = Change(txn, AT, SYSTEM)
        source = lifecycle.new_source(
            SOURCE, type="http", name="s", secret="x" * 48, at=AT, by=SYSTEM
        )
        await Definitions().create_source(change, source)
        for sink_id in sinks:
            sink = lifecycle.new_sink(
                SOURCE.sink(sink_id), name=sink_id, table=table, at=AT, by=SYSTEM
            )
            await Definitions().create_sink(change, sink)
        return txn

    return await atomic(etcd, body)


@pytest.mark.parametrize(
    ("after", "limit"), [("", 100), ("", 2), ("a", 2), ("b", 100), ("bb", 1), ("z", 5)]
)
@pytest_twisted.ensureDeferred
async def test_a_page_equals_that_of_etcd(
    live: LiveDefinitions, etcd: EtcdClient, after: str, limit: int
) -> None:
    """A page from memory has the items, the order and the count of a page from etcd."""
    await _define(etcd, ["b", "a", "c-d", "c", "b0"])
    await live.settle(SOURCE)
    page = live.sinks_page(SOURCE, after, limit)
    assert page is not None
    expected = await DefinitionReads(etcd).sinks_page(SOURCE, after, limit)
    assert tuple(entry.value for entry in page.items) == expected.items
    assert page.total == expected.total


@pytest_twisted.ensureDeferred
async def test_deleted_definitions_are_not_listed(live: LiveDefinitions, etcd: EtcdClient) -> None:
    """A deleted sink and a deleted source are no longer listed."""
    await _define(etcd, ["a", "b"])

    async def delete_sink(txn: AtomicTxn) -> None:
        await Definitions().delete_sink(Change(txn, AT, SYSTEM), SOURCE.sink("a"))

    async def delete_source(txn: AtomicTxn) -> None:
        await Definitions().delete_source(Change(txn, AT, SYSTEM), SOURCE)

    await atomic(etcd, delete_sink)
    await live.settle(SOURCE)
    page = live.sinks_page(SOURCE, "", 100)
    assert page is not None
    assert [entry.value.key.sink_id for entry in page.items] == ["b"]
    await atomic(etcd, delete_source)
    await live.settle(SOURCE)
    sources = live.sources_page(BRANCH, "", 100)
    assert sources is not None
    assert sources.total == 0
    assert live.sinks_page(SOURCE, "", 100) is None


@pytest.mark.parametrize("is_answered", [True, False], ids=["answered", "in doubt"])
@pytest.mark.parametrize("sinks", [[], ["a"]], ids=["no sinks", "one sink"])
@pytest_twisted.ensureDeferred
async def test_a_purged_source_is_gone_at_once(
    live: LiveDefinitions,
    etcd: EtcdClient,
    monkeypatch: pytest.MonkeyPatch,
    sinks: list[str],
    is_answered: bool,
) -> None:
    """The purge doesn't wait for sinks that the source hasn't had, as no watch reports them."""
    await _define(etcd, sinks)
    await live.settle(SOURCE)
    commit = etcd.commit

    async def unanswered(*arguments: Any) -> Any:
        await commit(*arguments)
        raise EtcdUnavailable("no answer")

    async def purge(txn: AtomicTxn) -> AtomicTxn:
        await Definitions().purge_source(Change(txn, AT, SYSTEM), SOURCE)
        return txn

    if not is_answered:
        monkeypatch.setattr(etcd, "commit", unanswered)
    txn = await atomic(etcd, purge)
    with capturedLogs() as logs:
        await live.follow(SOURCE, txn)
    assert not [entry for entry in logs if entry["log_namespace"] == "stream.definition.live"]
    assert live.source(SOURCE) is None and live.sinks_page(SOURCE, "", 100) is None


def _held(live: LiveDefinitions, monkeypatch: pytest.MonkeyPatch) -> Deferred[None]:
    """Hold back changes of sinks until the returned Deferred fires, longer than a wait lasts."""
    monkeypatch.setattr("stream.definition.live._SETTLE_SECONDS", 0.01)
    gate: Deferred[None] = Deferred()

    async def slow(_: Batch[Any]) -> None:
        await gate

    live._sinks.listen(slow)
    return gate


@pytest_twisted.ensureDeferred
async def test_a_change_whose_wait_ended_too_early(
    live: LiveDefinitions, etcd: EtcdClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until the memory has the change, it says that it is late."""
    gate = _held(live, monkeypatch)
    assert not live.is_late
    txn = await _define(etcd, ["a"])
    await live.follow(SOURCE, txn)
    assert live.is_late
    gate.callback(None)
    await until(lambda: not live.is_late)


@pytest_twisted.ensureDeferred
async def test_a_source_that_has_not_settled(
    live: LiveDefinitions, etcd: EtcdClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The memory is late until it has all that etcd had when the wait ended."""
    gate = _held(live, monkeypatch)
    await _define(etcd, ["a"])
    await until(lambda: live._sinks.items)
    await etcd.delete(f"{prefix.SINK_ACTIVE}{SOURCE.sink('a')}")
    await live.settle(SOURCE)
    assert live.is_late
    gate.callback(None)
    for where in (prefix.SOURCE_ACTIVE, prefix.SINK_ACTIVE):
        await etcd.put(f"{where}1/2/other", b"{}")
    await until(lambda: not live.is_late)
    await live.settle(SOURCE)
    assert live.sink(SOURCE.sink("a")) is None
