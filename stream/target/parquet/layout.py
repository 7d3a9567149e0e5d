"""The names of a table's objects, and the table's description. Pure.

::

    <path>/_table.json                           columns, partitions, who made it
    <path>/at_day=2026-11-28/<import id>-0.parquet <path>/_manifest/<import id>.json            the
    objects of a complete file, written last <path>/_manifest/pending/<import id>.json    the
    objects of a file that is being written
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any
from urllib.parse import quote

import attrs

from stream.errors import UserError, shortened
from stream.target.columns import ColumnRecord
from stream.target.lake.partitions import Partition

__all__ = [
    "NULL_PARTITION",
    "TABLE",
    "Description",
    "check_path",
    "folder_of",
    "manifest_name",
    "manifests",
    "pending_name",
]

TABLE = "_table.json"
NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"
"""The name that Hive uses for the folder of rows without a value."""

_PATH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=-]{0,99}(/[A-Za-z0-9][A-Za-z0-9._=-]{0,99}){0,9}")
_FORMATS = {"year": "%Y", "month": "%Y-%m", "day": "%Y-%m-%d", "hour": "%Y-%m-%d-%H"}


def check_path(path: str) -> None:
    """Check that *path* can be the folder of a table. Raises UserError."""
    if _PATH.fullmatch(path) is None:
        raise UserError(
            f'the path "{shortened(path)}" of the table must consist of names of letters, digits, '
            f'".", '
            '"_", "=" and "-" with slashes between them, such as "shop/orders"',
            param="body.table.path",
        )


def manifests(path: str) -> str:
    """Return the folder of the manifests of a table."""
    return f"{path}/_manifest"


def manifest_name(path: str, import_id: str) -> str:
    """Return the name of a file's manifest, which lists its objects and marks it as complete."""
    return f"{manifests(path)}/{import_id}.json"


def pending_name(path: str, import_id: str) -> str:
    """Return the name of the list with the objects of an incomplete file."""
    return f"{manifests(path)}/pending/{import_id}.json"


def folder_of(path: str, partitions: Sequence[Partition], key: Sequence[Any]) -> str:
    """Return the folder of the rows with these values; each value is the start of its period."""
    folder = path
    for partition, value in zip(partitions, key, strict=True):
        folder += f"/{quote(partition.name, safe='')}={_shown(partition, value)}"
    return folder


def _shown(partition: Partition, value: date | datetime | None) -> str:
    if value is None:
        return NULL_PARTITION
    # strftime writes no leading zeros for years before 1000.
    text = value.strftime(_FORMATS[partition.transform].replace("%Y", ""))
    return f"{value.year:04}{text}"


@attrs.frozen(kw_only=True)
class Description:
    """The description of a table in ``_table.json``.

    :ivar columns: types of the columns by name, in the order in which they were added.
    :ivar partitions: partitions as strings.
    :ivar made_by: the sink for which the table was created.
    """

    columns: Mapping[str, str]
    partitions: tuple[str, ...] = ()
    made_by: str = ""

    @classmethod
    def of(
        cls, columns: Sequence[ColumnRecord], partitions: Sequence[Partition], made_by: str
    ) -> Description:
        """Return the description of a new table."""
        return cls(
            columns={column.name: column.type for column in columns},
            partitions=tuple(map(str, partitions)),
            made_by=made_by,
        )

    @classmethod
    def read(cls, body: bytes) -> Description:
        """Return the description that an object contains. Raises ValueError if it is invalid."""
        try:
            plain = json.loads(body)
            return cls(
                columns={str(each["name"]): str(each["type"]) for each in plain["columns"]},
                partitions=tuple(map(str, plain["partitionBy"])),
                made_by=str(plain["madeBy"]),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a description of a table: {error}") from None

    def body(self) -> bytes:
        """Return the content of the description's object."""
        plain = {
            "columns": [{"name": name, "type": type} for name, type in self.columns.items()],
            "partitionBy": list(self.partitions),
            "madeBy": self.made_by,
        }
        return json.dumps(plain, indent=2).encode() + b"\n"

    def differences(
        self, columns: Sequence[ColumnRecord], partitions: Sequence[Partition]
    ) -> list[str]:
        """Return all reasons why rows with *columns* don't fit the table, as readable sentences."""
        texts = [
            f'column "{column.name}" is {self.columns[column.name]}, but the mapping has '
            f"{column.type}"
            for column in columns
            if self.columns.get(column.name, column.type) != column.type
        ]
        wanted = tuple(map(str, partitions))
        if wanted != self.partitions:
            texts.append(
                f"it is partitioned by ({', '.join(self.partitions)}), not ({', '.join(wanted)})"
            )
        return texts

    def with_columns(self, columns: Sequence[ColumnRecord]) -> Description:
        """Return the description with missing *columns* added, for later objects."""
        added = {c.name: c.type for c in columns if c.name not in self.columns}
        return attrs.evolve(self, columns={**self.columns, **added})
