"""What targets have in common whose slices wait in the staging area of Stream itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Generic, Protocol, TypeVar

from twisted.application.service import IService
from twisted.logger import Logger

from stream.definition.entity import Sink
from stream.definition.transaction import Change
from stream.errors import NestedError, UserError
from stream.etcd import AtomicTxn
from stream.settings.connections import Connection
from stream.staging import Chunks, StagingError
from stream.storage.model.entity import File, Slice
from stream.storage.model.key import FileKey, JobKey
from stream.storage.model.state import SliceState
from stream.storage.model.statistics import Statistics
from stream.storage.store.prepared import PreparedFile
from stream.storage.store.records import read_slices
from stream.target.jobs import JobSlots
from stream.target.protocol import Staged, TargetContext, file_record
from stream.target.staged import StagingArea
from stream.values.codec import decode, encode

__all__ = ["Declared", "StagedRecord", "StagedRows", "StagedTarget"]

_log = Logger()
_STAGED = {SliceState.UPLOADED, SliceState.IMPORTED}

StagedRows = Callable[[], Iterator[bytes]]
"""The stored bytes of a slice; called in a thread."""


class Declared(Protocol):
    """A connection as a target understands it."""

    @property
    def declared(self) -> Connection:
        """The connection as the operator has declared it."""


class StagedRecord(Protocol):
    """What is stored in etcd of the destination of a file."""

    @property
    def key(self) -> FileKey:
        """The key of the file."""

    @property
    def import_id(self) -> str:
        """An id of no other file anywhere, under which the target remembers the import."""

    @property
    def connection(self) -> str:
        """The name of the connection."""


C = TypeVar("C", bound=Declared)
R = TypeVar("R", bound=StagedRecord)


class StagedTarget(ABC, Generic[C, R]):
    """The part of a `stream.target.protocol.Target` that doesn't depend on the kind of table.

    :param name: of the target.
    :param connections: by their names.
    :param record_type: of what is stored of a file.
    """

    services: Sequence[IService] = ()

    def __init__(
        self,
        context: TargetContext,
        name: str,
        connections: Mapping[str, C],
        record_type: type[R],
    ) -> None:
        self.name = name
        self._client = context.client
        self._connections = connections
        self._record_type = record_type
        self._jobs = JobSlots(
            context.client, context.session, name, context.settings.target.job_limit
        )
        self.import_services: Sequence[IService] = (self._jobs.running,)
        self._staging = context.staging

    # What each of them does in its own way.

    @abstractmethod
    async def _import_staged(
        self, file: File, record: R, connection: C, rows: Sequence[StagedRows]
    ) -> tuple[bool, int]:
        """Import the file: each of its rows once, whoever imports it at the same time.

        :param rows: of each slice, the slice that was opened first comes first.
        :returns: whether it was not in its table before, and how many rows are in quarantine.
        """

    async def _before_import(self, file: File, record: R) -> None:
        """Raises `Requeue` if something else has to be done first."""

    @abstractmethod
    async def _drop_table(self, sink: Sink, connection: C) -> bool:
        """Delete the table of *sink* if it was made for the sink; false if it stays."""

    async def _abandoned(self, record: R, connection: C) -> None:
        """Remove what an import that has not ended has left; nothing of one that has."""

    # What a new file needs.

    def _prepared(self, sink: Sink, record: R) -> PreparedFile:
        """The file of *record*, whose staging never expires."""
        records = ((self._record_key(record.key), encode(record)),)
        return PreparedFile(record.key, sink.table, self.name, None, records)

    async def renew(self, sink: Sink, file: FileKey) -> PreparedFile:
        """The staging of these files never expires."""
        return self._prepared(sink, await self._record(file))

    async def discard(self, prepared: PreparedFile) -> None:
        """Nothing was made but the table, which the next attempt finds."""

    async def committed(self, prepared: PreparedFile) -> None:
        """Nothing was replaced."""

    async def deactivated(self, change: Change, sink: Sink, *, token: str | None) -> None:
        """Nothing is kept for a sink."""

    async def deleted(self, change: Change, sink: Sink) -> None:
        """Nothing is kept for a sink."""

    def _connection(self, sink: Sink) -> C:
        """The connection that *sink* names. Raises UserError unless its project may use it."""
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

    def _declared(self, record: R) -> C:
        """The connection of *record*, whatever its project may use now."""
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
        """Import the file; what is known of it afterwards is in the target itself."""
        refused = 0
        if not file.staging.is_empty:
            record = await self._record(file.key)
            await self._before_import(file, record)
            connection = self._declared(record)
            async with self._jobs.taken(JobKey.of(file.key.sink_key, record.import_id)):
                rows = await self._staged_rows(file.key)
                is_new, refused = await self._import_staged(file, record, connection, rows)
            if not is_new:
                _log.info("file {file_id} is already in its table", file_id=str(file.key))
        try:
            await self._area.remove(file.key)
        except StagingError as error:
            # The file is imported; the cleanup removes what is left with its records.
            _log.warn("{error}", error=error, file_id=str(file.key))
        return refused

    async def _staged_rows(self, file: FileKey) -> list[StagedRows]:
        slices = await read_slices(self._client, file)
        return [
            partial(self._area.read, slice_)
            for slice_ in sorted(slices, key=lambda slice_: slice_.key.slice_opened_at)
            if slice_.state in _STAGED and not slice_.local.is_empty
        ]

    def _record_key(self, file: FileKey) -> str:
        return file_record(self.name, "file", file)

    async def _record(self, file: FileKey) -> R:
        record = await self._known(file)
        if record is None:
            raise UserError(f'the file "{file}" has no record of its table', status=404)
        return record

    async def _known(self, file: FileKey) -> R | None:
        stored = await self._client.get(self._record_key(file))
        return None if stored is None else decode(self._record_type, stored.value)

    def running_jobs(self) -> Sequence[JobKey]:
        """The keys of the jobs that run."""
        return [record.key for record in self._jobs.running.records]

    async def forget_finished(self, job: JobKey) -> bool:
        """Never: records of running imports end with the import, or with their node."""
        return False

    def file_records(self, file: FileKey) -> Sequence[str]:
        """The keys in etcd of what the target keeps of a file."""
        return (self._record_key(file),)

    async def delete_staged(self, file: FileKey) -> None:
        """Delete what is staged of a file, and what an import of it has left in the target."""
        if self._staging is not None:
            await self._staging.remove(file)
        record = await self._known(file)
        if record is not None and record.connection in self._connections:
            try:
                await self._abandoned(record, self._connections[record.connection])
            except UserError as error:
                raise StagingError(str(error)) from error

    # The API.

    async def delete_tables(self, sinks: Sequence[Sink], *, token: str) -> None:
        """Delete the tables of sinks; go on after a failure and report all of them."""
        problems: list[Exception] = []
        for sink in sinks:
            try:
                if not await self._drop_table(sink, self._connection(sink)):
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
