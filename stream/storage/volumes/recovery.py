"""Finds the readable prefix of a slice file, up to its last complete part.

A compressed file consists of complete gzip members or zstd frames, one for each group of rows; a
plain file consists of rows. Acknowledged data always ends at the end of a part, so truncating the
file there loses nothing. The file is read in blocks, and only one block is kept in memory.

The search ends at the first unreadable part; `damage` checks the data after it.
"""

from __future__ import annotations

import errno
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import attrs
import zstandard
from isal import isal_zlib

from stream import native

__all__ = ["Readable", "RowCounter", "readable_prefix"]

_BLOCK_BYTES = 1024 * 1024
_GZIP_PIECE_BYTES = 32 * 1024
"""Size of the input pieces; the output of a piece is at most a thousand times as large."""
_ZSTD_PIECE_BYTES = 4 * 1024
"""Size of the input pieces; smaller than for gzip, because zstd may compress much better."""
_GZIP_CONTAINER = 31
_CORRUPT: Any = (
    zlib.error,
    isal_zlib.error,
    zstandard.ZstdError,
    EOFError,
)


@attrs.frozen
class Readable:
    """The readable part of a file from the position where reading began.

    :ivar length: bytes of the file up to the end of its last complete part.
    :ivar rows: rows in them.
    :ivar uncompressed: bytes of those rows.
    :ivar is_corrupt: whether the rest is corrupt, not just truncated.
    :ivar is_rows: whether each part ends with a complete row, as all parts written by sinks do.
    """

    length: int
    rows: int
    uncompressed: int
    is_corrupt: bool = attrs.field(default=False, eq=False)
    is_rows: bool = attrs.field(default=True, eq=False)


def readable_prefix(file: BinaryIO, compression: str, start: int = 0) -> Readable:
    """Return the readable part of a file, up to the end of its last complete part.

    :param compression: ``none``, ``gzip`` or ``zstd``.
    :param start: position where reading begins; returned lengths are relative to it.
    """
    if compression == "none":
        return _plain(_blocks(file, _BLOCK_BYTES, start))
    if compression == "gzip":
        return _compressed(_blocks(file, _GZIP_PIECE_BYTES, start), _gzip_member)
    return _compressed(_blocks(file, _ZSTD_PIECE_BYTES, start), _zstd_frame)


def _blocks(file: BinaryIO, size: int, start: int) -> Iterator[bytes | None]:
    """Return the blocks of the file; the last one is ``None`` if the disk can't read it."""
    file.seek(start)
    while True:
        try:
            block = file.read(size)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            yield None
            return
        if not block:
            return
        yield block


def _gzip_member() -> Any:
    return isal_zlib.decompressobj(_GZIP_CONTAINER)


def _zstd_frame() -> Any:
    return zstandard.ZstdDecompressor().decompressobj()


def _compressed(blocks: Iterator[bytes | None], new: Callable[[], Any]) -> Readable:
    read = 0
    whole = Readable(0, 0, 0)
    part, rows, size, ends_row = new(), RowCounter(), 0, False
    for block in blocks:
        if block is None:
            return attrs.evolve(whole, is_corrupt=True)
        read += len(block)
        rest = block
        while rest:
            try:
                data = part.decompress(rest)
            except _CORRUPT:
                return attrs.evolve(whole, is_corrupt=True)
            last = rows.feed(data)
            if data:
                ends_row = last == len(data) - 1
            size += len(data)
            if not part.eof:
                break
            rest = part.unused_data
            whole = Readable(
                read - len(rest),
                whole.rows + rows.rows,
                whole.uncompressed + size,
                is_rows=whole.is_rows and ends_row,
            )
            part, rows, size, ends_row = new(), RowCounter(), 0, False
    return whole


def _plain(blocks: Iterator[bytes | None]) -> Readable:
    position = 0
    end = 0
    rows = RowCounter(strict=True)
    for block in blocks:
        if block is None:
            return Readable(end, rows.rows, end, is_corrupt=True)
        last = rows.feed(block)
        if last >= 0:
            end = position + last + 1
        if rows.is_broken:
            break
        position += len(block)
    return Readable(end, rows.rows, end, is_corrupt=rows.is_broken)


class RowCounter:
    """Finds the rows in a stream of CSV in which all values are quoted.

    A line feed ends a row if and only if the number of quotes before it is even.

    :param strict: stop at a zero byte between values. No row contains one there, but a power
        failure may leave one; used for data without a checksum.
    :ivar rows: number of complete rows.
    :ivar is_broken: whether such a byte was found; the data after it isn't counted.
    """

    def __init__(self, *, strict: bool = False) -> None:
        self._strict = strict
        self.rows = 0
        self.is_broken = False
        self._inside = False

    def feed(self, data: bytes) -> int:
        """Count the rows that end in *data*; return the end position of the last one, or -1."""
        last = -1
        position = 0
        if self.is_broken:
            return last
        if native.is_built and type(data) is bytes:
            # It doesn't hold the GIL, so records can be ingested at the same time.
            rows, last, self._inside, self.is_broken = native.count_rows(
                data, self._inside, self._strict
            )
            self.rows += rows
            return last
        for piece in data.split(b'"'):
            if piece and not self._inside:
                between = piece.find(b"\0") if self._strict else -1
                if between < 0:
                    between = len(piece)
                if b"\n" in piece[:between]:
                    self.rows += piece.count(b"\n", 0, between)
                    last = position + piece.rindex(b"\n", 0, between)
                if between < len(piece):
                    self.is_broken = True
                    return last
            position += len(piece) + 1
            self._inside = not self._inside
        self._inside = not self._inside  # no quote follows the last piece
        return last
