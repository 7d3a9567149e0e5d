"""A small model of a cluster: operations on definitions, files and slices, with crashes.

The real repositories use a real etcd. Their environment is modelled: a table that counts the rows
of each import, the import jobs, and source nodes that report the rows they have written.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, TypeVar

import attrs

from benchmarks.invariants import violations
from benchmarks.snapshot import PREFIXES, Snapshot
from stream.definition import lifecycle
from stream.definition.entity import Sink, Source
from stream.definition.prefix import SINK_ACTIVE, SOURCE_ACTIVE
from stream.definition.repository import Definitions
from stream.definition.transaction import Change
from stream.errors import UserError
from stream.etcd import AtomicTxn, EtcdClient, Lock, Session, atomic
from stream.storage.model import prefix
from stream.storage.model.entity import File, Slice
from stream.storage.model.key import FileKey
from stream.storage.model.state import FileState, Level, SliceState
from stream.storage.model.statistics import Statistics, total
from stream.storage.store import records
from stream.storage.store.restaging import replace_staging
from stream.storage.store.statistics_reads import one_file_statistics, slice_statistics
from stream.values.bytesize import ByteSize
from stream.values.codec import decode, encode
from tests.definition.changes import Changes
from tests.storage.histories.interleaving import at_its_turn, takes_lock
from tests.storage.histories.world import (
    BY,
    SOURCE_KEY,
    TABLE,
    RecordingProvider,
    Storage,
    prepared_file,
    with_table,
)

__all__ = ["OPERATIONS", "Cluster", "Crashed", "MortalClient"]

T = TypeVar("T")
SINKS = (SOURCE_KEY.sink("one"), SOURCE_KEY.sink("two"))
NODES = ("source-1", "source-2", "source-3")
_REMOTE = ("token of sink", "record of ")


class Crashed(Exception):
    """Raised when the process of an operation has crashed; its writes remain."""


class MortalClient(EtcdClient):
    """A client of etcd that crashes.

    :ivar lives: transactions until the next crash; 0 = none.
    :ivar writes_last: whether the last transaction is written before the crash.
    """

    lives = 0
    writes_last = False

    async def commit(self, *arguments: Any) -> Any:
        return await at_its_turn(self._commit(*arguments))

    async def _commit(self, *arguments: Any) -> Any:
        self.lives -= 1
        if self.lives != 0:
            return await super().commit(*arguments)
        if self.writes_last:
            await super().commit(*arguments)
        raise Crashed


class Cluster:
    """The modelled cluster.

    :param immortal: client of the environment and of its locks.
    :ivar received: records that source nodes have counted.
    :ivar lost: records of deleted files that were never imported.
    :ivar jobs: rows that the import job of each file has added to the table.
    :ivar half_deleted: files whose deletion has started.
    :ivar objects: the staging files that each slice was uploaded to.
    """

    def __init__(self, client: MortalClient, immortal: EtcdClient, session: Session) -> None:
        self.client = client
        self._immortal = immortal
        self.storage = Storage(client)
        self.repository = self.storage.repository
        self.received = 0
        self.lost = 0
        self.jobs: dict[str, int] = {}
        self.half_deleted: set[str] = set()
        self.objects: dict[str, set[bytes]] = {}
        self._session = session

    # definitions

    async def create_source(self, pick: int) -> None:
        async def body(change: Change, definitions: Definitions) -> None:
            new = lifecycle.new_source(
                SOURCE_KEY, type="http", name="S", secret="s" * 48, at=change.now, by=BY
            )
            await definitions.create_source(change, new)

        await self._change(body)

    async def create_sink(self, pick: int) -> None:
        async def body(change: Change, definitions: Definitions) -> None:
            new = lifecycle.new_sink(_sink(pick), name="S", table=TABLE, at=change.now, by=BY)
            await definitions.create_sink(change, new)

        await self._change(body)

    async def update_sink(self, pick: int) -> None:
        def patch(sink: Sink) -> Sink:
            return with_table(sink, f"in.c-bucket.table{pick}")

        async def body(change: Change, definitions: Definitions) -> None:
            await definitions.update_sink(change, _sink(pick), "changed", patch)

        await self._change(body)

    async def disable_source(self, pick: int) -> None:
        await self._switch("disable_source", SOURCE_KEY)

    async def enable_source(self, pick: int) -> None:
        await self._switch("enable_source", SOURCE_KEY)

    async def delete_source(self, pick: int) -> None:
        await self._switch("delete_source", SOURCE_KEY)

    async def undelete_source(self, pick: int) -> None:
        await self._switch("undelete_source", SOURCE_KEY)

    async def disable_sink(self, pick: int) -> None:
        await self._switch("disable_sink", _sink(pick))

    async def enable_sink(self, pick: int) -> None:
        await self._switch("enable_sink", _sink(pick))

    async def delete_sink(self, pick: int) -> None:
        await self._switch("delete_sink", _sink(pick))

    async def undelete_sink(self, pick: int) -> None:
        await self._switch("undelete_sink", _sink(pick))

    async def delete_stranded_sinks(self, pick: int) -> None:
        await self._switch("delete_stranded_sinks", SOURCE_KEY)

    async def _switch(self, method: str, key: object) -> None:
        async def body(change: Change, definitions: Definitions) -> None:
            await getattr(definitions, method)(change, key)

        await self._change(body)

    async def _change(self, body: Callable[[Change, Definitions], Awaitable[None]]) -> None:
        # Each change is made by another node. On one node, changes of a project take turns, so that
        # in a race one of them would wait for the other one.
        changes = Changes.of(
            self.client,
            self.repository,
            RecordingProvider(),
            self.storage.tick,
            source=SOURCE_KEY,
            by=BY,
            token="user-token",
        )
        await changes.run(body)

    # source nodes

    async def receive(self, pick: int) -> None:
        """Report records of an open slice, as a source node does."""
        slice_ = await self._a_slice(pick, SliceState.WRITING, SliceState.CLOSING)
        if slice_ is None:
            return
        node, more = NODES[pick % len(NODES)], 1 + pick % 7
        level_key = f"{prefix.slice_level(Level.LOCAL)}{slice_.key}"
        key = f"{prefix.statistics(Level.LOCAL)}{slice_.key}/{node}"

        async def body(txn: AtomicTxn) -> bool:
            found = await txn.get_many([level_key, key])
            stored, counted = found[level_key], found[key]
            if stored is None or decode(Slice, stored.value).state is SliceState.UPLOADING:
                return False  # a slice is closed only when all nodes have reported
            before = decode(Statistics, counted.value).records_count if counted else 0
            txn.put(key, encode(_statistics(self.storage.now, before + more)))
            return True

        # A node without an answer repeats its report, so no node crashes here.
        if await at_its_turn(atomic(self._immortal, body)):
            self.received += more

    # slices

    async def rotate_slice(self, pick: int) -> None:
        slice_ = await self._a_slice(pick)
        if slice_ is None:
            return
        now = self.storage.tick()
        async with await self._lock(slice_.key.file_key) as lock:
            await self._atomic(
                lambda txn: self.repository.rotate_slice(txn, slice_.key, now), lock=lock
            )

    async def close_slice(self, pick: int) -> None:
        """Close a slice, as a coordinator does when all source nodes have reported."""
        slice_ = await self._a_slice(pick, SliceState.CLOSING)
        if slice_ is None:
            return
        now = self.storage.tick()

        async def body(txn: AtomicTxn) -> None:
            found = await txn.range(f"{prefix.statistics(Level.LOCAL)}{slice_.key}/")
            count = total(decode(Statistics, kv.value) for kv in found).records_count
            await self.repository.slice_to_uploading(txn, slice_.key, count == 0, now)

        await self._atomic(body)

    async def upload_slice(self, pick: int) -> None:
        """Upload a slice, as a reader does; the same object may be written several times."""
        slice_ = await self._a_slice(pick, SliceState.UPLOADING)
        if slice_ is None:
            return
        await slice_statistics(self.client, slice_.key)
        now = self.storage.tick()
        staging = await self._staging(slice_.key.file_key)
        self.objects.setdefault(str(slice_.key), set()).add(staging)

        async def body(txn: AtomicTxn) -> None:
            stored = await txn.get(_staging_key(slice_.key.file_key))
            if stored is not None and stored.value == staging:
                await self.repository.slice_to_uploaded(txn, slice_.key, now)

        await self._atomic(body)

    async def fail_slice(self, pick: int) -> None:
        slice_ = await self._a_slice(pick)
        if slice_ is not None:
            now = self.storage.tick()
            await self._atomic(lambda txn: self.repository.slice_failed(txn, slice_.key, "x", now))

    # files

    async def rotate_file(self, pick: int) -> None:
        file = await self._a_file(pick)
        if file is None:
            return
        source = await self._stored(Source, f"{SOURCE_ACTIVE}{file.key.source_key}")
        sink = await self._stored(Sink, f"{SINK_ACTIVE}{file.key.sink_key}")
        if source is None or sink is None:
            return
        prepared = prepared_file(sink, self.storage.tick())
        async with await self._lock(file.key) as lock:
            await self._atomic(
                lambda txn: self.repository.rotate_file(txn, file.key, prepared, source, sink),
                lock=lock,
            )

    async def close_file(self, pick: int) -> None:
        file = await self._a_file(pick, FileState.CLOSING)
        if file is None:
            return
        statistics = await one_file_statistics(self.client, file.key)
        is_empty = statistics.total.records_count == 0
        now = self.storage.tick()
        async with await self._lock(file.key) as lock:
            await self._atomic(
                lambda txn: self.repository.file_to_importing(txn, file.key, is_empty, now),
                lock=lock,
            )

    async def replace_staging(self, pick: int) -> None:
        """Replace staging, as a coordinator does for expired upload credentials."""
        file = await self._a_file(pick, FileState.CLOSING)
        if file is None:
            return
        now = self.storage.tick()
        records_ = ((_staging_key(file.key), str(now).encode()),)
        sink = lifecycle.new_sink(file.key.sink_key, name="S", table=TABLE, at=now, by=BY)
        prepared = attrs.evolve(prepared_file(sink, file.key.file_opened_at), records=records_)
        async with await self._lock(file.key) as lock:
            await replace_staging(self.client, file.key, prepared, now, lock)

    async def _staging(self, file: FileKey) -> bytes:
        """Return the staging file of the file."""
        stored = await self._immortal.get(_staging_key(file))
        return b"" if stored is None else stored.value

    async def _staged(self, file: FileKey) -> int:
        """Return the records that an import of the file finds."""
        staging, found = await self._staging(file), 0
        for slice_ in await records.read_slices(self._immortal, file):
            if staging in self.objects.get(str(slice_.key), ()):
                count = (await slice_statistics(self._immortal, slice_.key)).staging
                found += count.records_count
        return found

    async def import_file(self, pick: int) -> None:
        """Import a file: one job per file, even if its end isn't recorded."""
        file = await self._a_file(pick, FileState.IMPORTING)
        if file is None:
            return
        async with await self._lock(file.key) as lock:
            now_stored = await records.read_file(self.client, file.key)
            if now_stored is None or now_stored.state is not FileState.IMPORTING:
                return
            if str(file.key) not in self.jobs:
                self.jobs[str(file.key)] = await self._staged(file.key)
            await self.repository.file_to_imported(self.client, file.key, self.storage.tick(), lock)

    async def fail_file(self, pick: int) -> None:
        file = await self._a_file(pick)
        if file is not None:
            now = self.storage.tick()
            await self._atomic(lambda txn: self.repository.file_failed(txn, file.key, "x", now))

    async def delete_file(self, pick: int) -> None:
        """Delete an imported file or, rarely, one that has expired without an import."""
        states = [FileState.IMPORTED] if pick % 4 else [FileState.CLOSING, FileState.IMPORTED]
        file = await self._a_file(pick, *states)
        if file is not None:
            await self._delete(file)

    async def _delete(self, file: File) -> None:
        async with await self._lock(file.key) as lock:
            found = await records.read_file(self.client, file.key)
            if found is None or found.state in (FileState.WRITING, FileState.IMPORTING):
                return
            count = (await one_file_statistics(self.client, file.key)).total.records_count
            self.half_deleted.add(str(file.key))
            try:
                await self.repository.delete_file(self.client, file.key, lock)
            finally:
                if await records.read_file(self._immortal, file.key) is None:
                    self.half_deleted.discard(str(file.key))
                    self.lost += 0 if found.state is FileState.IMPORTED else count

    # invariants

    async def violations(self) -> list[str]:
        """Return the invariants violated after a step."""
        found: dict[str, bytes] = {}
        for below in PREFIXES:
            found |= {kv.key: kv.value for kv in (await self.client.range(below)).kvs}
        snapshot = Snapshot(found)
        wrong = [text for text in violations(snapshot) if not text.startswith(_REMOTE)]
        wrong = [text for text in wrong if not any(key in text for key in self.half_deleted)]
        counts = {level: _records(snapshot, level) for level in Level}
        if sum(counts.values()) != self.received - self.lost:
            wrong.append(f"{self.received} records, {self.lost} lost, {counts} counted")
        underway = [
            key
            for key, file in snapshot.files.items()
            if file.state is FileState.IMPORTING and key in self.jobs
        ]
        staged = sum(_records(snapshot, Level.STAGING, key) for key in underway)
        if sum(self.jobs.values()) != counts[Level.TARGET] + staged:
            wrong.append(f"{sum(self.jobs.values())} rows in the table, {counts} counted")
        return wrong

    async def settle(self) -> list[str]:
        """Run all remaining operations without crashes, and return those that don't complete."""
        self.client.lives = 0
        for key in sorted(self.half_deleted):
            await self._delete(await self.storage.file(FileKey.parse(key)))
        for slice_ in await self.storage.slices():
            if slice_.state is SliceState.CLOSING:
                await self.storage.to_uploading(slice_.key)
        for slice_ in await self.storage.slices():
            if slice_.state is SliceState.UPLOADING:
                staging = await self._staging(slice_.key.file_key)
                self.objects.setdefault(str(slice_.key), set()).add(staging)
                await self.storage.to_uploaded(slice_.key)
        for _ in range(2):
            for number in range(len(await self.storage.files())):
                await self._quietly(self.close_file, number)
                await self._quietly(self.import_file, number)
        stuck = [
            f"file {file.key} stays {file.state.value}"
            for file in await self.storage.files()
            if file.state not in (FileState.WRITING, FileState.IMPORTED)
        ]
        await self.delete_stranded_sinks(0)
        if await self._stored(Source, f"{SOURCE_ACTIVE}{SOURCE_KEY}") is None:
            sinks = (await self.client.range(f"{SINK_ACTIVE}{SOURCE_KEY}/")).kvs
            stuck += [f"sink {kv.key} stays live without its source" for kv in sinks]
        return stuck

    async def _quietly(self, operation: Callable[[int], Awaitable[None]], pick: int) -> None:
        try:
            await operation(pick)
        except UserError:
            return

    # choices

    async def _a_file(self, pick: int, *states: FileState) -> File | None:
        found = [
            file
            for file in await self.storage.files()
            if str(file.key) not in self.half_deleted and (not states or file.state in states)
        ]
        return found[pick % len(found)] if found else None

    async def _a_slice(self, pick: int, *states: SliceState) -> Slice | None:
        found = [
            slice_
            for slice_ in await self.storage.slices()
            if str(slice_.key.file_key) not in self.half_deleted
            and (not states or slice_.state in states)
        ]
        return found[pick % len(found)] if found else None

    async def _stored(self, kind: type[T], key: str) -> T | None:
        found = await self.client.get(key)
        return None if found is None else decode(kind, found.value)

    async def _lock(self, key: FileKey) -> Lock:
        name = f"operator.file.{key}"
        takes_lock(name)
        return await self._session.lock(name, timeout=30)

    async def _atomic(
        self, body: Callable[[AtomicTxn], Awaitable[object]], lock: Lock | None = None
    ) -> None:
        await atomic(self.client, body, lock=lock)


