"""Slice files with rows but without counts in a real etcd; see Note [Uncounted rows]."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from stream.etcd import EtcdClient, EtcdError, EtcdUnavailable
from stream.settings import Settings
from stream.sink.counters import SliceCounters
from stream.sink.statistics_publisher import StatisticsPublisher
from stream.storage.model import prefix
from stream.storage.model.entity import Slice, slice_directory
from stream.storage.model.pending import Pending, pending_by_sink
from stream.storage.model.state import Level
from stream.storage.model.statistics import Aggregated, Statistics
from stream.storage.model.triggers import slice_rotation
from stream.storage.store.statistics_reads import slice_statistics
from stream.storage.volumes.local_volume import FoundVolume
from stream.storage.writer.uncounted import CHECK_SECONDS, UncountedRows
from stream.storage.writer.writer import OpenVolume
from stream.values.utctime import from_milliseconds
from tests.storage.histories.world import Storage

_NODE = "stream.node-1"


@attrs.define(eq=False)
class Checked:
    """A slice on a volume whose files are checked."""

    client: EtcdClient
    storage: Storage
    slice: Slice
    volume: OpenVolume
    rows: UncountedRows = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.rows = self.started()

    def started(self) -> UncountedRows:
        """Return the check of a writer that has just started."""
        return UncountedRows(self.client, self.volume, lambda: [str(self.slice.key)])

    @property
    def path(self) -> Path:
        directory = self.volume.found.path / self.slice.local.dir
        directory.mkdir(parents=True, exist_ok=True)
        return directory / self.slice.local.filename(_NODE)

    def opened(self, content: bytes) -> None:
        self.path.write_bytes(content)
        self.rows.opened(self.slice.key, _NODE, self.path)

    async def later(self) -> int:
        """Check the files twice; return the number of estimates."""
        return await self.rows.check() + await self.rows.check()

    async def count(self) -> None:
        """Store the counts of three records as the source node does."""
        publisher = StatisticsPublisher(self.client, _NODE, 1.0, Clock())
        counters = SliceCounters()
        publisher.opened(self.slice.key, counters)
        counters.add(3, 30, 20, 1000, 2000)
        await publisher.closed(self.slice.key)

    async def counts(self) -> Statistics:
        return (await slice_statistics(self.client, self.slice.key)).local


@pytest.fixture
def checked(etcd: EtcdClient, tmp_path: Path) -> Iterator[Checked]:
    storage = Storage(etcd)

    async def prepare() -> Slice:
        await storage.define()
        await storage.open_file()
        return (await storage.slices())[0]

    slice_ = pytest_twisted.blockon(Deferred.fromCoroutine(prepare()))
    found = FoundVolume(tmp_path, "hdd", "one")
    volume = OpenVolume(found, slice_.key.volume_id, reactor)
    volume.pool.start()
    yield Checked(etcd, storage, slice_, volume)
    pytest_twisted.blockon(Deferred.fromCoroutine(volume.leave(reactor, 5)))


@pytest_twisted.ensureDeferred
async def test_rows_without_counts_are_rotated(checked: Checked) -> None:
    """The estimate is what the coordinator needs to rotate the slice."""
    checked.opened(b"a\n")
    assert await checked.rows.check() == 0  # the source node still has time
    assert await checked.rows.check() == 1
    counts = await checked.counts()
    assert (counts.records_count, counts.compressed_size, counts.is_estimate) == (1, 2, True)
    upload, opened_at = checked.slice.staging.upload, checked.slice.key.slice_opened_at
    due = checked.storage.tick(3600)
    assert slice_rotation(upload, opened_at, counts, due).rotate
    assert not slice_rotation(upload, opened_at, Statistics(), due).rotate
    assert await checked.later() == 0


@pytest_twisted.ensureDeferred
async def test_the_time_of_an_estimate(checked: Checked) -> None:
    """Records that have only an estimate are pending since the last write."""
    checked.opened(b"a\n")
    os.utime(checked.path, (1000, 2000))
    assert await checked.later() == 1
    counts = await checked.counts()
    assert (counts.first_record_at, counts.last_record_at) == (None, from_milliseconds(2_000_000))
    key = checked.slice.key
    pending = pending_by_sink([(key.file_key, Aggregated(local=counts))])
    assert pending == {key.sink_key: Pending(1, from_milliseconds(2_000_000))}


@pytest_twisted.ensureDeferred
async def test_a_file_that_is_opened_again_and_again(checked: Checked) -> None:
    """A source node that ends soon after each start doesn't put off the estimate."""
    checked.opened(b"a\n")
    assert await checked.rows.check() == 0
    checked.opened(b"a\nb\n")
    assert await checked.rows.check() == 1


