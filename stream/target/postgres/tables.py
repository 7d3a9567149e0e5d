"""Table definitions for given columns, and their SQL statements. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
from psycopg import sql

from stream.errors import UserError
from stream.mapping.types import decimal_size
from stream.target.postgres.records import ColumnRecord

__all__ = [
    "LEDGER",
    "ORDER_COLUMN",
    "QUARANTINE",
    "FoundColumn",
    "add_columns",
    "check_names",
    "create_table",
    "differences",
    "missing",
    "sql_type",
]

LEDGER = "_stream_imports"
"""Name of the table of imports; each schema with tables of sinks has one."""

QUARANTINE = "_stream_quarantine"
"""Name of the quarantine table for refused rows of the tables in the same schema."""

ORDER_COLUMN = "_stream_order"
"""Name of the column with the number of a staged row."""

MAX_NAME_BYTES = 63
"""Maximum length of a name; PostgreSQL truncates longer names."""

_TYPES = {
    "string": "text",
    "boolean": "boolean",
    "integer": "bigint",
    "double": "double precision",
    "timestamp": "timestamp with time zone",
    "date": "date",
    "json": "jsonb",
    "uuid": "uuid",
}
_SYSTEM_COLUMNS = frozenset({"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"})


@attrs.frozen
class FoundColumn:
    """A column of an existing table.

    :ivar type: type as formatted by PostgreSQL.
    :ivar needs_value: whether the column is NOT NULL and has no default.
    :ivar is_generated: whether the table computes the column's values and refuses others.
    :ivar is_identity: whether the column is GENERATED ALWAYS AS IDENTITY: a row can set it when it
        is inserted, but not when it is updated.
    """

    name: str
    type: str
    needs_value: bool = False
    is_not_null: bool = False
    is_generated: bool = False
    is_identity: bool = False


def sql_type(data_type: str) -> str:
    """Return the PostgreSQL type of a column."""
    size = decimal_size(data_type)
    return f"numeric({size[0]},{size[1]})" if size is not None else _TYPES[data_type]


def check_names(schema: str, table: str, columns: Sequence[ColumnRecord]) -> None:
    """Check that PostgreSQL accepts the names and doesn't truncate them. Raises UserError."""
    for what, name in (
        ("schema", schema),
        ("table", table),
        *(("column", column.name) for column in columns),
    ):
        if not name or not name.isprintable():
            raise UserError(f'the name of the {what} "{name}" must consist of printable characters')
        if len(name.encode()) > MAX_NAME_BYTES:
            raise UserError(
                f'the name of the {what} "{name}" is too long: PostgreSQL allows {MAX_NAME_BYTES} '
                "bytes"
            )
        if what == "table" and name in (LEDGER, QUARANTINE):
            raise UserError(f'the table "{name}" is reserved for Stream itself, use another name')
        if what == "column" and name == ORDER_COLUMN:
            raise UserError(f'the column "{name}" is reserved for Stream itself, use another name')
        if what == "column" and name in _SYSTEM_COLUMNS:
            raise UserError(
                f'the column "{name}" has a name that PostgreSQL reserves, use another name'
            )


def create_table(schema: str, table: str, columns: Sequence[ColumnRecord]) -> sql.Composed:
    """Return the statement that creates the table; only primary key columns are NOT NULL."""
    parts = [_definition(column) for column in columns]
    keys = [sql.Identifier(column.name) for column in columns if column.is_key]
    if keys:
        parts.append(sql.SQL("PRIMARY KEY ({})").format(sql.SQL(", ").join(keys)))
    return sql.SQL("CREATE TABLE {} ({})").format(
        sql.Identifier(schema, table), sql.SQL(", ").join(parts)
    )


def add_columns(schema: str, table: str, columns: Sequence[ColumnRecord]) -> sql.Composed:
    """Return the statement that adds *columns* to the table; existing rows get NULL."""
    added = [sql.SQL("ADD COLUMN {}").format(_definition(column)) for column in columns]
    return sql.SQL("ALTER TABLE {} {}").format(
        sql.Identifier(schema, table), sql.SQL(", ").join(added)
    )


def _definition(column: ColumnRecord) -> sql.Composed:
    return sql.SQL("{} {}").format(sql.Identifier(column.name), sql.SQL(sql_type(column.type)))


def missing(
    columns: Sequence[ColumnRecord], found: Mapping[str, FoundColumn]
) -> list[ColumnRecord]:
    """Return the missing *columns* that can be added, which excludes key columns."""
    return [column for column in columns if column.name not in found and not column.is_key]


def differences(
    columns: Sequence[ColumnRecord], found: Mapping[str, FoundColumn], key: Sequence[str]
) -> list[str]:
    """Return all reasons why rows with *columns* don't fit the table, as readable sentences.

    :param found: the columns of the table by name.
    :param key: names of the columns of its primary key.
    """
    texts = []
    wanted_key = [column.name for column in columns if column.is_key]
    for column in columns:
        there = found.get(column.name)
        wanted = sql_type(column.type)
        if there is None:
            if column.is_key:
                texts.append(f'column "{column.name}" of the primary key is missing')
        elif there.type != wanted:
            texts.append(f'column "{column.name}" is {there.type}, but the mapping has {wanted}')
        elif there.is_generated:
            texts.append(f'column "{column.name}" is generated by the table, so no row can set it')
        elif there.is_identity and wanted_key and not column.is_key:
            texts.append(
                f'column "{column.name}" is GENERATED ALWAYS AS IDENTITY, so a row with a known '
                "key can't change it"
            )
        elif there.is_not_null and column.is_nullable:
            texts.append(f'column "{column.name}" is NOT NULL, but nullable in the mapping')
    mapped = {column.name for column in columns}
    texts += [
        f'column "{there.name}" is NOT NULL without a default, but not in the mapping'
        for there in found.values()
        if there.needs_value and there.name not in mapped
    ]
    if set(wanted_key) != set(key):
        texts.append(f"the primary key is ({', '.join(key)}), not ({', '.join(wanted_key)})")
    return texts
