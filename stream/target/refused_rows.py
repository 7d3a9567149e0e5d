"""Reads the rows of a staged file one by one, even if some are malformed.

Sinks write a strict format: every value is quoted, quotes in values are doubled, and a line feed
ends each row. A malformed row ends where the next valid row begins, so it affects no other rows.
Blocks; keeps only one row and one block of bytes in memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import attrs
import zstandard
from isal import isal_zlib

from stream.storage.volumes.damage import recover

__all__ = ["Damage", "Row", "RowSplitter", "read_rows"]

MAX_ROW_BYTES = 8 * 1024 * 1024
"""Length at which an unfinished row counts as malformed; sinks write rows of at most 4 MB."""

_BLOCK_BYTES = 256 * 1024
_GZIP_CONTAINER = 31
_VALUE = rb'"(?:[^"]++|"")*+"'


@attrs.frozen
class Row:
    """One staged row.

    :ivar text: the row, including its line feed.
    :ivar is_malformed: whether the row isn't in the format that sinks write.
    """

    text: bytes
    is_malformed: bool = False


@attrs.frozen
class Damage:
    """A part of a compressed object that can't be decompressed, by its start and end."""

    start: int
    end: int


class RowSplitter:
    """Splits bytes into rows of *columns* values.

    :param max_row: maximum length of a row in bytes.
    """

    def __init__(self, columns: int, max_row: int = MAX_ROW_BYTES) -> None:
        more = b"(?:,%b){%d}" % (_VALUE, columns - 1)
        self._row = re.compile(_VALUE + more + rb"\n")
        self._max_row = max_row
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Row]:
        """Return the rows that end in *data*."""
        self._buffer += data
        # A short remainder may be the beginning of a row; it is checked again with the next data.
        return self._cut(is_end=False)

    def end(self) -> Iterator[Row]:
        """Return the remaining rows when the data has ended, and reset the splitter."""
        return self._cut(is_end=True)

    def _cut(self, *, is_end: bool) -> Iterator[Row]:
        buffer, position = bytes(self._buffer), 0
        while position < len(buffer):
            match = self._row.match(buffer, position)
            if match is not None:
                yield Row(match[0])
                position = match.end()
                continue
            if not is_end and len(buffer) - position < self._max_row:
                break
            end = self._next_start(buffer, position)
            yield Row(buffer[position:end], is_malformed=True)
            position = end
        self._buffer = bytearray(buffer[position:])

    def _next_start(self, buffer: bytes, position: int) -> int:
        """Return the start of the next complete row after a malformed one, or *buffer*'s end."""
        start = position
        while True:
            feed = buffer.find(b'\n"', start)
            if feed < 0:
                return len(buffer)
            start = feed + 1
            if self._row.match(buffer, start) is not None:
                return start


def read_rows(file: BinaryIO, compression: str, splitter: RowSplitter) -> Iterator[Row | Damage]:
    """Iterate over the rows of a staged object, in order.

    :param file: the complete object, opened unbuffered; its position is changed.
    :param compression: ``none``, ``gzip`` or ``zstd``.
    """
    if compression == "none":
        file.seek(0)
        yield from _rows(iter(lambda: file.read(_BLOCK_BYTES), b""), splitter)
        return
    size = file.seek(0, 2)
    position = 0
    for start, end in recover(file, compression).parts:
        if start > position:
            yield Damage(position, start)
        yield from _rows(_decompressed(file, compression, start, end), splitter)
        position = end
    if position < size:
        yield Damage(position, size)


def _rows(blocks: Iterable[bytes], splitter: RowSplitter) -> Iterator[Row]:
    for block in blocks:
        yield from splitter.feed(block)
    yield from splitter.end()


def _decompressed(file: BinaryIO, compression: str, start: int, end: int) -> Iterator[bytes]:
    """Decompress the parts between two positions that `recover` has found to be intact."""
    file.seek(start)
    left = end - start
    part = _new(compression)
    while left:
        rest = file.read(min(left, _BLOCK_BYTES))
        if not rest:
            raise OSError("the object became shorter while it was read")
        left -= len(rest)
        while rest:
            data = part.decompress(rest)
            if data:
                yield data
            if not part.eof:
                break
            rest = part.unused_data
            part = _new(compression)


def _new(compression: str) -> Any:
    if compression == "gzip":
        return isal_zlib.decompressobj(_GZIP_CONTAINER)
    return zstandard.ZstdDecompressor().decompressobj()
