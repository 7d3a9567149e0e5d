"""Statistics of sinks, files and slices in the form of the API."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import pytest_twisted

from stream.definition.transaction import Change
from stream.etcd import AtomicTxn, Session
from stream.storage.model.key import FileKey
from stream.storage.model.retry import NO_RETRY
from stream.storage.model.statistics import Aggregated
from stream.storage.store.overview import Within, overview
from stream.storage.store.records import read_files
from stream.storage.store.statistics_reads import (
    clear,
    last_reset,
    one_file_statistics,
    sink_statistics,
    slice_statistics,
)
from tests.storage.histories.world import BY, SINK, SINK_KEY, Storage


async def _file_statistics(storage: Storage) -> Mapping[FileKey, Aggregated]:
    return (await overview(storage.client, Within(SINK_KEY)))[SINK_KEY].file_statistics


async def cleared(storage: Storage) -> None:
    async def body(txn: AtomicTxn) -> None:
        await clear(Change(txn, storage.tick(), BY), SINK_KEY)

    await storage.step(body)


@pytest_twisted.ensureDeferred
async def test_records_are_shown_at_their_level(storage: Storage) -> None:
    """The statistics of a slice, a file and a sink are sums by level."""
    done = await storage.imported(100)
    file = await storage.open_file()
    (first,) = await storage.slices(file.key)
    await storage.count(first.key, 3, "source-1")
    await storage.count(first.key, 4, "source-2")
    second = await storage.rotate_slice(first.key)
    assert second is not None
    await storage.to_uploading(first.key)
    await storage.to_uploaded(first.key)
    await storage.count(second.key, 10)
    assert (await slice_statistics(storage.client, first.key)).staging.records_count == 7
    assert (await slice_statistics(storage.client, second.key)).local.records_count == 10
    of_file = await one_file_statistics(storage.client, file.key)
    assert (of_file.local.records_count, of_file.staging.records_count) == (10, 7)
    assert of_file.total.slices_count == 2
    of_sink = await sink_statistics(storage.client, SINK_KEY)
    assert (of_sink.target.records_count, of_sink.total.records_count) == (100, 117)
    by_file = await _file_statistics(storage)
    assert by_file[file.key] == of_file
    assert by_file[done.key].target.records_count == 100
    assert len(by_file) == 2


@pytest_twisted.ensureDeferred
async def test_other_sinks(storage: Storage) -> None:
    """A sink whose id has the id of another as a prefix isn't counted with it."""
    longer = attrs.evolve(SINK, key=SINK_KEY.source_key.sink("my-sink-2"))
    file = await storage.open_file(longer)
    (slice_,) = await storage.slices(file.key)
    await storage.count(slice_.key, 5)
    assert (await sink_statistics(storage.client, SINK_KEY)) == Aggregated()
    assert (await sink_statistics(storage.client, longer.key)).local.records_count == 5


@pytest_twisted.ensureDeferred
async def test_after_a_reset_only_later_imports_count(storage: Storage, session: Session) -> None:
    """The deletion of older files changes nothing."""
    done = await storage.imported(100)
    file = await storage.open_file()
    (slice_,) = await storage.slices(file.key)
    await storage.count(slice_.key, 7)
    assert await last_reset(storage.client, SINK_KEY) is None
    await cleared(storage)
    reset = await last_reset(storage.client, SINK_KEY)
    assert reset is not None
    assert (reset.records_count, reset.reset_at) == (100, storage.now)
    found = await sink_statistics(storage.client, SINK_KEY)
    assert (found.local.records_count, found.target.records_count) == (7, 0)
    await storage.close_files()
    await storage.import_all(file.key)
    assert (await sink_statistics(storage.client, SINK_KEY)).target.records_count == 7
    async with await session.lock("file", timeout=5) as lock:
        await storage.repository.delete_file(storage.client, done.key, lock)
    found = await sink_statistics(storage.client, SINK_KEY)
    assert (found.target.records_count, found.target.slices_count) == (7, 1)
    assert set(await _file_statistics(storage)) == {file.key}


@pytest_twisted.ensureDeferred
async def test_a_second_reset(storage: Storage, session: Session) -> None:
    """A second reset replaces the first, also if the sum of deleted files counts."""
    first = await storage.imported(100)
    await cleared(storage)
    async with await session.lock("file", timeout=5) as lock:
        await storage.repository.delete_file(storage.client, first.key, lock)
    await storage.imported(7)
    await cleared(storage)
    assert (await sink_statistics(storage.client, SINK_KEY)).total.records_count == 0
    await storage.imported(1)
    assert (await sink_statistics(storage.client, SINK_KEY)).total.records_count == 1


@pytest_twisted.ensureDeferred
async def test_the_overview(storage: Storage) -> None:
    """The overview has files and statistics of all requested sinks, and of no other."""
    await storage.imported(5)
    file = await storage.open_file()
    (slice_,) = await storage.slices(file.key)
    await storage.count(slice_.key, 2)
    source_id, branch = SINK_KEY.source_id, SINK_KEY.source_key.branch_key
    for within in (
        Within(SINK_KEY),
        Within(branch),
        Within(branch, (source_id,)),
        Within(branch, ("a", source_id, "z")),
        Within(branch, (source_id, f"{source_id}-2")),
    ):
        found = (await overview(storage.client, within))[SINK_KEY]
        assert found.statistics == await sink_statistics(storage.client, SINK_KEY)
        stored = await read_files(storage.client, SINK_KEY)
        assert [each.key for each in found.files] == [each.key for each in stored]
        assert [each.state for each in found.files] == [each.state for each in stored]
        assert {each.retry for each in found.files} == {NO_RETRY}
        assert set(found.file_statistics) == {each.key for each in stored}
    for others in (("a", "b"), (f"{source_id}-2",), (source_id[:-1], f"{source_id}-2")):
        assert await overview(storage.client, Within(branch, others)) == {}
