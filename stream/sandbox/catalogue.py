"""The catalog of tables in ``meta.sqlite``: definitions, metadata and row counts.

Functions take a connection and run inside a transaction of that file.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

import attrs
import orjson

from stream.errors import UserError
from stream.sandbox.http import not_found
from stream.sandbox.rows import Applied

__all__ = ["Table", "add_table", "find_table", "forget_table", "list_tables", "no_table"]

_SELECT = (
    "SELECT id, bucket_id, name, columns, primary_key, rows_count, created, changed, last_import"
    " FROM tables"
)


@attrs.frozen
class Table:
    """A table in the catalog."""

    id: str
    bucket_id: str
    name: str
    columns: tuple[str, ...]
    primary_key: tuple[str, ...]
    rows_count: int
    created: str
    changed: str
    last_import: str | None


def _table(row: Sequence[Any]) -> Table:
    id, bucket_id, name, columns, primary_key, *rest = row
    return Table(
        id, bucket_id, name, tuple(orjson.loads(columns)), tuple(orjson.loads(primary_key)), *rest
    )


def no_table(table_id: str) -> UserError:
    """Return the 404 error for a table that doesn't exist."""
    return not_found(f'table "{table_id}" not found', "storage.tables.notFound")


def find_table(meta: sqlite3.Connection, table_id: str) -> Table:
    """Return the table with this ID.

    Raises UserError: 404, the table doesn't exist.
    """
    row = meta.execute(f"{_SELECT} WHERE id = ?", (table_id,)).fetchone()
    if row is None:
        raise no_table(table_id)
    return _table(row)


def list_tables(meta: sqlite3.Connection) -> list[Table]:
    """Return all tables in the order of their IDs."""
    return [_table(row) for row in meta.execute(f"{_SELECT} ORDER BY id")]


def table_exists(meta: sqlite3.Connection, table_id: str) -> bool:
    """Return whether a table has that ID, ignoring case."""
    sql = "SELECT 1 FROM tables WHERE id = ? COLLATE NOCASE"
    return meta.execute(sql, (table_id,)).fetchone() is not None


def add_table(meta: sqlite3.Connection, table: Table) -> None:
    """Add a table to the catalog.

    Raises UserError: 400, the table exists; 404, its bucket doesn't exist.
    """
    if table_exists(meta, table.id):
        raise UserError(f'table "{table.id}" already exists', name="storage.tables.alreadyExists")
    try:
        meta.execute(
            "INSERT INTO tables (id, bucket_id, name, columns, primary_key, created, changed)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                table.id,
                table.bucket_id,
                table.name,
                orjson.dumps(table.columns).decode(),
                orjson.dumps(table.primary_key).decode(),
                table.created,
                table.changed,
            ),
        )
    except sqlite3.IntegrityError as error:
        raise not_found(
            f'bucket "{table.bucket_id}" not found', "storage.buckets.notFound"
        ) from error


def forget_table(meta: sqlite3.Connection, table_id: str) -> None:
    """Remove a table from the catalog.

    Raises UserError: 404, the table doesn't exist.
    """
    if not meta.execute("DELETE FROM tables WHERE id = ?", (table_id,)).rowcount:
        raise no_table(table_id)


def note_import(meta: sqlite3.Connection, table_id: str, applied: Applied, now: str) -> None:
    """Record the time of an import and the number of rows in the table."""
    meta.execute(
        "UPDATE tables SET rows_count = ?, last_import = ?, changed = ? WHERE id = ?",
        (applied.table_rows, now, now, table_id),
    )


def put_metadata(
    meta: sqlite3.Connection,
    table_id: str,
    provider: str,
    values: Sequence[tuple[str, str]],
    now: str,
) -> list[dict[str, Any]]:
    """Set values by provider and key; return all metadata of the table."""
    find_table(meta, table_id)
    meta.executemany(
        "INSERT INTO table_metadata (table_id, provider, key, value, timestamp)"
        " VALUES (?, ?, ?, ?, ?) ON CONFLICT (table_id, provider, key)"
        " DO UPDATE SET value = excluded.value, timestamp = excluded.timestamp",
        [(table_id, provider, key, value, now) for key, value in values],
    )
    return metadata(meta, table_id)


def metadata(meta: sqlite3.Connection, table_id: str) -> list[dict[str, Any]]:
    """Return the metadata of a table, oldest first."""
    rows = meta.execute(
        "SELECT id, key, value, provider, timestamp FROM table_metadata WHERE table_id = ?"
        " ORDER BY id",
        (table_id,),
    )
    names = ("id", "key", "value", "provider", "timestamp")
    # In the API, IDs of metadata are strings.
    return [dict(zip(names, (str(row[0]), *row[1:]), strict=True)) for row in rows]


def find_with_metadata(
    meta: sqlite3.Connection, table_id: str
) -> tuple[Table, list[dict[str, Any]]]:
    """Return a table with its metadata."""
    return find_table(meta, table_id), metadata(meta, table_id)