def _sink(pick: int) -> Any:
    return SINKS[pick % len(SINKS)]


def _statistics(now: datetime, count: int) -> Statistics:
    return Statistics(
        first_record_at=now,
        last_record_at=now,
        records_count=count,
        uncompressed_size=ByteSize(count * 10),
        compressed_size=ByteSize(count * 2),
    )


def _records(snapshot: Snapshot, level: Level, below: str = "") -> int:
    found = snapshot.below(f"{prefix.statistics(level)}{below}").values()
    return total(decode(Statistics, value) for value in found).records_count


_OFTEN = (
    *("receive", "rotate_slice", "close_slice", "close_slice", "upload_slice", "upload_slice"),
    "replace_staging",
    *("rotate_file", "close_file", "close_file", "import_file", "import_file", "delete_file"),
)
OPERATIONS = (
    *_OFTEN,
    *_OFTEN,
    *("fail_slice", "fail_file", "create_source", "create_sink", "create_sink", "update_sink"),
    *("disable_sink", "enable_sink", "delete_sink", "undelete_sink"),
    *("disable_source", "enable_source", "delete_source", "undelete_source"),
    "delete_stranded_sinks",
)
"""Names of operations of `Cluster`, the frequent ones repeated."""


def _staging_key(file: FileKey) -> str:
    return f"prepared/{file}"
