"""The etcd record of a file for a lake."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from stream.storage.model.key import FileKey
from stream.target.columns import ColumnRecord
from stream.values.codec import Record, field

__all__ = ["FileRecord"]


@attrs.frozen(kw_only=True)
class FileRecord(Record):
    """The destination of a file. Rows are imported by these columns, even if the sink has changed.

    :ivar import_id: unique id, a part of the names of all objects of the file.
    :ivar place: members of the sink's table with its location; a later version may add some.
    :ivar partition_by: the sink table's partitions, a JSON array of texts; ``""`` for none.
    :ivar time_column: a timestamp that columns of type ``datetime`` fill; ``""`` if there is none.
    """

    key: FileKey = field(flatten=True)
    import_id: str
    connection: str
    place: Mapping[str, Any] = field(factory=dict, hash=False)
    columns: tuple[ColumnRecord, ...]
    partition_by: str = field(default="", omit_empty=True)
    time_column: str = field(default="", omit_empty=True)
