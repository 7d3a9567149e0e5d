"""Tables of PostgreSQL as a target: slices wait in a folder, and each file is one transaction."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

import psycopg
import uuid_utils
from psycopg import errors
from twisted.application.service import IService
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from stream.definition.entity import Sink, Source
from stream.definition.key import BranchKey, SinkKey
from stream.definition.mappings import with_mapping
from stream.definition.transaction import Change
from stream.errors import NestedError, UserError
from stream.etcd import AtomicTxn
from stream.ops.process.thread_pool import ThreadPoolService, in_own_thread
from stream.staging import Chunks, StagingError
from stream.storage.model.entity import File, Slice
from stream.storage.model.key import FileKey, JobKey
from stream.storage.model.state import FileState, SliceState
from stream.storage.model.statistics import Statistics
from stream.storage.reconcile.operator import Requeue
from stream.storage.store.prepared import PreparedFile
from stream.storage.store.records import read_files, read_slices
from stream.target.jobs import WAIT_SECONDS, JobSlots
from stream.target.postgres.attempt import Attempt, Work
from stream.target.postgres.connections import SESSION, Database, declared_databases
from stream.target.postgres.imports import (
    Imported,
    drop_table,
    ensure_table,
    import_rows,
    preview_rows,
)
from stream.target.postgres.records import (
    NAME,
    FileRecord,
    QuarantineRecord,
    columns_of,
    file_record_key,
    quarantine_record_key,
    read_quarantines,
)
from stream.target.postgres.refusals import Refused
from stream.target.postgres.tables import QUARANTINE
from stream.target.protocol import Preview, Quarantine, Staged, TargetContext
from stream.target.staged import StagingArea, decompressed
from stream.values.codec import decode, encode
from stream.values.redaction import hide_secrets

__all__ = ["ORDER_SECONDS", "PostgresTarget"]

_log = Logger()
T = TypeVar("T")

_PROBE_SECONDS = 4
"""For a connect that only finds out whether the server answers."""

ORDER_SECONDS = 3600.0
"""For how long a file waits for an older one whose import fails again and again."""

_MISFITS = (
    errors.DatatypeMismatch,
    errors.InvalidColumnReference,
    errors.UndefinedColumn,
    errors.WrongObjectType,
)
_STAGED = {SliceState.UPLOADED, SliceState.IMPORTED}


class PostgresTarget:
    """A `stream.target.protocol.Target`.

    Raises UserError for connections in the settings that can't be used.
    """

    name = NAME

    def __init__(self, context: TargetContext) -> None:
        settings = context.settings.target
        self._client = context.client
        self._reactor = context.reactor
        self._databases = declared_databases(list(settings.connections.of_type(NAME)))
        self._pools = {
            database.name: ThreadPoolService(
                context.reactor, f"postgres {database.name}", database.pool_size
            )
            for database in self._databases.values()
        }
        self.services: Sequence[IService] = tuple(self._pools.values())
        self._staging = context.staging
        self._session = context.session
        self._now = context.now
        self._jobs = JobSlots(context.client, context.session, NAME, settings.job_limit)
        self.import_services: Sequence[IService] = (self._jobs.running,)

    # What a new file needs.

    async def prepare(
        self, source: Source, sink: Sink, opened_at: datetime, *, token: str | None
    ) -> PreparedFile:
        """Check the table only for a user: a file can be opened without the database."""
        sink = await with_mapping(self._client, sink)
        database = self._database(sink)
        schema, table = self._place(sink, database)
        columns = columns_of(sink.table.mapping.mapping)
        if token is not None:
            await self._run(
                database,
                lambda connection, _: ensure_table(
                    connection, schema, table, columns, str(sink.key)
                ),
            )
        record = FileRecord(
            key=FileKey.of(sink.key, opened_at),
            import_id=str(uuid_utils.uuid7()),
            connection=database.name,
            schema=schema,
            table=table,
            columns=columns,
        )
        records = ((file_record_key(record.key), encode(record)),)
        return PreparedFile(record.key, sink.table, NAME, None, records)

    async def renew(self, sink: Sink, file: FileKey) -> PreparedFile:
        """The staging of these files never expires."""
        record = await self._record(file)
        records = ((file_record_key(file), encode(record)),)
        return PreparedFile(file, sink.table, NAME, None, records)

    async def discard(self, prepared: PreparedFile) -> None:
        """Nothing was made but the table, which the next attempt finds."""

    async def committed(self, prepared: PreparedFile) -> None:
        """Nothing was replaced."""

    async def deactivated(self, change: Change, sink: Sink, *, token: str | None) -> None:
        """Nothing is kept for a sink."""

    async def deleted(self, change: Change, sink: Sink) -> None:
        """Nothing is kept for a sink."""

    def _database(self, sink: Sink) -> Database:
        name = sink.table.options.get("connection", "")
        database = self._databases.get(name)
        if database is None or not database.declared.allows(sink.key.project_id):
            allowed = [
                each.name
                for each in self._databases.values()
                if each.declared.allows(sink.key.project_id)
            ]
            known = f"there are: {', '.join(sorted(allowed))}" if allowed else "there are none"
            raise UserError(
                f'the project has no connection "{name}" of the type postgres, {known}',
                name="connectionNotFound",
                param="body.table.connection",
                detail='an operator declares connections in the setting "target.connections"',
            )
        return database

    @staticmethod
    def _place(sink: Sink, database: Database) -> tuple[str, str]:
        options = sink.table.options
        return options.get("schema") or database.schema, options["table"]

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
        """See Note [Ledger] of `stream.target.postgres.imports`."""
        imported = Imported(is_new=True)
        if not file.staging.is_empty:
            record = await self._record(file.key)
            await self._wait_for_older(file, record)
            async with self._jobs.taken(JobKey.of(file.key.sink_key, record.import_id)):
                imported = await self._import(file, record)
            if imported.refused.count:
                await self._note_refused(record, imported.refused)
            if not imported.is_new:
                _log.info("file {file_id} is already in its table", file_id=str(file.key))
        try:
            await self._area.remove(file.key)
        except StagingError as error:
            # The file is imported; the cleanup removes what is left with its records.
            _log.warn("{error}", error=error, file_id=str(file.key))
        return imported.refused.count

    async def _wait_for_older(self, file: File, record: FileRecord) -> None:
        """Raises `Requeue` while a file that was opened before is to be imported before.

        Only where a later row replaces an earlier one, and until that file has been failing for
        `ORDER_SECONDS`: a file that can't be imported doesn't keep others from their table.
        """
        if not any(column.is_key for column in record.columns):
            return
        for other in await read_files(self._client, file.key.sink_key):
            if other.key.file_opened_at >= file.key.file_opened_at:
                return
            if other.state is not FileState.IMPORTING:
                continue
            failed_at = other.retry.first_failed_at
            if failed_at is None or (self._now() - failed_at).total_seconds() < ORDER_SECONDS:
                raise Requeue(f"{other.key} is to be imported before", seconds=WAIT_SECONDS)

    async def _import(self, file: File, record: FileRecord) -> Imported:
        database = self._databases.get(record.connection)
        if database is None:
            raise UserError(
                f'the connection "{record.connection}" isn\'t declared on this node any more: '
                'declare it in the setting "target.connections" and restart the node'
            )
        slices = await read_slices(self._client, file.key)
        staged = [
            partial(self._rows, slice_, file.staging.compression.type)
            for slice_ in sorted(slices, key=lambda slice_: slice_.key.slice_opened_at)
            if slice_.state in _STAGED and not slice_.local.is_empty
        ]
        return await self._run(
            database,
            lambda connection, is_given_up: import_rows(connection, record, staged, is_given_up),
        )

    async def _note_refused(self, record: FileRecord, refused: Refused) -> None:
        """Let people see the rows in quarantine, which are in the database."""
        noted = QuarantineRecord(
            key=record.key,
            records_count=refused.count,
            reason=hide_secrets(refused.reason),
            table=f"{record.schema}.{QUARANTINE}",
        )
        await self._client.put(quarantine_record_key(record.key), encode(noted))
        _log.error(
            "rows of the file {file_id} are in quarantine ({count}): {reason}",
            count=noted.records_count,
            file_id=str(record.key),
            reason=noted.reason,
            table=noted.table,
        )

    def _rows(self, slice_: Slice, compression: str) -> Iterator[bytes]:
        return decompressed(self._area.read(slice_), compression)

    async def _record(self, file: FileKey) -> FileRecord:
        stored = await self._client.get(file_record_key(file))
        if stored is None:
            raise UserError(f'the file "{file}" has no record of its table', status=404)
        return decode(FileRecord, stored.value)

    def running_jobs(self) -> Sequence[JobKey]:
        """The keys of the jobs that run."""
        return [record.key for record in self._jobs.running.records]

    async def forget_finished(self, job: JobKey) -> bool:
        """Never: records of running imports end with the import, or with their node."""
        return False

    def file_records(self, file: FileKey) -> Sequence[str]:
        """The keys in etcd of what the target keeps of a file."""
        return (file_record_key(file), quarantine_record_key(file))

    async def delete_staged(self, file: FileKey) -> None:
        """Delete what is staged of a file."""
        if self._staging is not None:
            await self._staging.remove(file)

    # The API.

    async def quarantines(self, below: BranchKey | SinkKey) -> Mapping[FileKey, Quarantine]:
        """Only tables of users refuse rows; see Note [Refused rows] of `refusals`."""
        return {
            key: Quarantine(
                records_count=record.records_count,
                reason=record.reason,
                is_finished=True,
                table=record.table,
            )
            for key, record in (await read_quarantines(self._client, below)).items()
        }

    async def preview(self, sink: Sink, limit: int, *, token: str) -> Preview:
        database = self._database(sink)
        schema, table = self._place(sink, database)
        columns = [column.name for column in columns_of(sink.table.mapping.mapping)]
        return await self._run(
            database,
            lambda connection, _: preview_rows(
                connection, schema, table, columns, limit, str(sink.key)
            ),
        )

    async def delete_tables(self, sinks: Sequence[Sink], *, token: str) -> None:
        """Delete the tables of sinks; go on after a failure and report all of them."""
        problems: list[Exception] = []
        for sink in sinks:
            try:
                database = self._database(sink)
                schema, table = self._place(sink, database)
                owner = str(sink.key)
                if not await self._run(
                    database,
                    lambda connection, _, place=(schema, table, owner): drop_table(  # type: ignore[misc]
                        connection, *place
                    ),
                ):
                    _log.info(
                        'keeping the table "{table}": it was not created for the sink',
                        table=f"{schema}.{table}",
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

    async def probe(self, connection: str) -> None:
        await in_own_thread(self._reactor, _probe, self._databases[connection])

    async def _run(self, database: Database, work: Work[T]) -> T:
        """What *work* gives, in a thread, with a connection of its own.

        If the caller is cancelled, the server is asked to cancel the statement that runs: nothing
        of an import that was given up goes on there.

        Raises UserError, which says what to do where that is known.
        """
        attempt = Attempt()

        def run() -> T:
            with attempt.running(), _connected(database) as connection, attempt.using(connection):
                try:
                    connection.execute(SESSION)
                    return work(connection, attempt.is_given_up)
                except psycopg.Error as error:
                    raise _explained(database, connection, error) from error

        pool = self._pools[database.name].pool
        try:
            result: T = await deferToThreadPool(self._reactor, pool, run)
        finally:
            if attempt.give_up():
                cancelling = in_own_thread(self._reactor, attempt.cancel)
                cancelling.addErrback(
                    lambda failure: _log.warn(
                        "cannot cancel a statement, it ends with its connection: {reason}",
                        reason=hide_secrets(failure.getErrorMessage()),
                    )
                )
        return result


def _connected(database: Database) -> psycopg.Connection:
    """A new connection. Raises UserError."""
    try:
        return psycopg.connect(
            database.conninfo, client_encoding="UTF8", autocommit=True, **database.parameters()
        )
    except psycopg.Error as error:
        raise _unreachable(database, error) from None


def _probe(database: Database) -> None:
    """Connect, and ask for nothing. Raises UserError; see `stream.target.protocol.Probing`."""
    try:
        psycopg.connect(
            database.conninfo, **database.parameters(), connect_timeout=_PROBE_SECONDS
        ).close()
    except UserError:
        message = "the file with its password can't be read"
        raise UserError(message, status=503, name="connectionFailed") from None
    except psycopg.Error as error:
        reason = _reason(error)
        _log.info(
            'the connection "{connection}" does not answer: {reason}',
            connection=database.name,
            reason=reason,
        )
        raise UserError(_shown_reason(reason), status=503, name="connectionFailed") from None


def _shown_reason(reason: str) -> str:
    """What a failed connect means, without the host and the user that *reason* names.

    libpq gives no code for it; its texts for what the server refuses are those of the server.
    """
    if "authentication" in reason or "password" in reason or "role" in reason:
        return "the server refuses the user or the password"
    if "database" in reason and "does not exist" in reason:
        return "the server has no such database"
    if "too many" in reason:
        return "the server has too many connections"
    return "the server does not answer"


async def _always_current(_: AtomicTxn) -> None:
    """The staging of a file is never replaced."""


def _reason(error: psycopg.Error) -> str:
    text = error.diag.message_primary or str(error)
    return hide_secrets(" ".join(text.split()))


def _unreachable(database: Database, error: psycopg.Error) -> UserError:
    """Users of the connection see its name alone: who and where it is, is in the log."""
    reason = _reason(error)
    _log.warn(
        'the connection "{connection}" can\'t be used: {reason}',
        connection=database.name,
        reason=reason,
    )
    return UserError(
        f'the connection "{database.name}" can\'t be used: {_shown_reason(reason)}',
        status=503,
        name="connectionFailed",
        detail="an operator has to look at the server, and at host, user and password of the "
        'connection in the setting "target.connections"',
    )


def _explained(
    database: Database, connection: psycopg.Connection[Any], error: psycopg.Error
) -> UserError:
    if isinstance(error, psycopg.OperationalError) and error.diag.message_primary is None:
        # Of libpq: the connection is lost.
        return _unreachable(database, error)
    text = f'PostgreSQL at the connection "{database.name}" refuses: {_reason(error)}'
    if isinstance(error, errors.InsufficientPrivilege):
        _log.warn(
            'the user "{user}" of the connection "{connection}" lacks a privilege: {reason}',
            user=connection.info.user,
            connection=database.name,
            reason=_reason(error),
        )
        return UserError(
            f"{text}; grant the user of the connection CREATE and USAGE on the schema, and "
            "SELECT, INSERT and UPDATE on the table",
            name="connectionForbidden",
        )
    if isinstance(error, _MISFITS):
        return UserError(
            f"{text}; the table was changed since the sink was defined: change it back, or the "
            "mapping; the file is tried again",
            name="tableMisfit",
        )
    if isinstance(error, psycopg.OperationalError):
        return UserError(text, status=503, name="connectionFailed")
    return UserError(text, name="importRefused")
