"""Writes Parquet files to disk before they are stored. Only for worker processes.

A file may have rows of many partitions, in any order. The Parquet file of each partition is on the
local disk until it is complete, because object stores don't support appends, and a buffer for each
partition could exceed the memory. The files have no names, so a killed process leaves nothing on
the disk.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO

import attrs
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

__all__ = ["COMPRESSIONS", "MAX_OPEN", "Part", "Spool", "split"]

COMPRESSIONS = ("zstd", "snappy", "gzip", "none")
MAX_OPEN = 200
"""Maximum number of parts on the disk; when it is reached, all parts are stored."""
_READ_BYTES = 1024 * 1024
_DEFAULT_FOLDER = "/var/tmp"

Key = tuple[Any, ...]
"""The partition values of a part's rows."""


@attrs.frozen(kw_only=True)
class Part:
    """One Parquet file on the disk.

    :ivar number: number of the part in its file, starting at 0; equal for equal rows.
    :ivar metadata: footer of the Parquet file, as a pyarrow object.
    """

    key: Key
    number: int
    rows: int
    size: int
    metadata: Any
    file: BinaryIO

    def chunks(self) -> Iterator[bytes]:
        """Iterate over the bytes of the file; may be called repeatedly."""
        self.file.seek(0)
        while chunk := self.file.read(_READ_BYTES):
            yield chunk


@attrs.define
class _Open:
    number: int
    file: BinaryIO
    writer: Any
    rows: int = 0


class Spool:
    """The parts of a file that are being written.

    :param schema: pyarrow schema of the rows.
    :param store: called with complete parts, which are deleted afterwards.
    """

    def __init__(
        self, schema: pa.Schema, compression: str, store: Callable[[Sequence[Part]], None]
    ) -> None:
        self._schema = schema
        self._compression = compression
        self._store = store
        self._open: dict[Key, _Open] = {}
        self._numbers = 0
        folder = os.environ.get("TMPDIR") or _DEFAULT_FOLDER
        self._folder = folder if os.path.isdir(folder) else None  # noqa: PTH112

    def write(self, key: Key, table: pa.Table) -> None:
        """Add the rows of *table* to the part of *key*, as one row group."""
        part = self._open.get(key)
        if part is None:
            if len(self._open) >= MAX_OPEN:
                self.finish()
            part = self._open[key] = self._new()
        part.writer.write_table(table, row_group_size=max(1, table.num_rows))
        part.rows += table.num_rows

    def finish(self) -> None:
        """Complete and store all parts."""
        opened, self._open = self._open, {}
        parts = []
        try:
            for key, part in opened.items():
                part.writer.close()
                part.file.flush()
                parts.append(
                    Part(
                        key=key,
                        number=part.number,
                        rows=part.rows,
                        size=part.file.seek(0, os.SEEK_END),
                        metadata=part.writer.writer.metadata,
                        file=part.file,
                    )
                )
            if parts:
                self._store(parts)
        finally:
            for part in opened.values():
                part.file.close()

    def _new(self) -> _Open:
        file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115
        # The writer would close its stream, which has the only reference to the file.
        kept = pa.PythonFile(_Unclosed(file), mode="w")
        writer = pq.ParquetWriter(
            kept,
            self._schema,
            compression=self._compression,
            store_decimal_as_integer=True,
            write_page_index=True,
        )
        number, self._numbers = self._numbers, self._numbers + 1
        return _Open(number, file, writer)


class _Unclosed:
    """A stream that ignores `close`."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.closed = False

    def write(self, data: Any) -> int:
        return self._file.write(data)

    def tell(self) -> int:
        return self._file.tell()

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self.closed = True

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return True


def split(
    table: pa.Table, keys: Sequence[pa.Array | pa.ChunkedArray]
) -> Iterator[tuple[Key, pa.Table]]:
    """Split the rows of *table* by their *keys*, in the order of the keys' first occurrence.

    :param keys: for each partition field, the value of each row.
    """
    if not keys:
        yield (), table
        return
    codes: Any = None
    values: list[list[Any]] = []
    for key in keys:
        chunk = key.combine_chunks() if isinstance(key, pa.ChunkedArray) else key
        encoded = pc.dictionary_encode(chunk, null_encoding="encode")
        values.append(encoded.dictionary.to_pylist())
        indices = encoded.indices.cast(pa.int64())
        factor = pa.scalar(max(1, len(values[-1])), pa.int64())
        codes = indices if codes is None else pc.add(pc.multiply(codes, factor), indices)
    for code in pc.unique(codes).to_pylist():
        rest, picked = code, []
        for each in reversed(values):
            rest, index = divmod(rest, max(1, len(each)))
            picked.append(each[index])
        is_all = len(values) == 1 and len(values[0]) == 1
        rows = table if is_all else table.filter(pc.equal(codes, pa.scalar(code, pa.int64())))
        yield tuple(reversed(picked)), rows
