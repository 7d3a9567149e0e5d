"""The largest transactions don't exceed etcd's default limit of 128 operations."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from functools import cache
from typing import TypeVar

import attrs
import pytest
import pytest_twisted

from stream.definition import lifecycle
from stream.definition.entity import Sink, Source, TableSink
from stream.definition.key import SinkKey, SourceKey
from stream.definition.mappings import MAX_MAPPING_BYTES
from stream.definition.prefix import SINK_ACTIVE
from stream.definition.reads import DefinitionReads
from stream.definition.repository import MAX_DEFINITION_BYTES, Definitions
from stream.definition.size import SIZE
from stream.definition.transaction import Change
from stream.etcd import AtomicTxn, EtcdClient, Mirror, Session, json_values
from stream.mapping.columns import (
    MAX_COLUMNS,
    MAX_TEMPLATE_CHARACTERS,
    Mapping,
    PathColumn,
    Template,
    TemplateColumn,
)
from stream.mapping.stored import INLINE_BYTES
from stream.settings import Settings
from stream.settings.declare import with_values
from stream.storage.model.entity import File, Slice
from stream.storage.model.key import FileKey
from stream.storage.model.state import FileState, Level, SliceState
from stream.storage.store import records
from stream.storage.store.mapping_cleanup import delete_unused_mappings
from stream.storage.store.prepared import PreparedFile
from stream.storage.store.repository import MAX_SLICES, StorageRepository
from stream.storage.store.statistics_reads import one_file_statistics
from stream.storage.store.volume_limit import ALWAYS_POSSIBLE, VolumeLimit
from stream.values.bytesize import ByteSize
from stream.values.codec import encode
from tests.definition.changes import Changes
from tests.storage.histories.world import (
    BY,
    SINK_KEY,
    SOURCE,
    SOURCE_KEY,
    TABLE,
    RecordingProvider,
    Storage,
    prepared_file,
    sample_volume,
)

T = TypeVar("T")
Step = Callable[[Definitions, Change, SourceKey], Awaitable[Source]]

NODES = 5


@pytest_twisted.ensureDeferred
async def test_the_import_of_a_full_file(storage: Storage) -> None:
    """The file has the maximum number of slices, and more source nodes than etcd could move at
    once.
    """
    file = await storage.open_file()
    opened = [
        Slice.opened(file, "vol-1", storage.now + timedelta(seconds=n), ByteSize(0))
        for n in range(1, MAX_SLICES)
    ]
    for start in range(0, len(opened), 20):

        async def create(txn: AtomicTxn, part: list[Slice] = opened[start : start + 20]) -> None:
            for slice_ in part:
                await records.create_slice(txn, slice_)
                if slice_ is not opened[-1]:
                    closed = slice_.advance(SliceState.WRITING, SliceState.CLOSING, storage.now)
                    records.save_slice(txn, slice_, closed)

        await storage.step(create)
    slices = await storage.slices(file.key)
    assert len(slices) == MAX_SLICES
    assert await storage.rotate_slice(slices[-1].key) is None
    for slice_ in slices[:3]:
        for node in range(NODES):
            await storage.count(slice_.key, 1, f"node-{node}")
    await storage.close_files()
    for slice_ in await storage.slices(file.key):
        await storage.to_uploading(slice_.key)
        await storage.to_uploaded(slice_.key)
    await storage.to_importing(file.key)
    imported = await storage.to_imported(file.key)
    assert imported.state is FileState.IMPORTED
    assert {slice_.state for slice_ in await storage.slices(file.key)} == {SliceState.IMPORTED}
    statistics = await one_file_statistics(storage.client, file.key)
    assert statistics.target == statistics.total
    assert statistics.target.records_count == 3 * NODES
    assert statistics.target.slices_count == MAX_SLICES
    found = await storage.client.range(f"storage/slice/level/{Level.TARGET.value}/{file.key}/")
    assert found.count == MAX_SLICES


# the largest definitions


@cache
def _largest_mapping(mark: str) -> Mapping:
    """Return a mapping of the maximum number of columns and bytes, with templates.

    :param mark: distinguishes mappings.
    """
    template = Template("jsonnet", mark + "x" * (MAX_TEMPLATE_CHARACTERS - len(mark)))
    columns = [
        TemplateColumn(name=f"{'c' * 60}{number:04}", template=template)
        for number in range(MAX_COLUMNS - 1)
    ]
    rest = PathColumn(name="rest", path="x")
    missing = MAX_MAPPING_BYTES - len(encode(Mapping((*columns, rest))))
    rest = attrs.evolve(rest, path="x" * (1 + missing))
    mapping = Mapping((*columns, rest))
    assert len(encode(mapping)) == MAX_MAPPING_BYTES
    return mapping


def _largest_sink(key: SinkKey, mark: str, now: datetime) -> Sink:
    """Return a sink of the maximum size, whose description is six times as long in JSON."""
    table = _largest_table(mark)
    sink = lifecycle.new_sink(
        key, name="n" * 40, table=table, description="\x01" * 4096, at=now, by=BY
    )
    return attrs.evolve(
        sink, description=sink.description + "d" * (MAX_DEFINITION_BYTES - len(encode(sink)))
    )


class _Provider(RecordingProvider):
    """A provider whose record of a file has the real members: names of columns, credentials."""

    async def prepare(
        self, source: Source, sink: Sink, opened_at: datetime, *, token: str | None
    ) -> PreparedFile:
        prepared = await super().prepare(source, sink, opened_at, token=token)
        value = b"x" * (64 * MAX_COLUMNS + 8192)
        self.prepared[-1] = attrs.evolve(prepared, records=((prepared.records[0][0], value),))
        return self.prepared[-1]


class _Changes:
    """Runs changes of definitions with files on several volumes, as the API does."""

    def __init__(self, storage: Storage, volumes: int, limit: VolumeLimit | None = None) -> None:
        self.storage = storage
        storage.volumes = [sample_volume(f"vol-{n:02}", f"node-{n}") for n in range(volumes)]
        level = with_values(
            Settings().storage.level, {("local", "volume", "assignment", "count"): volumes}
        )
        storage.repository = StorageRepository(level, lambda: storage.volumes, volume_limit=limit)
        self._changes = Changes.of(
            storage.client,
            storage.repository,
            _Provider(),
            storage.tick,
            source=SOURCE_KEY,
            by=BY,
            token="token",
        )
        self.transactions = 0

    async def run(self, body: Callable[[Change, Definitions], Awaitable[T]]) -> T:
        async def counted(change: Change, definitions: Definitions) -> T:
            self.transactions += 1
            return await body(change, definitions)

        self.transactions = 0
        return await self._changes.run(counted)

    async def create(self, key: SinkKey, mark: str) -> Sink:
        async def body(change: Change, definitions: Definitions) -> Sink:
            return await definitions.create_sink(change, _largest_sink(key, mark, change.now))

        return await self.run(body)


async def _defined(client: EtcdClient) -> list[str]:
    return [stored.key for stored in (await client.range("definition/")).kvs]


async def _source(changes: _Changes) -> None:
    async def body(change: Change, definitions: Definitions) -> Source:
        source = attrs.evolve(SOURCE, description="\x01" * 4096)
        return await definitions.create_source(change, source)

    await changes.run(body)


LARGE_SINKS = 20
MOST_VOLUMES = ALWAYS_POSSIBLE


@pytest_twisted.ensureDeferred
async def test_all_steps_of_the_largest_sink(storage: Storage, session: Session) -> None:
    """With the largest mapping, on many volumes, no step exceeds etcd's default limit."""
    changes = _Changes(storage, MOST_VOLUMES)
    client = storage.client
    await _source(changes)
    await changes.create(SINK_KEY, "first")
    reads = DefinitionReads(client)
    for mark in ("second", "third"):
        table = attrs.evolve(TABLE, mapping=_largest_mapping(mark))

        def patch(sink: Sink, table: TableSink = table) -> Sink:
            return attrs.evolve(sink, table=table)

        async def update(
            change: Change, definitions: Definitions, patch: Callable[[Sink], Sink] = patch
        ) -> Sink:
            return await definitions.update_sink(change, SINK_KEY, "Updated.", patch)

        await changes.run(update)
        await storage.check()
    await changes.run(lambda change, definitions: definitions.rollback_sink(change, SINK_KEY, 1))
    assert (await reads.sink_versions_page(SINK_KEY, "", 100)).total == 4
    (sink,) = await reads.with_mappings([await reads.sink(SINK_KEY)])
    assert sink.table.mapping.mapping == _largest_mapping("first")
    (open_file,) = [file for file in await storage.files() if file.state is FileState.WRITING]
    for slice_ in await storage.slices(open_file.key):
        assert await storage.rotate_slice(slice_.key) is not None
    source = await reads.source(SOURCE_KEY)
    prepared = prepared_file(sink, storage.tick(), b"x" * 16384)
    rotated = await storage.step(
        lambda txn: storage.repository.rotate_file(txn, open_file.key, prepared, source, sink)
    )
    assert rotated is not None
    await changes.run(lambda change, definitions: definitions.disable_sink(change, SINK_KEY))
    files = await storage.files()
    assert len(files) == 5
    for file in files:
        for slice_ in await storage.slices(file.key):
            await storage.count(slice_.key, 1)
        await storage.import_all(file.key)
    await storage.check()
    assert await storage.records_count() == len(await storage.slices()) == 6 * MOST_VOLUMES
    await changes.run(lambda change, definitions: definitions.enable_sink(change, SINK_KEY))
    await changes.run(lambda change, definitions: definitions.delete_sink(change, SINK_KEY))
    await changes.run(lambda change, definitions: definitions.undelete_sink(change, SINK_KEY))
    await changes.run(lambda change, definitions: definitions.purge_source(change, SOURCE_KEY))
    assert await _defined(client) == [f"{SIZE}123"]
    async with await session.lock("files", timeout=30) as lock:
        for file in await storage.files():
            assert not await delete_unused_mappings(client, SINK_KEY, storage.now)
            await storage.repository.delete_file(client, file.key, lock)
    assert len((await client.range("storage/mapping/", keys_only=True)).kvs) == 3
    assert await delete_unused_mappings(client, SINK_KEY, storage.now)
    assert not (await client.range("storage/mapping/", keys_only=True)).kvs


