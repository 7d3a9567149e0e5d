"""The target for PostgreSQL tables: slices are staged; a file is imported in one transaction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

import psycopg
import uuid_utils
from psycopg import errors
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from stream.concurrency.slots import Slots
from stream.definition.entity import Sink, Source
from stream.definition.key import BranchKey, SinkKey
from stream.definition.mappings import with_mapping
from stream.errors import UserError
from stream.ops.process.thread_pool import ThreadPoolService, in_own_thread
from stream.storage.model.entity import File
from stream.storage.model.key import FileKey
from stream.storage.model.state import FileState
from stream.storage.reconcile.operator import Requeue
from stream.storage.store.prepared import PreparedFile
from stream.storage.store.records import read_files
from stream.target.jobs import WAIT_SECONDS
from stream.target.postgres.attempt import Attempt, Work
from stream.target.postgres.connections import (
    FOR_IMPORTS,
    FOR_USERS,
    Database,
    Limits,
    declared_databases,
)
from stream.target.postgres.imports import (
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
    quarantine_record_key,
    read_quarantines,
)
from stream.target.postgres.refusals import Refused
from stream.target.postgres.tables import QUARANTINE
from stream.target.protocol import Preview, Quarantine, TargetContext
from stream.target.staged import decompressed
from stream.target.staged_target import StagedRows, StagedTarget
from stream.target.unusable import unusable
from stream.values.codec import encode
from stream.values.redaction import hide_secrets

__all__ = ["ORDER_SECONDS", "PostgresTarget"]

_log = Logger()
T = TypeVar("T")

_PROBE_SECONDS = 4
"""Time limit in seconds for a connection that only checks whether the server answers."""

ORDER_SECONDS = 3600.0
"""How long a file waits for an older file whose import keeps failing."""

_LOOK = (
    "an operator must check the server, and the host, user and password of the connection in "
    'the setting "target.connections"'
)
_MISFITS = (
    errors.DatatypeMismatch,
    errors.InvalidColumnReference,
    errors.UndefinedColumn,
    errors.WrongObjectType,
)

_TIMEOUTS = (errors.LockNotAvailable, errors.QueryCanceled)


class PostgresTarget(StagedTarget[Database, FileRecord]):
    """A `stream.target.protocol.Target`.

    Raises UserError: a configured connection can't be used.
    """

    def __init__(self, context: TargetContext) -> None:
        databases = declared_databases(list(context.settings.target.connections.of_type(NAME)))
        super().__init__(context, NAME, databases, FileRecord)
        self._now = context.now
        self._pools = {
            database.name: ThreadPoolService(
                context.reactor, f"postgres {database.name}", database.pool_size
            )
            for database in databases.values()
        }
        self._slots = {database.name: _slots_of(database) for database in databases.values()}
        self.services = tuple(self._pools.values())

    # New files.

    async def prepare(
        self, source: Source, sink: Sink, opened_at: datetime, *, token: str | None
    ) -> PreparedFile:
        """Check the table only for a user, so that files can be opened if the database is down."""
        sink = await with_mapping(self._client, sink)
        database = self._connection(sink)
        schema, table = self._place(sink, database)
        columns = columns_of(sink.table.mapping.mapping)
        if token is not None:
            await self._run(
                sink.key,
                database,
                lambda connection, _: ensure_table(
                    connection, schema, table, columns, str(sink.key)
                ),
                FOR_USERS,
            )
        record = FileRecord(
            key=FileKey.of(sink.key, opened_at),
            import_id=str(uuid_utils.uuid7()),
            connection=database.name,
            schema=schema,
            table=table,
            columns=columns,
        )
        return self._prepared(sink, record)

    @staticmethod
    def _place(sink: Sink, database: Database) -> tuple[str, str]:
        options = sink.table.options
        return options.get("schema") or database.schema, options["table"]

    # Coordinator.

    async def _before_import(self, file: File, record: FileRecord) -> None:
        """Wait until older files are imported. Raises `Requeue`.

        This applies only if later rows replace earlier ones. The wait ends when the older file has
        been failing for `ORDER_SECONDS`, so that such a file doesn't block others.
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
                raise Requeue(f"{other.key} must be imported first", seconds=WAIT_SECONDS)

    async def _import_staged(
        self, file: File, record: FileRecord, connection: Database, rows: Sequence[StagedRows]
    ) -> tuple[bool, int]:
        """Import the file; see Note [Ledger] in `stream.target.postgres.imports`."""
        compression = file.staging.compression.type
        slices = [partial(_decompressed, each, compression) for each in rows]
        imported = await self._run(
            file.key.sink_key,
            connection,
            lambda opened, is_given_up: import_rows(opened, record, slices, is_given_up),
            FOR_IMPORTS,
        )
        if imported.refused.count:
            await self._note_refused(record, imported.refused)
        return imported.is_new, imported.refused.count

    async def _note_refused(self, record: FileRecord, refused: Refused) -> None:
        """Record that rows are quarantined, so that they are shown; the database has the rows."""
        noted = QuarantineRecord(
            key=record.key,
            records_count=refused.count,
            reason=hide_secrets(refused.reason),
            table=f"{record.schema}.{QUARANTINE}",
        )
        await self._client.put(quarantine_record_key(record.key), encode(noted))
        _log.error(
            "quarantined {count} rows of the file {file_id}: {reason}",
            count=noted.records_count,
            file_id=str(record.key),
            reason=noted.reason,
            table=noted.table,
        )

    def file_records(self, file: FileKey) -> Sequence[str]:
        """Return the etcd keys of the target's records of a file."""
        return (*super().file_records(file), quarantine_record_key(file))

    # API.

    async def quarantines(self, below: BranchKey | SinkKey) -> Mapping[FileKey, Quarantine]:
        """Return the quarantines; see Note [Refused rows] in `refusals`."""
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
        database = self._connection(sink)
        schema, table = self._place(sink, database)
        columns = [column.name for column in columns_of(sink.table.mapping.mapping)]
        return await self._run(
            sink.key,
            database,
            lambda connection, _: preview_rows(
                connection, schema, table, columns, limit, str(sink.key)
            ),
            FOR_USERS,
        )

    async def _drop_table(self, sink: Sink, connection: Database) -> bool:
        schema, table = self._place(sink, connection)
        owner = str(sink.key)
        return await self._run(
            sink.key,
            connection,
            lambda opened, _: drop_table(opened, schema, table, owner),
            FOR_USERS,
        )

    async def prepare_probe(self, connection: str) -> None:
        """Do nothing, since there is no process to start."""

    async def probe(self, connection: str) -> None:
        await in_own_thread(self._reactor, _probe, self._connections[connection])

    async def _run(self, sink: SinkKey, database: Database, work: Work[T], limits: Limits) -> T:
        """Return the result of *work*, which waits while its project uses its share of threads.

        Imports of a project don't count against its share for users, who would wait for hours.
        """
        running = partial(self._run_now, database, work, limits)
        return await self._slots[database.name].run(running, (sink.project_id, limits))

    async def _run_now(self, database: Database, work: Work[T], limits: Limits) -> T:
        """Return the result of *work*, run in a thread with its own connection.

        If the caller is cancelled, the running statement is also cancelled on the server.

        Raises UserError that says, if known, what to do.
        """
        attempt = Attempt()

        def run() -> T:
            with attempt.running(), _connected(database) as connection, attempt.using(connection):
                try:
                    limits.begin(connection)
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
                        "cannot cancel a statement, it will end when its connection is closed: "
                        "{reason}",
                        reason=hide_secrets(failure.getErrorMessage()),
                    )
                )
        return result


