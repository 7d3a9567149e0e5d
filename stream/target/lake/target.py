"""What the targets of lakes have in common: slices wait in staging, a process imports each file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

import uuid_utils
from twisted.application.service import IService
from twisted.logger import Logger

from stream.definition.entity import Sink, Source
from stream.definition.key import BranchKey, SinkKey
from stream.definition.mappings import with_mapping
from stream.definition.transaction import Change
from stream.errors import NestedError, UserError
from stream.etcd import AtomicTxn
from stream.mapping.columns import DatetimeColumn
from stream.settings.connections import Connection
from stream.staging import Chunks, StagingError
from stream.storage.model.entity import File, Slice
from stream.storage.model.key import FileKey, JobKey
from stream.storage.model.state import SliceState
from stream.storage.model.statistics import Statistics
from stream.storage.store.prepared import PreparedFile
from stream.storage.store.records import read_slices
from stream.target.columns import ColumnRecord, columns_of
from stream.target.jobs import JobSlots
from stream.target.lake.records import FileRecord, file_record_key
from stream.target.lake.workers import Rows, Workers
from stream.target.protocol import Quarantine, Staged, TargetContext
from stream.target.staged import StagingArea
from stream.values.codec import decode, encode

__all__ = ["LakeTarget", "Placed", "plain_columns"]

_log = Logger()
_STAGED = {SliceState.UPLOADED, SliceState.IMPORTED}


class Placed(Protocol):
    """A connection as a target understands it."""

    @property
    def declared(self) -> Connection:
        """The connection as the operator has declared it."""


C = TypeVar("C", bound=Placed)


class LakeTarget(ABC, Generic[C]):
    """A `stream.target.protocol.Target`.

    :param name: of the target.
    :param places: members of a sink's table that say where it is; the others of ``optional`` may.
    :param connections: by their names.
    :param workers: do the work of the target.
    """

    def __init__(
        self,
        context: TargetContext,
        name: str,
        connections: Mapping[str, C],
        workers: Workers,
        *,
        places: Sequence[str],
        optional: Sequence[str] = ("partitionBy",),
    ) -> None:
        self.name = name
        self._client = context.client
        self._connections = connections
        self._workers = workers
        self._places = tuple(places)
        self._members = {"connection", *places, *optional}
        self.services: Sequence[IService] = (workers,)
        settings = context.settings.target
        self._jobs = JobSlots(context.client, context.session, name, settings.job_limit)
        self.import_services: Sequence[IService] = (self._jobs.running,)
        self._staging = context.staging

    # What each of them does in its own way.

    @abstractmethod
    def _check(
        self, connection: C, place: Mapping[str, str], columns: Sequence[ColumnRecord]
    ) -> None:
        """Raises UserError for what no such table can have, without looking at it."""

    @abstractmethod
    async def _ensure(
        self,
        connection: C,
        place: Mapping[str, str],
        columns: Sequence[ColumnRecord],
        owner: SinkKey,
    ) -> None:
        """Make the table if it is missing, add columns that it lacks.

        Raises UserError with all that keeps *columns* from the table, and what to do.
        """

    @abstractmethod
    async def _has(self, connection: C, record: FileRecord) -> bool:
        """Return whether the whole file is in its table; the table is there then in any case."""

    @abstractmethod
    async def _import(
        self, connection: C, record: FileRecord, compression: str, rows: Sequence[Rows]
    ) -> None:
        """Import the file: each of its rows once, whoever imports it at the same time."""

    @abstractmethod
    async def _drop(self, connection: C, place: Mapping[str, str], owner: SinkKey) -> bool:
        """Delete the table if it was made for the sink; false if it stays."""

    async def _given_up(self, connection: C, record: FileRecord) -> None:
        """Remove what an import that has not ended has left; nothing of one that has."""

    # What a new file needs.

    async def prepare(
        self, source: Source, sink: Sink, opened_at: datetime, *, token: str | None
    ) -> PreparedFile:
        """Look at the table only for a user: a file can be opened while the lake is unavailable."""
        sink = await with_mapping(self._client, sink)
        connection = self._connection(sink)
        mapping = sink.table.mapping.mapping
        columns = columns_of(mapping)
        place = {name: sink.table.options[name] for name in self._places}
        place |= {"partitionBy": sink.table.options.get("partitionBy", "")}
        if token is not None:
            self._check_members(sink)
            self._check(connection, place, columns)
            await self._ensure(connection, place, columns, sink.key)
        times = [
            column.name
            for column in mapping.columns
            if isinstance(column, DatetimeColumn) and column.data_type == "timestamp"
        ]
        record = FileRecord(
            key=FileKey.of(sink.key, opened_at),
            import_id=str(uuid_utils.uuid7()),
            connection=connection.declared.name,
            place={name: place[name] for name in self._places},
            columns=columns,
            partition_by=place["partitionBy"],
            time_column=times[0] if times else "",
        )
        records = ((file_record_key(self.name, record.key), encode(record)),)
        return PreparedFile(record.key, sink.table, self.name, None, records)

    async def renew(self, sink: Sink, file: FileKey) -> PreparedFile:
        """The staging of these files never expires."""
        record = await self._record(file)
        records = ((file_record_key(self.name, file), encode(record)),)
        return PreparedFile(file, sink.table, self.name, None, records)

    async def discard(self, prepared: PreparedFile) -> None:
        """Nothing was made but the table, which the next attempt finds."""

    async def committed(self, prepared: PreparedFile) -> None:
        """Nothing was replaced."""

    async def deactivated(self, change: Change, sink: Sink, *, token: str | None) -> None:
        """Nothing is kept for a sink."""

    async def deleted(self, change: Change, sink: Sink) -> None:
        """Nothing is kept for a sink."""

    def _check_members(self, sink: Sink) -> None:
        options = sink.table.options
        for name in options:
            if name not in self._members:
                raise UserError(
                    f'a table of type "{self.name}" has no "{name}"', param=f"body.table.{name}"
                )
        for name in self._places:
            if not options.get(name):
                raise UserError(
                    f'a table of type "{self.name}" needs "{name}"', param=f"body.table.{name}"
                )

    def _connection(self, sink: Sink) -> C:
        name = sink.table.options.get("connection", "")
        project = sink.key.project_id
        found = self._connections.get(name)
        if found is None or not found.declared.allows(project):
            allowed = [
                each.declared.name
                for each in self._connections.values()
                if each.declared.allows(project)
            ]
            known = f"there are: {', '.join(sorted(allowed))}" if allowed else "there are none"
            raise UserError(
                f'the project has no connection "{name}" of the type {self.name}, {known}',
                name="connectionNotFound",
                param="body.table.connection",
                detail='an operator declares connections in the setting "target.connections"',
            )
        return found

    def _declared(self, record: FileRecord) -> C:
        found = self._connections.get(record.connection)
        if found is None:
            raise UserError(
                f'the connection "{record.connection}" isn\'t declared on this node any more: '
                'declare it in the setting "target.connections" and restart the node'
            )
        return found

    # The reader.

    @asynccontextmanager
    async def upload(self, slice_: Slice, chunks: Chunks) -> AsyncIterator[Staged]:
        """Store a slice in the staging area."""
        await self._area.put(slice_, chunks)
        yield Staged(None, _always_current)

    async def report_upload(
        self, slice_: Slice, seconds: float, error: Exception | None, statistics: Statistics
    ) -> None:
        """The project has no log of events here."""

    # The coordinator.

    def may_import(self, file: FileKey) -> bool:
        """Return whether the sink has fewer running jobs than it may have."""
        return self._jobs.running.allow(file)

    async def import_file(self, file: File) -> int:
        """Import the file; what is known of it afterwards is in the lake itself."""
        if not file.staging.is_empty:
            record = await self._record(file.key)
            connection = self._declared(record)
            slices = await read_slices(self._client, file.key)
            rows = [
                partial(self._area.read, slice_)
                for slice_ in sorted(slices, key=lambda slice_: slice_.key.slice_opened_at)
                if slice_.state in _STAGED and not slice_.local.is_empty
            ]
            compression = file.staging.compression.type
            async with self._jobs.taken(JobKey.of(file.key.sink_key, record.import_id)):
                is_new = await self._import_once(connection, record, compression, rows)
            if not is_new:
                _log.info("file {file_id} is already in its table", file_id=str(file.key))
        try:
            await self._area.remove(file.key)
        except StagingError as error:
            # The file is imported; the cleanup removes what is left with its records.
            _log.warn("{error}", error=error, file_id=str(file.key))
        return 0

    async def _import_once(
        self, connection: C, record: FileRecord, compression: str, rows: Sequence[Rows]
    ) -> bool:
        if await self._has(connection, record):
            return False
        try:
            await self._import(connection, record, compression, rows)
        except StagingError:
            # Another node may have imported the file meanwhile, and removed what was staged.
            if await self._has(connection, record):
                return False
            raise
        return True

    async def _record(self, file: FileKey) -> FileRecord:
        record = await self._known(file)
        if record is None:
            raise UserError(f'the file "{file}" has no record of its table', status=404)
        return record

    async def _known(self, file: FileKey) -> FileRecord | None:
        stored = await self._client.get(file_record_key(self.name, file))
        return None if stored is None else decode(FileRecord, stored.value)

    def running_jobs(self) -> Sequence[JobKey]:
        """The keys of the jobs that run."""
        return [record.key for record in self._jobs.running.records]

    async def forget_finished(self, job: JobKey) -> bool:
        """Never: records of running imports end with the import, or with their node."""
        return False

    def file_records(self, file: FileKey) -> Sequence[str]:
        """The key in etcd of what the target keeps of a file."""
        return (file_record_key(self.name, file),)

    async def delete_staged(self, file: FileKey) -> None:
        """Delete what is staged of a file."""
        if self._staging is not None:
            await self._staging.remove(file)
        record = await self._known(file)
        if record is not None and record.connection in self._connections:
            try:
                await self._given_up(self._connections[record.connection], record)
            except UserError as error:
                raise StagingError(str(error)) from error

    # The API.

    async def quarantines(self, below: BranchKey | SinkKey) -> Mapping[FileKey, Quarantine]:
        """No row is refused: values are checked when they come in."""
        return {}

    async def delete_tables(self, sinks: Sequence[Sink], *, token: str) -> None:
        """Delete the tables of sinks; go on after a failure and report all of them."""
        problems: list[Exception] = []
        for sink in sinks:
            try:
                place = {name: sink.table.options[name] for name in self._places}
                if not await self._drop(self._connection(sink), place, sink.key):
                    _log.info(
                        'keeping the table "{table}": it was not created for the sink',
                        table=sink.table.label,
                        sink_id=str(sink.key),
                    )
            except UserError as error:
                problems.append(error)
        if problems:
            raise NestedError("some tables could not be deleted", problems)

    @property
    def _area(self) -> StagingArea:
        if self._staging is None:
            raise UserError(
                'this node doesn\'t know where slices wait: set "target.staging.url" and '
                '"target.connections" as on the nodes that upload and import',
                status=503,
                name="stagingUnknown",
            )
        return self._staging


async def _always_current(_: AtomicTxn) -> None:
    """The staging of a file is never replaced."""


def plain_columns(columns: Sequence[ColumnRecord]) -> list[dict[str, Any]]:
    """*columns* as a job has them."""
    return [
        {"name": c.name, "type": c.type, "isKey": c.is_key, "isNullable": c.is_nullable}
        for c in columns
    ]
