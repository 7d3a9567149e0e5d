"""The etcd record of a file that is imported into a lake."""

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
    """The destination of a file; its rows have these columns, even if the sink has changed.

    :ivar import_id: unique ID, which is part of the names of all objects of the file.
    :ivar place: members of the sink's table that specify its location; later versions may add some.
    :ivar partition_by: the sink table's partitions, as a JSON array of strings; ``""`` for none.
    :ivar time_column: name of a timestamp column whose values are the receive times of records;
        ``""`` if there is none.
    """

    key: FileKey = field(flatten=True)
    import_id: str
    connection: str
    place: Mapping[str, Any] = field(factory=dict, hash=False)
    columns: tuple[ColumnRecord, ...]
    partition_by: str = field(default="", omit_empty=True)
    time_column: str = field(default="", omit_empty=True)
