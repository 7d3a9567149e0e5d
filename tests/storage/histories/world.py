"""The storage model in a real etcd: steps of files and slices, and the invariants after each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime, timedelta
from typing import TypeVar

import attrs

from stream.definition import lifecycle
from stream.definition import prefix as definitions
from stream.definition.entity import By, KeboolaTable, Sink, Source, TableSink
from stream.definition.key import BranchKey, SourceKey
from stream.definition.mappings import mapping_key
from stream.definition.prefix import SINK_ACTIVE, SOURCE_ACTIVE
from stream.definition.transaction import Change
from stream.etcd import AtomicTxn, EtcdClient, Lock, atomic
from stream.settings import Settings
from stream.storage.model import prefix
from stream.storage.model.entity import File, Slice
from stream.storage.model.key import FileKey, SliceKey
from stream.storage.model.state import FileState, Level, SliceState, check_combination
from stream.storage.model.statistics import Statistics, total
from stream.storage.model.volume import Volume
from stream.storage.store.prepared import PreparedFile
from stream.storage.store.repository import StorageRepository
from stream.values.bytesize import ByteSize
from stream.values.codec import decode, encode
from tests.storage.samples import MAPPING, OPENED_AT

T = TypeVar("T")

BY = By("user", token_id="1")
SOURCE_KEY = BranchKey(123, 456).source("my-source")
SINK_KEY = SOURCE_KEY.sink("my-sink")
TABLE = TableSink(type="keboola", keboola=KeboolaTable("in.c-bucket.table"), mapping=MAPPING)
SOURCE = lifecycle.new_source(
    SOURCE_KEY, type="http", name="Source", secret="s" * 48, at=OPENED_AT, by=BY
)
SINK = lifecycle.new_sink(SINK_KEY, name="Sink", table=TABLE, at=OPENED_AT, by=BY)


def sample_volume(volume_id: str, node_id: str = "node-1", type: str = "hdd") -> Volume:
    return Volume(volume_id, node_id, "localhost:1", f"{type}/{volume_id}", type, volume_id)


def prepared_file(sink: Sink, opened_at: datetime, marker: bytes = b"") -> PreparedFile:
    """Return a provider's prepared file, with a recognisable record."""
    key = FileKey.of(sink.key, opened_at)
    return PreparedFile(key, sink.table, "keboola", None, ((f"prepared/{key}", marker),))


def with_table(sink: Sink, table_id: str) -> Sink:
    return attrs.evolve(sink, table=attrs.evolve(sink.table, keboola=KeboolaTable(table_id)))


