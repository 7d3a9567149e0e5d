"""The base class of targets whose slices wait in Stream's own staging area."""

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
from stream.target.protocol import Staged, TargetContext, TargetUnavailable, file_record
from stream.target.staged import StagingArea
from stream.values.codec import decode, encode

__all__ = ["Declared", "StagedRecord", "StagedRows", "StagedTarget"]

_log = Logger()
AVOIDED_SECONDS = 60.0
"""How long cleanup doesn't use a connection that has failed."""
_STAGED = {SliceState.UPLOADED, SliceState.IMPORTED}

StagedRows = Callable[[], Iterator[bytes]]
"""A function that returns the stored bytes of a slice; called in a thread."""


class Declared(Protocol):
    """A connection in the form that a target uses."""

    @property
    def declared(self) -> Connection:
        """The connection as the operator has declared it."""


class StagedRecord(Protocol):
    """The etcd record of a file's destination."""

    @property
    def key(self) -> FileKey:
        """The key of the file."""

    @property
    def import_id(self) -> str:
        """The unique ID of the import, which the target stores."""

    @property
    def connection(self) -> str:
        """The name of the connection."""


C = TypeVar("C", bound=Declared)
R = TypeVar("R", bound=StagedRecord)


class StagedTarget(ABC, Generic[C, R]):
    """The part of a target that doesn't depend on the kind of table.

    It implements `stream.target.protocol.Target`.

    :param name: name of the target.
    :param connections: connections by name.
    :param record_type: the class of a file's record.
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
        self._reactor = context.reactor
        self._failed: dict[str, tuple[float, str]] = {}
        self._jobs = JobSlots(
            context.client, context.session, name, context.settings.target.job_limit
        )
        self.import_services: Sequence[IService] = (self._jobs.running,)
        self._staging = context.staging

    # Implemented by each target.

    @abstractmethod
    async def _import_staged(
        self, file: File, record: R, connection: C, rows: Sequence[StagedRows]
    ) -> tuple[bool, int]:
        """Import each row of the file once, even if several nodes import it concurrently.

        :param rows: the rows of each slice, in the order in which the slices were opened.
        :returns: whether the file was new, and the number of quarantined rows.
        """

    async def _before_import(self, file: File, record: R) -> None:
        """Check whether the import has to wait. Raises `Requeue` if so."""

    @abstractmethod
    async def _drop_table(self, sink: Sink, connection: C) -> bool:
        """Delete the table of *sink* if it was created for the sink; return False if it is kept."""

    async def _abandoned(self, record: R, connection: C) -> None:
        """Remove what an incomplete import has left; remove nothing after a complete import."""

    # New files.

    def _prepared(self, sink: Sink, record: R) -> PreparedFile:
        """Return the prepared file for *record*; its staging never expires."""
        records = ((self._record_key(record.key), encode(record)),)
        return PreparedFile(record.key, sink.table, self.name, None, records)

    async def renew(self, sink: Sink, file: FileKey) -> PreparedFile:
        """Return the file unchanged, since its staging never expires."""
        return self._prepared(sink, await self._record(file))

    async def discard(self, prepared: PreparedFile) -> None:
        """Do nothing; at most a table was created, which the next attempt finds."""

    async def committed(self, prepared: PreparedFile) -> None:
        """Do nothing, since no resources were replaced."""

    async def deactivated(self, change: Change, sink: Sink, *, token: str | None) -> None:
        """Do nothing: nothing is stored for a sink."""

    async def deleted(self, change: Change, sink: Sink) -> None:
        """Do nothing: nothing is stored for a sink."""

    def _connection(self, sink: Sink) -> C:
        """Return the connection of *sink*. Raises UserError unless its project may use it."""
        name = sink.table.options.get("connection", "")
        project = sink.key.project_id
        found = self._connections.get(name)
        if found is None or not found.declared.allows(project):
            allowed = [
                each.declared.name
                for each in self._connections.values()
                if each.declared.allows(project)
            ]
            known = (
                f"its connections are: {', '.join(sorted(allowed))}"
                if allowed
                else "there are none"
            )
            raise UserError(
                f'the project has no connection "{name}" of the type {self.name}, {known}',
                name="connectionNotFound",
                param="body.table.connection",
                detail='an operator declares connections in the setting "target.connections"',
            )
        return found

    def _declared(self, record: R) -> C:
        """Return the connection of *record*, even if its project may no longer use it."""
        found = self._connections.get(record.connection)
        if found is None:
            raise UserError(
                f'the connection "{record.connection}" is no longer declared on this node: '
                'declare it in the setting "target.connections" and restart the node'
            )
        return found

    # Reader.

    @asynccontextmanager
    async def upload(self, slice_: Slice, chunks: Chunks) -> AsyncIterator[Staged]:
        """Store a slice in the staging area."""
        await self._area.put(slice_, chunks)
        yield Staged(None, _always_current)

    async def report_upload(
        self, slice_: Slice, seconds: float, error: Exception | None, statistics: Statistics
    ) -> None:
        """Do nothing, since there is no event log for the project."""

    # Coordinator.

    def may_import(self, file: FileKey) -> bool:
        """Return whether the sink has a free slot for a job."""
        return self._jobs.running.allow(file)

    async def import_file(self, file: File) -> int:
        """Import the file; the target system records the outcome."""
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
            # The file is imported; the cleanup removes what remains, together with the file's
            # records.
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
        """Return the keys of the running jobs."""
        return [record.key for record in self._jobs.running.records]

    async def forget_finished(self, job: JobKey) -> bool:
        """Return False, since records of running imports end with the import or with their node."""
        return False

    def file_records(self, file: FileKey) -> Sequence[str]:
        """Return the etcd keys of the target's records of a file."""
        return (self._record_key(file),)

    async def delete_staged(self, file: FileKey) -> None:
        """Delete the staged objects of a file, and what its import has left in the target."""
        if self._staging is not None:
            await self._staging.remove(file)
        record = await self._known(file)
        if record is not None and record.connection in self._connections:
            await self._remove_abandoned(record, self._connections[record.connection])

    async def _remove_abandoned(self, record: R, connection: C) -> None:
        """Remove what abandoned imports have left.

        A connection that has just failed isn't used again, so that the cleanup run ends.
        """
        now = self._reactor.seconds()
        failed = self._failed.get(record.connection)
        if failed is not None and now < failed[0]:
            raise TargetUnavailable(failed[1], record.connection)
        try:
            await self._abandoned(record, connection)
        except UserError as error:
            self._failed[record.connection] = now + AVOIDED_SECONDS, str(error)
            raise TargetUnavailable(str(error), record.connection) from error
        self._failed.pop(record.connection, None)

    # API.

    async def delete_tables(self, sinks: Sequence[Sink], *, token: str) -> None:
        """Delete the tables of sinks; continue after a failure and report all failures."""
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
                'this node doesn\'t know where slices are staged: set "target.staging.url" '
                'and "target.connections" to the same values as on the nodes that upload and '
                "import",
                status=503,
                name="stagingUnknown",
            )
        return self._staging


async def _always_current(_: AtomicTxn) -> None:
    """Do nothing, since the staging of a file is never replaced."""
