"""CSV rows of slices as tables of Arrow, with types. Only for worker processes.

Memory is bounded by `BLOCK_BYTES` and `GROUP_BYTES`, whatever a file holds.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

import pyarrow as pa
from pyarrow import csv

from stream.mapping.types import decimal_size
from stream.target.columns import ColumnRecord
from stream.target.staged import decompressed

__all__ = ["GROUP_BYTES", "arrow_type", "limit_memory", "read_groups"]

BLOCK_BYTES = 5 * 1024 * 1024
"""Of CSV that is parsed at once: more than the longest row that a sink may write, 4 MB."""
GROUP_BYTES = 16 * 1024 * 1024
"""Of Arrow's memory in one row group."""

_TYPES = {
    "string": pa.string(),
    "boolean": pa.bool_(),
    "integer": pa.int64(),
    "double": pa.float64(),
    "timestamp": pa.timestamp("us", tz="UTC"),
    "date": pa.date32(),
    "json": pa.string(),
    "uuid": pa.string(),
}


def limit_memory() -> None:
    """Let freed memory go back at once, and no more blocks be read ahead than two threads need."""
    pa.set_memory_pool(pa.system_memory_pool())
    pa.set_cpu_count(2)
    pa.set_io_thread_count(1)


def arrow_type(data_type: str) -> pa.DataType:
    """The type of a column's values; UUIDs and JSON are texts."""
    size = decimal_size(data_type)
    return pa.decimal128(*size) if size is not None else _TYPES[data_type]


def read_groups(
    slices: Iterator[Iterator[bytes]],
    columns: Sequence[ColumnRecord],
    *,
    compression: str,
    max_rows: int,
) -> Iterator[pa.Table]:
    """All rows in their order, in tables of at most *max_rows*, and of bounded size.

    :param slices: the stored bytes of each slice.

    Raises StagingError for a damaged slice, and ValueError for a row that isn't one.
    """
    file = _Joined(chunk for slice_ in slices for chunk in decompressed(slice_, compression))
    if file.is_empty():
        return
    reader = csv.open_csv(
        pa.PythonFile(file, mode="r"),
        read_options=csv.ReadOptions(
            column_names=[column.name for column in columns], block_size=BLOCK_BYTES
        ),
        # A row of one column that is NULL is an empty line.
        parse_options=csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
        # NULL is an empty cell without quotes; in quotes it is an empty text.
        convert_options=csv.ConvertOptions(
            column_types={column.name: arrow_type(column.type) for column in columns},
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            true_values=["true"],
            false_values=["false"],
        ),
    )
    yield from _grouped(reader, max_rows)


def _grouped(batches: Iterator[pa.RecordBatch], max_rows: int) -> Iterator[pa.Table]:
    kept: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in batches:
        start = 0
        while start < batch.num_rows:
            part = batch.slice(start, max_rows - rows)
            start += part.num_rows
            kept.append(part)
            rows += part.num_rows
            size += part.nbytes
            if rows >= max_rows or size >= GROUP_BYTES:
                yield pa.Table.from_batches(kept)
                kept, rows, size = [], 0, 0
    if kept:
        yield pa.Table.from_batches(kept)


class _Joined(io.RawIOBase):
    """A file of chunks that come one after the other."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        super().__init__()
        self._chunks = chunks
        self._rest = memoryview(b"")

    def is_empty(self) -> bool:
        """Whether nothing follows."""
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return True
            self._rest = memoryview(chunk)
        return False

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """Exactly *size* bytes, fewer only at the end."""
        parts = []
        while size and not self.is_empty():
            part = self._rest[:size] if size > 0 else self._rest
            self._rest = self._rest[len(part) :]
            size -= len(part)
            parts.append(bytes(part))
        return b"".join(parts)