class Storage:
    """Runs one step after the other, with a second between them."""

    def __init__(self, client: EtcdClient, volumes: Iterable[Volume] | None = None) -> None:
        self.client = client
        self.volumes = list(volumes or [sample_volume("vol-1"), sample_volume("vol-2", "node-2")])
        self.repository = StorageRepository(Settings().storage.level, lambda: self.volumes)
        self.now: datetime = OPENED_AT

    def tick(self, seconds: float = 1) -> datetime:
        self.now += timedelta(seconds=seconds)
        return self.now

    async def step(self, body: Callable[[AtomicTxn], Awaitable[T]], lock: Lock | None = None) -> T:
        return await atomic(self.client, body, lock=lock)

    async def define(self, source: Source = SOURCE, sink: Sink = SINK) -> None:
        """Store definitions without files."""
        await self.client.put(f"{SOURCE_ACTIVE}{source.key}", encode(source))
        await self.client.put(f"{SINK_ACTIVE}{sink.key}", encode(sink))
        mapping = sink.table.mapping
        await self.client.put(mapping_key(sink.key, mapping), encode(mapping.mapping))

    async def open_file(self, sink: Sink = SINK, source: Source = SOURCE) -> File:
        prepared = prepared_file(sink, self.tick())
        return await self.step(lambda txn: self.repository.open_file(txn, source, sink, prepared))

    async def close_files(self) -> list[File]:
        now = self.tick()
        return await self.step(lambda txn: self.repository.close_files(txn, SINK_KEY, now))

    async def rotate_file(self, key: FileKey, marker: bytes = b"") -> File | None:
        prepared = prepared_file(SINK, self.tick(), marker)
        return await self.step(
            lambda txn: self.repository.rotate_file(txn, key, prepared, SOURCE, SINK)
        )

    async def rotate_slice(self, key: SliceKey) -> Slice | None:
        now = self.tick()
        return await self.step(lambda txn: self.repository.rotate_slice(txn, key, now))

    async def to_uploading(self, key: SliceKey, is_empty: bool = False) -> Slice:
        now = self.tick()
        return await self.step(
            lambda txn: self.repository.slice_to_uploading(txn, key, is_empty, now)
        )

    async def to_uploaded(self, key: SliceKey, counted: Statistics | None = None) -> Slice:
        now = self.tick()
        return await self.step(
            lambda txn: self.repository.slice_to_uploaded(txn, key, now, counted=counted)
        )

    async def fail_slice(self, key: SliceKey) -> None:
        """Record another failed attempt of the slice."""
        await self.step(lambda txn: self.repository.slice_failed(txn, key, "no luck", self.now))

    async def to_importing(self, key: FileKey, is_empty: bool = False) -> File:
        now = self.tick()
        return await self.step(
            lambda txn: self.repository.file_to_importing(txn, key, is_empty, now)
        )

    async def expire(self, key: FileKey, expiration: datetime) -> File:
        """Change the expiration of a file's upload credentials."""
        file = await self.file(key)
        expiring = attrs.evolve(file, staging=attrs.evolve(file.staging, expiration=expiration))
        for stored in prefix.file_keys(key, file.level):
            await self.client.put(stored, encode(expiring))
        return expiring

    async def to_imported(self, key: FileKey) -> File:
        now = self.tick()
        return await self.repository.file_to_imported(self.client, key, now)

    async def finish_slices(self, key: FileKey, is_empty: bool = False) -> None:
        """Advance all closed slices of a file to ``uploaded``."""
        for slice_ in await self.slices(key):
            if slice_.state is SliceState.CLOSING:
                await self.to_uploading(slice_.key, is_empty)
        for slice_ in await self.slices(key):
            if slice_.state is SliceState.UPLOADING:
                await self.to_uploaded(slice_.key)

    async def import_all(self, key: FileKey) -> None:
        """Advance a closing file to ``imported``."""
        await self.finish_slices(key)
        await self.to_importing(key)
        await self.to_imported(key)

    async def imported(self, records: int) -> File:
        """Return a file that was opened, filled and imported."""
        file = await self.open_file()
        (slice_,) = await self.slices(file.key)
        await self.count(slice_.key, records)
        await self.close_files()
        await self.import_all(file.key)
        return file

    async def count(self, key: SliceKey, records: int, node: str = "source-1") -> None:
        """Store the counts that a source node reports of a slice."""
        statistics = Statistics(
            first_record_at=self.now,
            last_record_at=self.now,
            records_count=records,
            uncompressed_size=ByteSize(records * 10),
            compressed_size=ByteSize(records * 2),
        )
        await self.client.put(f"{prefix.statistics(Level.LOCAL)}{key}/{node}", encode(statistics))

    async def files(self) -> list[File]:
        found = await self.client.range(prefix.FILE_ALL)
        return [decode(File, kv.value) for kv in found.kvs]

    async def slices(self, key: FileKey | SourceKey = SOURCE_KEY) -> list[Slice]:
        found = await self.client.range(f"{prefix.SLICE_ALL}{key}/")
        return [decode(Slice, kv.value) for kv in found.kvs]

    async def file(self, key: FileKey) -> File:
        (found,) = [file for file in await self.files() if file.key == key]
        return found

    async def slice(self, key: SliceKey) -> Slice:
        (found,) = [slice_ for slice_ in await self.slices() if slice_.key == key]
        return found

    async def left(self) -> list[str]:
        """Return the keys of files and slices, without the mappings of sinks."""
        found = await self.client.range("storage/", keys_only=True)
        return [kv.key for kv in found.kvs if not kv.key.startswith(definitions.MAPPING)]

    async def records_count(self) -> int:
        """Return the number of records at all levels, including deleted files."""
        found = await self.client.range("storage/stats/")
        return total(decode(Statistics, kv.value) for kv in found.kvs).records_count

    async def check(self) -> None:
        """Check the invariants after a step."""
        stored = {kv.key: kv.value for kv in (await self.client.range("storage/")).kvs}
        files = [decode(File, v) for k, v in stored.items() if k.startswith(prefix.FILE_ALL)]
        slices = [decode(Slice, v) for k, v in stored.items() if k.startswith(prefix.SLICE_ALL)]
        expected: dict[str, bytes] = {}
        for file in files:
            for key in prefix.file_keys(file.key, file.level):
                expected[key] = stored[f"{prefix.FILE_ALL}{file.key}"]
        for slice_ in slices:
            for key in prefix.slice_keys(slice_.key, slice_.level):
                expected[key] = stored[f"{prefix.SLICE_ALL}{slice_.key}"]
        copies = {
            key: value
            for key, value in stored.items()
            if key.startswith(("storage/file/", "storage/slice/"))
        }
        assert copies == expected
        writing = Counter(file.key.sink_key for file in files if file.state is FileState.WRITING)
        assert all(count == 1 for count in writing.values()), writing
        states = {file.key: file.state for file in files}
        for slice_ in slices:
            check_combination(states[slice_.key.file_key], slice_.state)
        _check_statistics(stored, slices)


