"""Reads the CSV rows of slices as typed Arrow tables. Only for worker processes.

Memory is limited by the blocks and by `GROUP_BYTES`, regardless of the file's size. pyarrow's own
stream reader isn't used, because it reads 32 blocks ahead.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
from pyarrow import csv

from stream.mapping.types import decimal_size
from stream.target.columns import ColumnRecord
from stream.target.lake.blocks import prefetched, whole_rows
from stream.target.staged import decompressed

__all__ = ["GROUP_BYTES", "arrow_type", "limit_memory", "read_groups"]

GROUP_BYTES = 6 * 1024 * 1024
"""Maximum Arrow memory of a row group."""

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
    """Return freed memory immediately, and limit the number of threads; each has its arena."""
    if "jemalloc" in pa.supported_memory_backends():
        pa.set_memory_pool(pa.jemalloc_memory_pool())
        pa.jemalloc_set_decay_ms(0)
    else:
        pa.set_memory_pool(pa.system_memory_pool())
    pa.set_cpu_count(2)
    pa.set_io_thread_count(1)


def arrow_type(data_type: str) -> pa.DataType:
    """Return the Arrow type of a column's values; UUIDs and JSON are strings."""
    size = decimal_size(data_type)
    return pa.decimal128(*size) if size is not None else _TYPES[data_type]


def read_groups(
    slices: Iterator[Iterator[bytes]],
    columns: Sequence[ColumnRecord],
    *,
    compression: str,
    max_rows: int,
) -> Iterator[pa.Table]:
    """Iterate over all rows in order, in tables of at most *max_rows* rows and of limited size.

    Raises StagingError: a slice is damaged. Raises ValueError: a row is invalid.

    :param slices: the stored bytes of each slice.
    """
    chunks = (chunk for slice_ in slices for chunk in decompressed(slice_, compression))
    yield from _grouped(_batches(prefetched(whole_rows(chunks)), columns), max_rows)


def _batches(blocks: Iterator[bytes], columns: Sequence[ColumnRecord]) -> Iterator[pa.RecordBatch]:
    names = [column.name for column in columns]
    # In a table of one column, a row with NULL is an empty line.
    parse = csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False)
    # NULL is an empty value without quotes; with quotes, it is an empty string.
    convert = csv.ConvertOptions(
        column_types={column.name: arrow_type(column.type) for column in columns},
        null_values=[""],
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
        true_values=["true"],
        false_values=["false"],
    )
    for block in blocks:
        read = csv.ReadOptions(column_names=names, block_size=len(block) + 1)
        yield from csv.read_csv(pa.BufferReader(block), read, parse, convert).to_batches()


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
