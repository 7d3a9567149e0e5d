"""The rows in ``data.sqlite``, with one table of TEXT columns per storage table.

Each table is named by its ID. Functions take a connection and run inside a transaction of that
file. Names come from clients, so they are inserted into SQL only by `quoted`; values are always
bound.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Sequence

import attrs

__all__ = [
    "Applied",
    "count_rows",
    "create_table",
    "drop_all",
    "drop_tables",
    "find_applied",
    "forget_applied",
    "insert_statement",
    "mark_applied",
    "preview",
    "quoted",
    "repair",
]


@attrs.frozen
class Applied:
    """The result of a job.

    :param loaded_rows: number of rows that the job has read.
    :param table_rows: number of rows in the table after the job.
    """

    loaded_rows: int
    table_rows: int


def quoted(name: str) -> str:
    """Return *name* as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def _list(names: Iterable[str]) -> str:
    return ", ".join(quoted(name) for name in names)


def create_table(
    data: sqlite3.Connection, table_id: str, columns: Sequence[str], primary_key: Sequence[str]
) -> None:
    """Create an empty table. A table that a crash has left under that name is dropped first."""
    drop_tables(data, [table_id])
    definitions = [f"{quoted(column)} TEXT NOT NULL" for column in columns]
    if primary_key:
        definitions.append(f"PRIMARY KEY ({_list(primary_key)})")
    data.execute(f"CREATE TABLE {quoted(table_id)} ({', '.join(definitions)})")
    data.execute("INSERT INTO _row_counts (table_id, rows) VALUES (?, 0)", (table_id,))


def drop_tables(data: sqlite3.Connection, table_ids: Iterable[str]) -> None:
    """Delete the rows of tables."""
    for table_id in table_ids:
        data.execute(f"DROP TABLE IF EXISTS {quoted(table_id)}")
        data.execute("DELETE FROM _row_counts WHERE table_id = ?", (table_id,))


def drop_all(data: sqlite3.Connection) -> None:
    """Remove every table and every mark of a job."""
    drop_tables(data, _tables(data))
    data.execute("DELETE FROM _row_counts")
    forget_applied(data)


def repair(
    data: sqlite3.Connection, known: Collection[tuple[str, Sequence[str], Sequence[str]]]
) -> list[str]:
    """Drop tables that aren't *known* (ID, columns, primary key) and create missing ones.

    A table is created here before it becomes known, and forgotten before it is dropped here. So
    this completes operations that a crash has interrupted. Return the IDs of the dropped tables.
    """
    present = set(_tables(data))
    dropped = sorted(present - {table_id for table_id, _, _ in known})
    drop_tables(data, dropped)
    for table_id, columns, primary_key in known:
        if table_id not in present:
            create_table(data, table_id, columns, primary_key)
    return dropped


def _tables(data: sqlite3.Connection) -> list[str]:
    # IDs of storage tables have two dots; a table that a user created in this file is kept.
    rows = data.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
    return [name for (name,) in rows if name.count(".") == 2]


def insert_statement(table_id: str, columns: Sequence[str], primary_key: Sequence[str]) -> str:
    """Return SQL that adds a row or replaces the row with the same key."""
    marks = ", ".join("?" * len(columns))
    sql = f"INSERT INTO {quoted(table_id)} ({_list(columns)}) VALUES ({marks})"
    if not primary_key:
        return sql
    rest = [quoted(column) for column in columns if column not in primary_key]
    action = f"UPDATE SET {', '.join(f'{c} = excluded.{c}' for c in rest)}" if rest else "NOTHING"
    return f"{sql} ON CONFLICT ({_list(primary_key)}) DO {action}"


def count_rows(data: sqlite3.Connection, table_id: str, added: int | None) -> int:
    """Update and return the table's row count; the rows are counted if *added* is unknown."""
    if added is None:
        count = data.execute(f"SELECT count(*) FROM {quoted(table_id)}").fetchone()[0]
    else:
        count = (
            added
            + data.execute(
                "SELECT coalesce((SELECT rows FROM _row_counts WHERE table_id = ?), 0)", (table_id,)
            ).fetchone()[0]
        )
    data.execute("REPLACE INTO _row_counts (table_id, rows) VALUES (?, ?)", (table_id, count))
    return int(count)


def mark_applied(data: sqlite3.Connection, job_id: int, applied: Applied) -> None:
    """Record that a job has been applied, in the transaction that loads its rows."""
    data.execute(
        "INSERT INTO _applied_jobs (job_id, loaded_rows, table_rows) VALUES (?, ?, ?)",
        (job_id, applied.loaded_rows, applied.table_rows),
    )


def find_applied(data: sqlite3.Connection, job_id: int) -> Applied | None:
    """Return the result of an applied job; ``None`` if it wasn't applied."""
    row = data.execute(
        "SELECT loaded_rows, table_rows FROM _applied_jobs WHERE job_id = ?", (job_id,)
    ).fetchone()
    return Applied(*row) if row is not None else None


def forget_applied(data: sqlite3.Connection) -> None:
    """Remove all marks; only called when the end of every marked job is recorded."""
    data.execute("DELETE FROM _applied_jobs")


def preview(
    data: sqlite3.Connection,
    table_id: str,
    columns: Sequence[str],
    limit: int,
    *,
    max_chars: int,
    newest: bool = False,
) -> list[tuple[str, ...]]:
    """Return some rows in the order of loading, or the *newest* first.

    The result ends early when the rows exceed *max_chars* characters.
    """
    order = "DESC" if newest else "ASC"
    cursor = data.execute(
        f"SELECT {_list(columns)} FROM {quoted(table_id)} ORDER BY rowid {order} LIMIT ?", (limit,)
    )
    rows: list[tuple[str, ...]] = []
    size = 0
    for row in cursor:
        rows.append(row)
        size += sum(map(len, row))
        if size > max_chars:
            break
    return rows
