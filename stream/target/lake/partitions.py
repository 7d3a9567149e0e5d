"""The option ``partitionBy`` of a table: transforms of columns. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

import attrs

from stream.errors import UserError, shortened
from stream.target.columns import ColumnRecord

__all__ = ["TIME_TRANSFORMS", "Partition", "read_partitions"]

TIME_TRANSFORMS = ("year", "month", "day", "hour")
"""Transforms from a time or a date to its UTC period."""

_WITH_NUMBER = ("bucket", "truncate")
_CALL = re.compile(r"([a-z]+)\((?:\s*(\d{1,9})\s*,)?\s*(.+?)\s*\)")
_MAX_PARTITIONS = 10
_MAX_NUMBER = 2**31 - 1


@attrs.frozen
class Partition:
    """A partition field of a table.

    :ivar transform: ``identity``, ``year``, ``month``, ``day``, ``hour``, ``bucket``, ``truncate``.
    :ivar number: number of buckets, or the width to which values are truncated.
    """

    transform: str
    column: str
    number: int = 0

    @property
    def name(self) -> str:
        """The name of the partition's field: ``at_day``; for ``identity``, the column's name."""
        return self.column if self.transform == "identity" else f"{self.column}_{self.transform}"

    def __str__(self) -> str:
        if self.transform == "identity":
            return self.column
        number = f"{self.number}, " if self.number else ""
        return f"{self.transform}({number}{self.column})"


def read_partitions(
    text: str, columns: Sequence[ColumnRecord], transforms: Sequence[str]
) -> tuple[Partition, ...]:
    """Return the partitions in *text*, a JSON array of strings.

    Raises UserError: a partition is invalid. The error names the first one.

    :param columns: columns of the table.
    :param transforms: transforms supported by the target.
    """
    named: list[str] = json.loads(text) if text else []
    if len(named) > _MAX_PARTITIONS:
        raise _wrong(f"a table can be partitioned by at most {_MAX_PARTITIONS} columns")
    by_name = {column.name: column for column in columns}
    found = [_read(each, by_name, transforms) for each in named]
    names = [partition.name for partition in found]
    for partition in found:
        if names.count(partition.name) > 1:
            raise _wrong(f'"{partition.name}" occurs twice')
        if partition.transform != "identity" and partition.name in by_name:
            raise _wrong(
                f'the partition "{partition}" has the same name as the column "{partition.name}": '
                "rename the column"
            )
    return tuple(found)


def _read(text: str, columns: Mapping[str, ColumnRecord], transforms: Sequence[str]) -> Partition:
    call = None if text in columns else _CALL.fullmatch(text)
    if call is None:
        partition = Partition("identity", text)
    else:
        partition = Partition(call[1], call[3], int(call[2] or 0))
    shown = shortened(text)
    if partition.transform not in transforms:
        raise _wrong(f'"{shown}" is not a valid partition, expected one of: {_listed(transforms)}')
    column = columns.get(partition.column)
    if column is None:
        raise _wrong(f'"{shown}" names no column of the mapping')
    needs_number = partition.transform in _WITH_NUMBER
    if needs_number is not bool(0 < partition.number <= _MAX_NUMBER):
        form = f"{partition.transform}(16, {column.name})"
        raise _wrong(
            f'"{shown}" needs a number: {form}' if needs_number else f'"{shown}" takes no number'
        )
    wanted = _types(partition.transform)
    if column.type.partition("(")[0] not in wanted:
        raise _wrong(
            f'"{shown}" needs a column of type {" or ".join(wanted)}, "{column.name}" is '
            f"{column.type}"
        )
    return partition


def _types(transform: str) -> tuple[str, ...]:
    if transform == "hour":
        return ("timestamp",)
    if transform in TIME_TRANSFORMS:
        return ("timestamp", "date")
    if transform == "bucket":
        return ("string", "integer", "decimal", "timestamp", "date", "uuid")
    if transform == "truncate":
        return ("string", "integer", "decimal")
    return ("string", "boolean", "integer", "decimal", "timestamp", "date", "uuid")


def _listed(transforms: Sequence[str]) -> str:
    forms = {"identity": "column", "bucket": "bucket(n, column)", "truncate": "truncate(n, column)"}
    return ", ".join(forms.get(each, f"{each}(column)") for each in transforms)


def _wrong(message: str) -> UserError:
    return UserError(
        f"partitionBy: {message}", name="invalidPartition", param="body.table.partitionBy"
    )
