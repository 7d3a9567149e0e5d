"""The rows of a staged file, one by one, also when some of them are malformed.

What sinks write is strict: every value between quotes, quotes in values doubled, one line feed
behind a row. A row that isn't like this ends where the next one that is begins, so one malformed
row takes no other with it. Blocks; holds one row and one block of bytes.
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
"""A row that hasn't ended by then is malformed; the longest row that a sink may be allowed to write
has 4 MB."""

_BLOCK_BYTES = 256 * 1024
_GZIP_CONTAINER = 31
_VALUE = rb'"(?:[^"]++|"")*+"'


@attrs.frozen
class Row:
    """One row, as it was staged.

    :ivar text: with its line feed.
    :ivar is_malformed: not what sinks write.
    """

    text: bytes
    is_malformed: bool = False


@attrs.frozen
class Damage:
    """From and to where a compressed object can't be decompressed."""

    start: int
    end: int


class RowSplitter:
    """Cuts bytes into rows of *columns* values.

    :param max_row: bytes.
    """

    def __init__(self, columns: int, max_row: int = MAX_ROW_BYTES) -> None:
        more = b"(?:,%b){%d}" % (_VALUE, columns - 1)
        self._row = re.compile(_VALUE + more + rb"\n")
        self._max_row = max_row
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Row]:
        """The rows that end in *data*."""
        self._buffer += data
        # A short rest may be the beginning of a row; it is checked again with what follows it.
        return self._cut(is_end=False)

    def end(self) -> Iterator[Row]:
        """The rows that are left: nothing follows. Then rows may be fed again."""
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
        """Where the next whole row begins behind a malformed one; else the end of *buffer*."""
        start = position
        while True:
            feed = buffer.find(b'\n"', start)
            if feed < 0:
                return len(buffer)
            start = feed + 1
            if self._row.match(buffer, start) is not None:
                return start


def read_rows(file: BinaryIO, compression: str, splitter: RowSplitter) -> Iterator[Row | Damage]:
    """What is in a staged object, in its order.

    :param file: the whole object, without a buffer; its position is changed.
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
    """What the parts between two places hold, which `recover` has found to be whole."""
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