def _slots_of(database: Database) -> Slots:
    """Return the slots for the threads of *database*; nothing is kept free for a single project."""
    return Slots(database.pool_size, keeps_room=len(database.declared.projects) != 1)


def _connected(database: Database) -> psycopg.Connection:
    """Return a new connection. Raises UserError."""
    try:
        return psycopg.connect(
            database.conninfo, client_encoding="UTF8", autocommit=True, **database.parameters()
        )
    except psycopg.Error as error:
        raise _unreachable(database, error) from None


def _probe(database: Database) -> None:
    """Connect without a query. Raises UserError; see `stream.target.protocol.Probing`."""
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
    """Return why a connection failed, without the host and the user that *reason* contains.

    libpq provides no error code for this. If the server refuses the connection, the message comes
    from the server.
    """
    if "authentication" in reason or "password" in reason or "role" in reason:
        return "the server rejected the user or the password"
    if "database" in reason and "does not exist" in reason:
        return "the server has no such database"
    if "too many" in reason:
        return "the server has too many connections"
    return "the server does not answer"


def _decompressed(rows: StagedRows, compression: str) -> Iterator[bytes]:
    return decompressed(rows(), compression)


def _reason(error: psycopg.Error) -> str:
    text = error.diag.message_primary or str(error)
    return hide_secrets(" ".join(text.split()))


def _unreachable(database: Database, error: psycopg.Error) -> UserError:
    reason = _reason(error)
    return unusable(_log, database.name, _shown_reason(reason), reason, detail=_LOOK)


def _explained(
    database: Database, connection: psycopg.Connection[Any], error: psycopg.Error
) -> UserError:
    if isinstance(error, psycopg.OperationalError) and error.diag.message_primary is None:
        # libpq's error if the connection is lost.
        return _unreachable(database, error)
    if isinstance(error, errors.DiskFull):
        reason = _reason(error)
        return unusable(_log, database.name, "the server has no space left", reason, detail=_LOOK)
    text = f'PostgreSQL at the connection "{database.name}" refused: {_reason(error)}'
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
            f"{text}; the table was changed after the sink was defined; change it back, because "
            "rows that were already accepted keep their columns; the import is tried again",
            name="tableMisfit",
        )
    if isinstance(error, _TIMEOUTS):
        return UserError(
            f"{text}; another session locks the table, or the table is a slow view; end that "
            "session or make the view faster, then try again",
            status=503,
            name="tableBusy",
        )
    if isinstance(error, psycopg.OperationalError):
        return UserError(text, status=503, name="connectionFailed")
    return UserError(text, name="importRefused")
