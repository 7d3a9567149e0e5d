"""Stores the rows that a table refuses in a quarantine table, and imports all others.

Note [Refused rows]. The mapping checks values, so a table that Stream has created accepts every
row. A table that a user has created may refuse rows, because of a CHECK constraint, a foreign key,
another unique index, or a trigger. One such row would block all other rows of its file. So the rows
are first copied as text to a temporary table of the transaction, which accepts everything. If one
statement can't move them from there to the target table, they are moved by bisection, each half in
a savepoint; a refused half is halved again, down to single rows. Refused rows are moved to the
table `QUARANTINE` in the schema of the target table. All this happens within the transaction of the
import, so a crash rolls it back, and no progress has to be stored. Blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs
import psycopg
from psycopg import sql

from stream.target.postgres.records import ColumnRecord, FileRecord
from stream.target.postgres.tables import ORDER_COLUMN, QUARANTINE, sql_type

__all__ = [
    "MAX_TRIES",
    "NONE_REFUSED",
    "Refused",
    "StagedRows",
    "is_about_rows",
    "move_rows",
    "read_refused",
    "reason_of",
    "stage_rows",
]

MAX_TRIES = 10_000
"""Maximum number of statements for the rows of one file before bisection ends.

Each remaining range is then tried once. Three hundred refused rows in a million need about that
many statements.
"""

_ROW_CLASSES = ("22", "23", "44", "54", "P0")
"""Classes of errors that rows cause: invalid data, constraints, the condition of a view, limits
such as the size of an index entry, and errors that triggers raise.
"""

_ROWS = sql.Identifier("_stream_rows")
_ORDER = sql.Identifier(ORDER_COLUMN)
_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended(%s, 7235))"
_MAX_REASON_CHARS = 500


@attrs.frozen
class Refused:
    """The rows of a file that the table refused.

    :ivar count: number of quarantined rows.
    :ivar reason: why the first of these rows was refused.
    """

    count: int = 0
    reason: str = ""


NONE_REFUSED = Refused()
"""The value for a file of which every row is in its table."""


@attrs.frozen
class StagedRows:
    """The rows of a file as text, in order, in a temporary table of the transaction.

    :ivar count: number of rows; they are numbered from 1.
    """

    record: FileRecord
    count: int


def is_about_rows(error: psycopg.Error) -> bool:
    """Return whether rows caused the error, so that other rows of the file may be accepted."""
    return (error.sqlstate or "")[:2] in _ROW_CLASSES


def reason_of(error: psycopg.Error) -> str:
    """Return PostgreSQL's message as one line, without values of rows."""
    text = error.diag.message_primary or str(error)
    return " ".join(text.split())[:_MAX_REASON_CHARS]


def stage_rows(
    connection: psycopg.Connection,
    record: FileRecord,
    copy: Callable[[sql.Identifier], int],
) -> StagedRows:
    """Copy the rows of a file to a temporary table of the transaction.

    :param copy: copies the rows to the columns of *record* in a table; returns the number of rows.
    """
    columns = sql.SQL(", ").join(
        sql.SQL("{} text").format(sql.Identifier(column.name)) for column in record.columns
    )
    connection.execute(
        sql.SQL("CREATE TEMPORARY TABLE {} ({}, {} bigserial) ON COMMIT DROP").format(
            _ROWS, columns, _ORDER
        )
    )
    return StagedRows(record, copy(_ROWS))


def move_rows(
    connection: psycopg.Connection,
    staged: StagedRows,
    is_given_up: Callable[[], bool],
    max_tries: int = MAX_TRIES,
) -> Refused:
    """Move *staged* rows into their table; see Note [Refused rows].

    Raises `psycopg.Error` if an error isn't caused by rows, and InterruptedError if the import was
    cancelled.
    """
    whole = (1, staged.count + 1)
    error = _try_to_move(connection, staged, None)
    if error is None:
        return NONE_REFUSED
    _ensure_quarantine(connection, staged.record.schema)
    connection.execute(sql.SQL("CREATE INDEX ON {} ({})").format(_ROWS, _ORDER))
    refused = NONE_REFUSED
    ranges = _halves(*whole) or [whole]
    tries = 1
    while ranges:
        if is_given_up():
            raise InterruptedError("the import was abandoned")
        start, end = ranges.pop()
        error = _try_to_move(connection, staged, (start, end))
        tries += 1
        if error is None:
            continue
        halves = _halves(start, end) if tries < max_tries else []
        if halves:
            ranges += halves
            continue
        _keep(connection, staged.record, (start, end), error)
        refused = Refused(refused.count + end - start, refused.reason or reason_of(error))
    return refused


def _halves(start: int, end: int) -> list[tuple[int, int]]:
    """Return the two halves of a range, the first one last; nothing for a single row."""
    middle = (start + end) // 2
    return [(middle, end), (start, middle)] if middle > start else []


