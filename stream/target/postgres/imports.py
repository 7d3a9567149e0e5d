"""Imports each file into its table in one transaction, recorded in the database. Blocks.

Note [Ledger]: a file is imported in one transaction that first writes the ID of the import to the
table ``_stream_imports``. If the ID exists, the rows exist as well, and nothing is done. Two
transactions with the same ID exclude each other: the second waits until the first has ended. So a
file is imported once, regardless of retries and crashes. Old IDs are removed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, LiteralString

import attrs
import psycopg
from psycopg import errors, sql

from stream.errors import UserError, shortened
from stream.target.owners import check_project
from stream.target.postgres.records import ColumnRecord, FileRecord
from stream.target.postgres.refusals import (
    NONE_REFUSED,
    Refused,
    is_about_rows,
    move_rows,
    read_refused,
    stage_rows,
)
from stream.target.postgres.tables import (
    LEDGER,
    QUARANTINE,
    FoundColumn,
    add_columns,
    check_names,
    create_table,
    differences,
    missing,
)
from stream.target.protocol import PREVIEW_CHARACTERS, Preview

__all__ = ["Imported", "drop_table", "ensure_table", "import_rows"]

LEDGER_DAYS = 30
"""How long the ID of an import is kept. Retries of a file end long before that."""

_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended(%s, 7235))"
_COLUMNS = """
SELECT a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
    a.atthasdef OR a.attidentity <> '', a.attgenerated <> '', a.attidentity = 'a'
