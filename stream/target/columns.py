"""The columns of a typed table, as targets store them with each file."""

from __future__ import annotations

import attrs

from stream.mapping.columns import Mapping
from stream.values.codec import Record, field

__all__ = ["ColumnRecord", "columns_of"]


@attrs.frozen
class ColumnRecord(Record):
    """A column of a table: name, type (`stream.mapping.types`) and options."""

    name: str
    type: str = "string"
    is_key: bool = field(default=False, omit_empty=True)
    is_nullable: bool = field(default=False, omit_empty=True)


def columns_of(mapping: Mapping) -> tuple[ColumnRecord, ...]:
    """Return the columns of the rows that *mapping* produces."""
    return tuple(
        ColumnRecord(column.name, column.data_type or "string", column.primary_key, column.nullable)
        for column in mapping.columns
    )