def _check_statistics(stored: dict[str, bytes], slices: list[Slice]) -> None:
    """Check that the statistics of a slice are at its level, and that every slice is
    counted once.
    """
    levels = {str(slice_.key): slice_.level for slice_ in slices}
    counted: Counter[str] = Counter()
    for key, value in stored.items():
        if not key.startswith("storage/stats/"):
            continue
        level, _, rest = key.removeprefix("storage/stats/").partition("/")
        if rest.count("/") < 7:
            continue  # statistics of a sink
        slice_key = rest.rpartition("/")[0]
        assert levels[slice_key].value == level, key
        counted[slice_key] += decode(Statistics, value).slices_count
    assert counted == dict.fromkeys(levels, 1)


class RecordingProvider:
    """A provider that records its calls.

    :ivar failures: raised by the next preparations, one each.
    :ivar on_prepare: awaited during each preparation, so that a test can interfere.
    :ivar expirations: expirations of renewed files, one each; then none.
    """

    def __init__(self) -> None:
        self.prepared: list[PreparedFile] = []
        self.tokens: list[str | None] = []
        self.discarded: list[PreparedFile] = []
        self.kept: list[PreparedFile] = []
        self.deactivations: list[str] = []
        self.deletions: list[str] = []
        self.failures: list[Exception] = []
        self.on_prepare: Callable[[], Awaitable[object]] | None = None
        self.renewed: list[PreparedFile] = []
        self.expirations: list[datetime | None] = []

    async def prepare(
        self, source: Source, sink: Sink, opened_at: datetime, *, token: str | None
    ) -> PreparedFile:
        if self.on_prepare is not None:
            await self.on_prepare()
        if self.failures:
            raise self.failures.pop(0)
        self.tokens.append(token)
        self.prepared.append(prepared_file(sink, opened_at, b"%d" % len(self.prepared)))
        return self.prepared[-1]

    async def renew(self, sink: Sink, file: FileKey) -> PreparedFile:
        if self.on_prepare is not None:
            await self.on_prepare()
        if self.failures:
            raise self.failures.pop(0)
        expiration = self.expirations.pop(0) if self.expirations else None
        prepared = prepared_file(sink, file.file_opened_at, b"renewed")
        self.renewed.append(attrs.evolve(prepared, expiration=expiration))
        return self.renewed[-1]

    async def discard(self, prepared: PreparedFile) -> None:
        self.discarded.append(prepared)

    async def committed(self, prepared: PreparedFile) -> None:
        self.kept.append(prepared)

    async def deactivated(self, change: Change, sink: Sink, *, token: str | None) -> None:
        change.txn.on_commit(lambda _: self.deactivations.append(sink.key.sink_id))

    async def deleted(self, change: Change, sink: Sink) -> None:
        change.txn.on_commit(lambda _: self.deletions.append(sink.key.sink_id))
