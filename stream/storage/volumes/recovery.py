"""Up to where a slice file can be read, whatever a crash left behind its last whole part.

A compressed file consists of whole gzip members or zstd frames, one for each group of rows; a plain
file of rows. Whatever was acknowledged ends at such a boundary, so cutting there loses nothing.
Reads in blocks and keeps nothing but the block.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import attrs
import zstandard
from isal import isal_zlib

__all__ = ["Readable", "count_rows", "readable_prefix"]

_BLOCK_BYTES = 1024 * 1024
_GZIP_CONTAINER = 31
_CORRUPT: Any = (
    zlib.error,
    isal_zlib.error,
    zstandard.ZstdError,
    EOFError,
)


@attrs.frozen
class Readable:
    """:ivar length: bytes of the file up to its last whole part.
    :ivar rows: rows in them.
    :ivar uncompressed: bytes of those rows.
    """

    length: int
    rows: int
    uncompressed: int


def readable_prefix(file: BinaryIO, compression: str) -> Readable:
    """:param file: read from its beginning.
    :param compression: ``none``, ``gzip`` or ``zstd``.
    """
    if compression == "none":
        return _plain(file)
    new = _gzip_member if compression == "gzip" else _zstd_frame
    return _compressed(_blocks(file), new)


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    file.seek(0)
    while block := file.read(_BLOCK_BYTES):
        yield block


def _gzip_member() -> Any:
    return isal_zlib.decompressobj(_GZIP_CONTAINER)


def _zstd_frame() -> Any:
    return zstandard.ZstdDecompressor().decompressobj()


def _compressed(blocks: Iterator[bytes], new: Callable[[], Any]) -> Readable:
    read = 0
    whole = Readable(0, 0, 0)
    part, rows, size = new(), RowCounter(), 0
    for block in blocks:
        read += len(block)
        rest = block
        while rest:
            try:
                data = part.decompress(rest)
            except _CORRUPT:
                return whole
            rows.feed(data)
            size += len(data)
            if not part.eof:
                break
            rest = part.unused_data
            whole = Readable(read - len(rest), whole.rows + rows.rows, whole.uncompressed + size)
            part, rows, size = new(), RowCounter(), 0
    return whole


def _plain(file: BinaryIO) -> Readable:
    """A line feed ends a row exactly if the number of quotes before it is even."""
    position = 0
    end = 0
    rows = RowCounter()
    for block in _blocks(file):
        last = rows.feed(block)
        if last >= 0:
            end = position + last + 1
        position += len(block)
    return Readable(end, rows.rows, end)


class RowCounter:
    """Counts rows in a stream of CSV whose values are all quoted."""

    def __init__(self) -> None:
        self.rows = 0
        self._inside = False

    def feed(self, data: bytes) -> int:
        """Count the rows that end in *data*; the position of the last end, or -1."""
        last = -1
        position = 0
        for piece in data.split(b'"'):
            if not self._inside:
                count = piece.count(b"\n")
                if count:
                    self.rows += count
                    last = position + piece.rindex(b"\n")
            position += len(piece) + 1
            self._inside = not self._inside
        self._inside = not self._inside  # the last piece isn't followed by a quote
        return last


def count_rows(data: bytes) -> int:
    """Rows in *data*, which begins at the start of a row."""
    counter = RowCounter()
    counter.feed(data)
    return counter.rows
