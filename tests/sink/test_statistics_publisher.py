"""Statistics of a source node in a real etcd."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import Clock

from stream.etcd import EtcdClient, EtcdUnavailable
from stream.sink.counters import SliceCounters
from stream.sink.statistics_publisher import StatisticsPublisher
from stream.storage.model import prefix
from stream.storage.model.entity import Slice
from stream.storage.model.state import Level
from stream.storage.store.statistics_reads import slice_statistics
from stream.values.utctime import from_milliseconds
from tests.storage.histories.world import Storage
from tests.waiting import until


async def _slice(etcd: EtcdClient) -> tuple[Storage, Slice]:
    storage = Storage(etcd)
    await storage.define()
    await storage.open_file()
    (slice_,) = await storage.slices()
    return storage, slice_


@pytest_twisted.ensureDeferred
async def test_counts_continue_after_a_restart(etcd: EtcdClient) -> None:
    """Counts are added to those of an earlier life, and the times are the earliest and the
    latest.
    """
    _, slice_ = await _slice(etcd)
    for first, last in ((5000, 6000), (4000, 9000)):
        publisher = StatisticsPublisher(etcd, "node-1", 1.0, Clock())
        counters = SliceCounters()
        publisher.opened(slice_.key, counters)
        counters.add(2, 100, 10, first, last)
        await publisher._round()
        counters.add(1, 50, 5, last, last)
        await publisher.closed(slice_.key)
    found = (await slice_statistics(etcd, slice_.key)).local
    assert (found.records_count, found.uncompressed_size, found.compressed_size) == (6, 300, 30)
    assert found.first_record_at == from_milliseconds(4000)
    assert found.last_record_at == from_milliseconds(9000)
    assert found.slices_count == 1


@pytest_twisted.ensureDeferred
async def test_a_failed_update_is_repeated(
    etcd: EtcdClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A value counts as stored only if etcd has acknowledged it, even if it doesn't change."""
    _, slice_ = await _slice(etcd)
    publisher = StatisticsPublisher(etcd, "node-1", 1.0, Clock())
    counters = SliceCounters()
    publisher.opened(slice_.key, counters)
    counters.add(2, 100, 10, 1000, 1000)

    async def away(*_: object, **__: object) -> None:
        raise EtcdUnavailable("etcd is unavailable")

    with monkeypatch.context() as patch:
        patch.setattr("stream.sink.statistics_publisher.atomic", away)
        await publisher._round()
    assert (await slice_statistics(etcd, slice_.key)).local.records_count == 0
    await publisher._round()
    assert (await slice_statistics(etcd, slice_.key)).local.records_count == 2


@pytest_twisted.ensureDeferred
async def test_a_value_without_an_answer_is_stored_again_when_etcd_is_back(
    etcd: EtcdClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sink of a source that has lost its lease accepts no records before that."""
    _, slice_ = await _slice(etcd)
    publisher = StatisticsPublisher(etcd, "node-1", 1.0, Clock())
    counters = SliceCounters()
    publisher.opened(slice_.key, counters)
    counters.add(2, 100, 10, 1000, 1000)

    async def silent(*_: object, **__: object) -> None:
        await Deferred()

    with monkeypatch.context() as patch:
        patch.setattr("stream.sink.statistics_publisher.atomic", silent)
        closing = ensureDeferred(publisher.closed(slice_.key))
    assert not closing.called
    etcd._back.fire(None)
    await closing
    assert (await slice_statistics(etcd, slice_.key)).local.records_count == 2


@pytest_twisted.ensureDeferred
async def test_a_late_value_does_not_replace_a_newer_one(
    etcd: EtcdClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that was given up may reach etcd after its repetition with more records."""
    _, slice_ = await _slice(etcd)
    publisher = StatisticsPublisher(etcd, "node-1", 1.0, Clock())
    counters = SliceCounters()
    publisher.opened(slice_.key, counters)
    counters.add(2, 100, 10, 1000, 1000)
    await publisher._round()
    late: list[Any] = []
    commit = etcd.commit

    async def silent(*arguments: Any) -> None:
        late.append(arguments)
        await Deferred()

    counters.add(1, 50, 5, 2000, 2000)
    with monkeypatch.context() as patch:
        patch.setattr(etcd, "commit", silent)
        closing = ensureDeferred(publisher.closed(slice_.key))
        await until(lambda: bool(late))
    counters.add(1, 50, 5, 3000, 3000)
    etcd._back.fire(None)
    await closing
    assert not (await commit(*late[0])).succeeded
    assert (await slice_statistics(etcd, slice_.key)).local.records_count == 4


@pytest_twisted.ensureDeferred
async def test_no_update_after_the_slice_has_left_the_level(etcd: EtcdClient) -> None:
    """A late value creates no key at a level that the slice has left."""
    storage, slice_ = await _slice(etcd)
    publisher = StatisticsPublisher(etcd, "node-1", 1.0, Clock())
    counters = SliceCounters()
    publisher.opened(slice_.key, counters)
    counters.add(2, 100, 10, 1000, 1000)
    await publisher._round()
    await storage.close_files()
    await storage.to_uploading(slice_.key)
    await storage.to_uploaded(slice_.key)
    counters.add(1, 50, 5, 2000, 2000)
    await publisher.closed(slice_.key)
    left = await etcd.range(f"{prefix.statistics(Level.LOCAL)}{slice_.key}/")
    assert not left.kvs
    assert (await slice_statistics(etcd, slice_.key)).staging.records_count == 2
    await storage.check()
