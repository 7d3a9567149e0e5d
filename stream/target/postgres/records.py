"""The etcd records of a file: its destination with the columns of its rows, and its quarantine."""

from __future__ import annotations

import attrs

from stream.definition.key import BranchKey, SinkKey
from stream.definition.stored import readable
from stream.etcd import EtcdClient
from stream.storage.model.key import FileKey
from stream.target.columns import ColumnRecord, columns_of
from stream.target.protocol import file_record
from stream.values.codec import Record, field

__all__ = [
    "NAME",
    "ColumnRecord",
    "FileRecord",
    "QuarantineRecord",
    "columns_of",
    "quarantine_record_key",
    "read_quarantines",
]

NAME = "postgres"


def quarantine_record_key(file: FileKey) -> str:
    """Return the etcd key of the quarantine of a file."""
    return file_record(NAME, "quarantine", file)


@attrs.frozen(kw_only=True)
class FileRecord(Record):
    """The destination of a file; its rows have these columns, even if the sink has changed.

    :ivar import_id: unique ID of the import in the database.
    """

    key: FileKey = field(flatten=True)
    import_id: str
    connection: str
    schema: str
    table: str
    columns: tuple[ColumnRecord, ...]


@attrs.frozen(kw_only=True)
class QuarantineRecord(Record):
    """The rows of an imported file that its table refused; they are stored in the database.

    :ivar reason: why the first of the rows was refused.
    :ivar table: schema and name of the table that contains the rows.
    """

    key: FileKey = field(flatten=True)
    records_count: int
    reason: str
    table: str


async def read_quarantines(
    client: EtcdClient, below: BranchKey | SinkKey
) -> dict[FileKey, QuarantineRecord]:
    """Return the quarantines of the files of a sink or a branch."""
    found = await client.range(f"storage/{NAME}/quarantine/{below}/")
    return {record.key: record for _, record in readable(QuarantineRecord, found.kvs)}