def _try_to_move(
    connection: psycopg.Connection, staged: StagedRows, range_: tuple[int, int] | None
) -> psycopg.Error | None:
    """Move the rows of a range, or all rows; return the error if they are refused."""
    try:
        with connection.transaction():
            connection.execute(_move(staged.record, range_))
    except psycopg.Error as error:
        if not is_about_rows(error):
            raise
        return error
    return None


def _move(record: FileRecord, range_: tuple[int, int] | None) -> sql.Composed:
    """Move rows into the table.

    If there is a primary key, the rows are sorted by it, so that two imports with common rows lock
    them in the same order. Like COPY, the statement sets columns that are GENERATED ALWAYS AS
    IDENTITY.
    """
    names = _listed(record.columns)
    keys = [column for column in record.columns if column.is_key]
    rows = sql.SQL("SELECT {}, {} FROM {}{}").format(
        sql.SQL(", ").join(
            sql.SQL("{0}::{1} AS {0}").format(
                sql.Identifier(column.name), sql.SQL(sql_type(column.type))
            )
            for column in record.columns
        ),
        _ORDER,
        _ROWS,
        _where(range_),
    )
    target = sql.Identifier(record.schema, record.table)
    if not keys:
        return sql.SQL(
            "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM ({}) staged ORDER BY {}"
        ).format(target, names, names, rows, _ORDER)
    changes = [
        sql.SQL("{0} = EXCLUDED.{0}").format(sql.Identifier(column.name))
        for column in record.columns
        if not column.is_key
    ]
    action = (
        sql.SQL("UPDATE SET {}").format(sql.SQL(", ").join(changes))
        if changes
        else sql.SQL("NOTHING")
    )
    return sql.SQL(
        "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT DISTINCT ON ({}) {} FROM ({}) staged "
        "ORDER BY {}, {} DESC ON CONFLICT ({}) DO {}"
    ).format(
        target, names, _listed(keys), names, rows, _listed(keys), _ORDER, _listed(keys), action
    )


def _where(range_: tuple[int, int] | None) -> sql.Composable:
    if range_ is None:
        return sql.SQL("")
    return sql.SQL(" WHERE {0} >= {1} AND {0} < {2}").format(
        _ORDER, sql.Literal(range_[0]), sql.Literal(range_[1])
    )


def _listed(columns: Sequence[ColumnRecord]) -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier(column.name) for column in columns)


def _ensure_quarantine(connection: psycopg.Connection, schema: str) -> None:
    if _has_quarantine(connection, schema):
        return
    table = sql.Identifier(schema, QUARANTINE)
    # The lock is held until the import ends, since two imports may concurrently find the table
    # missing.
    connection.execute(_LOCK, [f"stream quarantine {schema}"])
    if _has_quarantine(connection, schema):
        return
    connection.execute(
        sql.SQL(
            "CREATE TABLE {} (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "
            "import_id text NOT NULL, file text NOT NULL, table_name text NOT NULL, "
            '"row" jsonb NOT NULL, reason text NOT NULL, detail text NOT NULL, '
            "sqlstate text NOT NULL, refused_at timestamptz NOT NULL DEFAULT now())"
        ).format(table)
    )
    connection.execute(sql.SQL("CREATE INDEX ON {} (import_id)").format(table))


def _has_quarantine(connection: psycopg.Connection, schema: str) -> bool:
    found = connection.execute(
        "SELECT 1 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE n.nspname = %s AND c.relname = %s",
        [schema, QUARANTINE],
    )
    return found.fetchone() is not None


def _keep(
    connection: psycopg.Connection,
    record: FileRecord,
    range_: tuple[int, int],
    error: psycopg.Error,
) -> None:
    """Put the rows of a range into quarantine."""
    count = range_[1] - range_[0]
    reason = reason_of(error)
    if count > 1:
        reason = f"one of {count} rows that were not checked one by one: {reason}"
    connection.execute(
        sql.SQL(
            'INSERT INTO {} (import_id, file, table_name, "row", reason, detail, sqlstate) '
            "SELECT {}, {}, {}, to_jsonb(staged) - {}, {}, {}, {} FROM {} staged{} ORDER BY {}"
        ).format(
            sql.Identifier(record.schema, QUARANTINE),
            sql.Literal(record.import_id),
            sql.Literal(str(record.key)),
            sql.Literal(record.table),
            sql.Literal(ORDER_COLUMN),
            sql.Literal(reason),
            sql.Literal((error.diag.message_detail or "")[:_MAX_REASON_CHARS]),
            sql.Literal(error.sqlstate or ""),
            _ROWS,
            _where(range_),
            _ORDER,
        )
    )


def read_refused(connection: psycopg.Connection, record: FileRecord) -> Refused:
    """Return the quarantined rows of a file that was already imported."""
    if not _has_quarantine(connection, record.schema):
        return NONE_REFUSED
    found = connection.execute(
        sql.SQL("SELECT count(*), min(reason) FROM {} WHERE import_id = %s").format(
            sql.Identifier(record.schema, QUARANTINE)
        ),
        [record.import_id],
    ).fetchone()
    return Refused(found[0], found[1] or "") if found else NONE_REFUSED