@pytest_twisted.ensureDeferred
async def test_counted_rows_are_left(checked: Checked) -> None:
    """Counts of the source node aren't changed."""
    await checked.count()
    before = await checked.counts()
    checked.opened(b"a\n")
    assert await checked.later() == 0
    assert await checked.counts() == before
    assert not checked.rows._files


@pytest_twisted.ensureDeferred
async def test_an_empty_file_is_checked_until_it_has_rows(checked: Checked) -> None:
    """A file is usually opened long before its first row."""
    checked.opened(b"")
    assert await checked.later() == 0
    checked.path.write_bytes(b"a\n")
    assert await checked.later() == 1


@pytest_twisted.ensureDeferred
async def test_files_of_finished_slices_are_not_checked(checked: Checked) -> None:
    """An estimate at a level that the slice has left would stay forever."""
    checked.opened(b"a\n")
    await checked.storage.close_files()
    await checked.storage.to_uploading(checked.slice.key)
    await checked.storage.to_uploaded(checked.slice.key)
    assert await checked.later() == 0
    assert not checked.rows._files
    left = await checked.client.range(f"{prefix.statistics(Level.LOCAL)}{checked.slice.key}/")
    assert not left.kvs


@pytest_twisted.ensureDeferred
async def test_files_of_earlier_processes_are_found(checked: Checked) -> None:
    """The writer may have died together with the source node; only slice files count."""
    checked.path.write_bytes(b"a\n")
    checked.path.with_name(f".{checked.path.name}.life").write_bytes(b"7")
    checked.path.with_name(checked.slice.local.filename("other")).touch()
    assert checked.slice.local.dir == slice_directory(checked.slice.key)
    checked.rows = checked.started()
    assert await checked.later() == 1
    found = await checked.client.range(f"{prefix.statistics(Level.LOCAL)}{checked.slice.key}/")
    names = [kv.key.rpartition("/")[2] for kv in found.kvs]
    assert sorted(names) == [prefix.OPEN_STATISTICS, _NODE]


@pytest_twisted.ensureDeferred
async def test_a_slice_whose_files_are_gone(checked: Checked) -> None:
    """A directory that was removed isn't an error."""
    checked.opened(b"a\n")
    shutil.rmtree(checked.path.parent)
    assert await checked.later() == 0


@pytest_twisted.ensureDeferred
async def test_a_check_without_etcd_is_repeated(
    checked: Checked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next check finds the same files."""
    checked.path.write_bytes(b"a\n")

    async def away(*_: object, **__: object) -> None:
        raise EtcdUnavailable("etcd is unavailable")

    with monkeypatch.context() as patch:
        patch.setattr(checked.client, "get_many", away)
        with pytest.raises(EtcdError):
            await checked.rows.check()
    assert await checked.rows.check() == 0
    with monkeypatch.context() as patch:
        patch.setattr("stream.storage.writer.uncounted.atomic", away)
        with pytest.raises(EtcdError):
            await checked.later()
    assert await checked.later() == 1


@pytest_twisted.ensureDeferred
async def test_a_source_node_replaces_the_estimate(checked: Checked) -> None:
    """A node that was only slow, or its next life, adds nothing to the estimate."""
    checked.opened(b"a\n")
    assert await checked.later() == 1
    await checked.count()
    counts = await checked.counts()
    assert (counts.records_count, counts.compressed_size) == (3, 20)
    assert counts.first_record_at == from_milliseconds(1000)


def test_the_check_waits_longer_than_source_nodes_take() -> None:
    """A healthy node has stored its counts before a check asks for them."""
    interval = Settings().storage.statistics.sync.interval.seconds
    assert 5 * interval <= CHECK_SECONDS
