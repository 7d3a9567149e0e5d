"""What is stored of a file in etcd: where it is imported to, and what its rows hold."""

from __future__ import annotations

import attrs

from stream.mapping.columns import Mapping
from stream.storage.model.key import FileKey
from stream.values.codec import Record, field

__all__ = ["ColumnRecord", "FileRecord", "columns_of", "file_record_key"]


def file_record_key(file: FileKey) -> str:
    return f"storage/postgres/file/{file}"


@attrs.frozen
class ColumnRecord(Record):
    """A column of a table: its name, its type (`stream.mapping.types`) and what it takes."""

    name: str
    type: str = "string"
    is_key: bool = field(default=False, omit_empty=True)
    is_nullable: bool = field(default=False, omit_empty=True)


def columns_of(mapping: Mapping) -> tuple[ColumnRecord, ...]:
    """The columns that the rows of *mapping* have."""
    return tuple(
        ColumnRecord(column.name, column.data_type or "string", column.primary_key, column.nullable)
        for column in mapping.columns
    )


@attrs.frozen(kw_only=True)
class FileRecord(Record):
    """The destination of a file. Rows are imported by these columns, whatever the sink has then.

    :ivar import_id: under which the database remembers the import; of no other file anywhere.
    """

    key: FileKey = field(flatten=True)
    import_id: str
    connection: str
    schema: str
    table: str
    columns: tuple[ColumnRecord, ...]