FROM pg_attribute a WHERE a.attrelid = %s::oid AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum
"""
_KEY = """
SELECT a.attname FROM pg_index i
JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY k(attnum, place) ON true
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
WHERE i.indrelid = %s::oid AND i.indisprimary ORDER BY k.place
"""
_RELATION = """
SELECT c.oid, c.relkind::text, obj_description(c.oid, 'pg_class') FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %s AND c.relname = %s
"""
_LACKING = """
WITH t AS (SELECT %s::oid AS oid),
needed AS (
    SELECT 'INSERT' AS lacks, unnest(%s::text[]) AS name
    UNION ALL SELECT 'SELECT', unnest(%s::text[])
    UNION ALL SELECT 'UPDATE', unnest(%s::text[])
)
SELECT DISTINCT needed.lacks FROM needed, t
WHERE NOT has_column_privilege(t.oid, needed.name, needed.lacks) ORDER BY 1
"""
_LACKING_ON_LEDGER = """
SELECT needed FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) needed
WHERE NOT has_table_privilege(%s::oid, needed)
"""
_LACKING_ON_QUARANTINE = """
SELECT needed FROM unnest(ARRAY['SELECT', 'INSERT']) needed
WHERE NOT has_table_privilege(%s::oid, needed)
"""
_LACKING_ON_SCHEMA = """
SELECT 'CREATE' WHERE NOT has_schema_privilege(%s, 'CREATE')
"""
_LACKING_ON_DATABASE = """
SELECT 'TEMPORARY' WHERE NOT has_database_privilege(current_database(), 'TEMPORARY')
"""
_TABLE_KINDS = ("r", "p")


@contextmanager
def _committed(connection: psycopg.Connection) -> Iterator[None]:
    """Run a transaction. Raises `psycopg.OperationalError` unless it is committed.

    If the connection ends before the commit, psycopg ends the transaction without an error.
    """
    with connection.transaction() as transaction:
        yield
    if transaction.status is not psycopg.Transaction.Status.COMMITTED:
        raise psycopg.OperationalError("the connection ended before the commit")


def ensure_table(
    connection: psycopg.Connection,
    schema: str,
    table: str,
    columns: Sequence[ColumnRecord],
    owner: str,
) -> None:
    """Create the table and the ledger if they are missing; add missing columns.

    :param owner: the sink, which is recorded with a new table.

    Raises UserError: all reasons why *columns* don't fit the table, and what to do.
    """
    check_names(schema, table, columns)
    with _committed(connection):
        # Two sinks may concurrently create the same table, or the ledger.
        connection.execute(_LOCK, [f"stream {schema}"])
        encoding = connection.execute("SHOW server_encoding").fetchone()
        if encoding != ("UTF8",):
            raise UserError(
                f"the database has the encoding {encoding and encoding[0]}, it must be UTF8: "
                "create one with ENCODING 'UTF8'"
            )
        # Even a table without a primary key may refuse a row; see Note [Refused rows].
        _check_rights(connection, "the database", _LACKING_ON_DATABASE, [])
        _ensure_schema(connection, schema)
        _ensure_ledger(connection, schema)
        ledger = connection.execute(_RELATION, [schema, LEDGER]).fetchone()
        if ledger is not None:
            where = f'the table "{schema}.{LEDGER}"'
            _check_rights(connection, where, _LACKING_ON_LEDGER, [ledger[0]])
        _check_quarantine(connection, schema)
        found = connection.execute(_RELATION, [schema, table]).fetchone()
        if found is None:
            _create(connection, schema, table, columns, owner)
            return
        if found[1] not in _TABLE_KINDS:
            raise UserError(f'"{schema}.{table}" is not a table, use another name')
        _check_project(found[2], schema, table, owner)
        _fit_columns(connection, found[0], schema, table, columns)


def preview_rows(
    connection: psycopg.Connection,
    schema: str,
    table: str,
    columns: Sequence[str],
    limit: int,
    owner: str,
) -> Preview:
    """Return the first rows of a table.

    Raises UserError: the table is missing or was created for another project.

    :param owner: the sink that the preview is for.
    """
    relation = connection.execute(_RELATION, [schema, table]).fetchone()
    if relation is not None:
        _check_project(relation[2], schema, table, owner)
    cells = sql.SQL(", ").join(
        sql.SQL("left({}::text, {})").format(
            sql.Identifier(column), sql.Literal(PREVIEW_CHARACTERS + 1)
        )
        for column in columns
    )
    query = sql.SQL("SELECT {} FROM {} LIMIT {}").format(
        cells, sql.Identifier(schema, table), sql.Literal(limit)
    )
    try:
        found = connection.execute(query).fetchall()
    except errors.UndefinedTable as error:
        raise UserError(
            f'there is no table "{schema}.{table}"', status=404, name="tableNotFound"
        ) from error
    return Preview(
        columns, [[cell and shortened(cell, PREVIEW_CHARACTERS) for cell in row] for row in found]
    )


def _ensure_schema(connection: psycopg.Connection, schema: str) -> None:
    found = connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", [schema])
    if found.fetchone() is None:
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))


def _ensure_ledger(connection: psycopg.Connection, schema: str) -> None:
    if connection.execute(_RELATION, [schema, LEDGER]).fetchone() is not None:
        return
    ledger = sql.Identifier(schema, LEDGER)
    connection.execute(
        sql.SQL(
            "CREATE TABLE {} (import_id text PRIMARY KEY, file text NOT NULL, "
            "rows bigint NOT NULL, imported_at timestamptz NOT NULL DEFAULT now())"
        ).format(ledger)
    )
    connection.execute(sql.SQL("CREATE INDEX ON {} (imported_at)").format(ledger))


def _check_quarantine(connection: psycopg.Connection, schema: str) -> None:
    """Check that refused rows can be quarantined. Raises UserError."""
    found = connection.execute(_RELATION, [schema, QUARANTINE]).fetchone()
    if found is None:
        _check_rights(connection, f'the schema "{schema}"', _LACKING_ON_SCHEMA, [schema])
        return
    where = f'the table "{schema}.{QUARANTINE}"'
    _check_rights(connection, where, _LACKING_ON_QUARANTINE, [found[0]])


def _fit_columns(
    connection: psycopg.Connection,
    relation: int,
    schema: str,
    table: str,
    columns: Sequence[ColumnRecord],
) -> None:
    found = {
        name: FoundColumn(
            name,
            type,
            needs_value=not_null and not has_default,
            is_not_null=not_null,
            is_generated=is_generated,
            is_identity=is_identity,
        )
        for name, type, not_null, has_default, is_generated, is_identity in connection.execute(
            _COLUMNS, [relation]
        )
    }
    key = [name for (name,) in connection.execute(_KEY, [relation])]
    problems = differences(columns, found, key)
    if problems:
        raise UserError(
            f'the table "{schema}.{table}" doesn\'t fit the mapping: {"; ".join(problems)}; change '
            "the mapping or the table, or use another table",
            name="tableMisfit",
        )
    added = missing(columns, found)
    if added:
        connection.execute(add_columns(schema, table, added))
    where = f'the table "{schema}.{table}"'
    _check_rights(connection, where, _LACKING, [relation, *_rights(columns)])
    filtered = connection.execute("SELECT row_security_active(%s::oid)", [relation]).fetchone()
    if not key and filtered == (True,):
        raise UserError(
            f'row-level security of the table "{schema}.{table}" applies to the user of the '
            "connection, and doesn't allow COPY: give the user BYPASSRLS, or use another table",
            name="tableMisfit",
        )


def _rights(columns: Sequence[ColumnRecord]) -> tuple[list[str], list[str], list[str]]:
    """Return which columns an import inserts, reads and updates."""
    names = [column.name for column in columns]
    if not any(column.is_key for column in columns):
        return names, [], []
    return names, names, [column.name for column in columns if not column.is_key]


def _check_rights(
    connection: psycopg.Connection, where: str, query: LiteralString, arguments: Sequence[Any]
) -> None:
    """Check that *query* finds no missing right. Raises UserError that names all.

    :param where: the object of the rights, for people.
    """
    lacking = [right for (right,) in connection.execute(query, arguments)]
    if lacking:
        raise UserError(
            f"the user of the connection lacks {', '.join(lacking)} on {where}: grant "
            "the missing privileges, then try again",
            name="connectionForbidden",
        )


@attrs.frozen
class Imported:
    """The outcome of an import.

    :ivar is_new: whether the file had not been imported before.
    :ivar refused: the quarantined rows of the file.
    """

    is_new: bool
    refused: Refused = NONE_REFUSED


def import_rows(
    connection: psycopg.Connection,
    record: FileRecord,
    slices: Sequence[Callable[[], Iterator[bytes]]],
    is_given_up: Callable[[], bool],
) -> Imported:
    """Import the file of *record*.

    See Note [Ledger], and Note [Refused rows] in `stream.target.postgres.refusals`.

    :param slices: the rows of each slice as CSV, in order, since the last row with a key wins. They
        may be read twice.
    :param is_given_up: polled; the import is rolled back when it returns true.

    Raises `psycopg.Error`, UserError if the table was created for another project, and
    InterruptedError if the import was cancelled.
    """
    ledger = sql.Identifier(record.schema, LEDGER)
    with _committed(connection):
        if connection.execute(_RELATION, [record.schema, LEDGER]).fetchone() is None:
            # The table was dropped after the file was opened, perhaps with its schema.
            connection.execute(_LOCK, [f"stream {record.schema}"])
            _ensure_schema(connection, record.schema)
            _ensure_ledger(connection, record.schema)
        entry = connection.execute(
            sql.SQL(
                "INSERT INTO {} (import_id, file, rows) VALUES (%s, %s, 0) ON CONFLICT DO NOTHING"
            ).format(ledger),
            [record.import_id, str(record.key)],
        )
        if not entry.rowcount:
            return Imported(False, read_refused(connection, record))
        owner = str(record.key.sink_key)
        found = connection.execute(_RELATION, [record.schema, record.table]).fetchone()
        if found is None:
            # The table was dropped after the file was opened, but the rows still need it.
            _create(connection, record.schema, record.table, record.columns, owner)
        else:
            # Another project may have taken the name since then.
            _check_project(found[2], record.schema, record.table, owner)
        # Once the import succeeds, the staged rows are removed. So the rows must be on the server's
        # disk by then, regardless of the database's settings.
        connection.execute(
            "SELECT set_config('synchronous_commit', 'local', true) "
            "WHERE current_setting('synchronous_commit') = 'off'"
        )
        # Constraints that are checked only at the commit would refuse the whole file.
        connection.execute("SET CONSTRAINTS ALL IMMEDIATE")

        def copy(table: sql.Identifier) -> int:
            return _copy(connection, table, record.columns, slices, is_given_up)

        rows, refused = _rows_into_table(connection, record, copy, is_given_up)
        connection.execute(
            sql.SQL("UPDATE {} SET rows = %s WHERE import_id = %s").format(ledger),
            [rows - refused.count, record.import_id],
        )
        connection.execute(
            sql.SQL(
                "DELETE FROM {0} WHERE import_id IN (SELECT import_id FROM {0} "
                "WHERE imported_at < now() - %s * interval '1 day' FOR UPDATE SKIP LOCKED)"
            ).format(ledger),
            [LEDGER_DAYS],
        )
    return Imported(True, refused)


def _rows_into_table(
    connection: psycopg.Connection,
    record: FileRecord,
    copy: Callable[[sql.Identifier], int],
    is_given_up: Callable[[], bool],
) -> tuple[int, Refused]:
    """Insert all rows; return the rows that the table refused."""
    if not any(column.is_key for column in record.columns):
        try:
            with connection.transaction():
                return copy(sql.Identifier(record.schema, record.table)), NONE_REFUSED
        except psycopg.Error as error:
            if not is_about_rows(error):
                raise
    staged = stage_rows(connection, record, copy)
    return staged.count, move_rows(connection, staged, is_given_up)


def _copy(
    connection: psycopg.Connection,
    table: sql.Identifier,
    columns: Sequence[ColumnRecord],
    slices: Sequence[Callable[[], Iterator[bytes]]],
    is_given_up: Callable[[], bool],
) -> int:
    """Copy the rows of all slices into *table*; return their number."""
    statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT csv)").format(
        table, sql.SQL(", ").join(sql.Identifier(column.name) for column in columns)
    )
    rows = 0
    for chunks in slices:
        with connection.cursor() as cursor:
            with cursor.copy(statement) as copy:
                for chunk in chunks():
                    if is_given_up():
                        raise InterruptedError("the import was abandoned")
                    copy.write(chunk)
            rows += cursor.rowcount
    return rows


def drop_table(connection: psycopg.Connection, schema: str, table: str, owner: str) -> bool:
    """Drop the table if it was created for the sink *owner*; return False if it is kept."""
    with _committed(connection):
        found = connection.execute(_RELATION, [schema, table]).fetchone()
        if found is None or found[2] != _mark(owner):
            return False
        connection.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(schema, table)))
    return True


def _create(
    connection: psycopg.Connection,
    schema: str,
    table: str,
    columns: Sequence[ColumnRecord],
    owner: str,
) -> None:
    """Create the table, marked as created for the sink *owner*."""
    connection.execute(create_table(schema, table, columns))
    comment = sql.SQL("COMMENT ON TABLE {} IS {}")
    connection.execute(comment.format(sql.Identifier(schema, table), sql.Literal(_mark(owner))))


def _check_project(comment: str | None, schema: str, table: str, owner: str) -> None:
    """Refuse a table if its *comment* says that it belongs to another project. Raises UserError."""
    marked = _mark("")
    made_by = comment.removeprefix(marked) if comment and comment.startswith(marked) else ""
    check_project(made_by, f"{schema}.{table}", owner)


def _mark(owner: str) -> str:
    return f"made by Stream for the sink {owner}"