@pytest_twisted.ensureDeferred
async def test_the_largest_sink_at_the_limit_of_versions(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each change also removes the oldest version, and changes the size of the definitions."""
    monkeypatch.setattr("stream.definition.repository.MAX_VERSIONS", 2)
    changes = _Changes(storage, MOST_VOLUMES)
    await _source(changes)
    await changes.create(SINK_KEY, "first")
    for number in (1, 1, 2):

        async def roll_back(change: Change, definitions: Definitions, number: int = number) -> Sink:
            return await definitions.rollback_sink(change, SINK_KEY, number)

        await changes.run(roll_back)
    await changes.run(lambda change, definitions: definitions.disable_sink(change, SINK_KEY))
    await changes.run(lambda change, definitions: definitions.enable_sink(change, SINK_KEY))
    await changes.run(lambda change, definitions: definitions.delete_sink(change, SINK_KEY))
    await changes.run(lambda change, definitions: definitions.undelete_sink(change, SINK_KEY))
    await storage.check()
    versions = await DefinitionReads(storage.client).sink_versions_page(SINK_KEY, "", 100)
    assert [version.version.number for version in versions.items] == [6, 7]


@pytest_twisted.ensureDeferred
async def test_the_largest_mapping_inside_records(storage: Storage) -> None:
    """There are as many copies as a sink on many volumes has; none is stored separately."""
    changes = _Changes(storage, MOST_VOLUMES)
    await _source(changes)
    path = PathColumn(name="x", path="")
    path = attrs.evolve(path, path="p" * (INLINE_BYTES - len(encode(Mapping((path,))))))
    table = attrs.evolve(TABLE, mapping=Mapping((path,)))

    async def create(change: Change, definitions: Definitions) -> Sink:
        sink = lifecycle.new_sink(SINK_KEY, name="n", table=table, at=change.now, by=BY)
        return await definitions.create_sink(change, sink)

    async def rename(change: Change, definitions: Definitions) -> Sink:
        return await definitions.update_sink(
            change, SINK_KEY, "Renamed.", lambda sink: attrs.evolve(sink, name="other")
        )

    await changes.run(create)
    await changes.run(rename)
    assert len(await storage.slices()) == 2 * MOST_VOLUMES
    await changes.run(lambda change, definitions: definitions.disable_sink(change, SINK_KEY))
    await storage.check()
    assert not (await storage.client.range("storage/mapping/", keys_only=True)).kvs


@pytest_twisted.ensureDeferred
async def test_more_volumes_than_etcd_allows(storage: Storage) -> None:
    """A sink gets only as many as can be closed and opened in one transaction."""
    changes = _Changes(storage, 2 * MOST_VOLUMES, VolumeLimit(storage.client))
    await _source(changes)
    await changes.create(SINK_KEY, "first")
    for _ in range(2):
        (file,) = [file for file in await storage.files() if file.state is FileState.WRITING]
        assert len(await storage.slices(file.key)) == MOST_VOLUMES
        assert file.local.assignment.config.count == 2 * MOST_VOLUMES
        reads = DefinitionReads(storage.client)
        (sink,) = await reads.with_mappings([await reads.sink(SINK_KEY)])
        source = await reads.source(SOURCE_KEY)
        prepared = prepared_file(sink, storage.tick(), b"x" * 16384)

        async def rotate(
            txn: AtomicTxn,
            key: FileKey = file.key,
            prepared: PreparedFile = prepared,
            source: Source = source,
            sink: Sink = sink,
        ) -> File | None:
            return await storage.repository.rotate_file(txn, key, prepared, source, sink)

        assert await storage.step(rotate) is not None
    await storage.check()


@cache
def _largest_table(mark: str) -> TableSink:
    return attrs.evolve(TABLE, mapping=_largest_mapping(mark))


@pytest_twisted.ensureDeferred
async def test_a_source_with_the_largest_sinks(storage: Storage) -> None:
    """Sinks of the maximum size are switched together: their bytes count too.

    The test with the maximum number of sinks is
    `tests.definition.test_repository.test_many_sinks_are_switched_in_parts`.
    """
    changes = _Changes(storage, 2)
    await _source(changes)
    for number in range(LARGE_SINKS):
        await changes.create(SOURCE_KEY.sink(f"sink-{number:03}"), "same")
    for step in (
        Definitions.disable_source,
        Definitions.enable_source,
        Definitions.delete_source,
        Definitions.undelete_source,
    ):

        async def switch(change: Change, definitions: Definitions, step: Step = step) -> Source:
            return await step(definitions, change, SOURCE_KEY)

        await changes.run(switch)
        assert changes.transactions > 1
    await storage.check()
    sinks = await DefinitionReads(storage.client).sinks(SOURCE_KEY)
    assert len(sinks) == LARGE_SINKS and all(sink.is_enabled for sink in sinks)
    mirror: Mirror[Sink] = Mirror(storage.client, SINK_ACTIVE, json_values(Sink))
    await mirror.startService()
    assert len(mirror.items) == LARGE_SINKS
    await mirror.stopService()
    _, purged = await changes.run(
        lambda change, definitions: definitions.purge_source(change, SOURCE_KEY)
    )
    assert len(purged) == LARGE_SINKS
    assert await _defined(storage.client) == [f"{SIZE}123"]
