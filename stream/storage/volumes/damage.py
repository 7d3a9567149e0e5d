"""Recovery of readable parts from a slice file that is damaged in the middle.

A disk may return wrong data or none. Compressed files consist of parts, each with its own checksum.
So the parts after the damage are found by the signature at the beginning of each part, and a part
is used if it is complete. Of a plain file only the data before the damage is used, because nothing
shows where a row begins.
"""

from __future__ import annotations

import errno
import os
from typing import BinaryIO

import attrs

from stream.storage.volumes.recovery import readable_prefix

__all__ = ["Recovered", "recover"]

_MARKS = {"gzip": b"\x1f\x8b\x08", "zstd": b"\x28\xb5\x2f\xfd"}
_BLOCK_BYTES = 64 * 1024
_UNREADABLE_BYTES = 4096
"""Number of bytes to skip at once where the disk can't read."""
_MAX_FALSE_MARKS = 10_000
"""Maximum number of false signatures: one may occur by chance, and each costs an attempt."""
_ZEROS = 16
"""Length of a run of zeros at the end that a power failure leaves; no part ends with so many."""


@attrs.frozen
class Recovered:
    """The readable parts of a damaged file.

    :ivar parts: start and end of each readable part, in order.
    :ivar rows: number of rows in them.
    :ivar uncompressed: bytes of those rows.
    :ivar is_damaged: whether more than a truncated end is missing.
    """

    parts: tuple[tuple[int, int], ...]
    rows: int
    uncompressed: int
    is_damaged: bool

    @property
    def size(self) -> int:
        """The number of readable bytes."""
        return sum(end - start for start, end in self.parts)


def recover(file: BinaryIO, compression: str) -> Recovered:
    """Return the readable parts of a damaged file.

    :param file: the file, opened unbuffered.
    :param compression: ``none``, ``gzip`` or ``zstd``.
    """
    found = readable_prefix(file, compression)
    parts = [(0, found.length)] if found.length else []
    rows, uncompressed, position = found.rows, found.uncompressed, found.length
    size = file.seek(0, os.SEEK_END)
    is_damaged = found.is_corrupt and not _ends_with_zeros(file, size)
    mark = _MARKS.get(compression)
    left = _MAX_FALSE_MARKS if mark else 0
    while mark and left and position < size:
        position = _find(file, mark, position + 1, size)
        if position < 0:
            break
        later = readable_prefix(file, compression, position)
        if not later.length or not later.is_rows:
            left -= 1
            continue
        parts.append((position, position + later.length))
        position += later.length
        rows += later.rows
        uncompressed += later.uncompressed
        is_damaged = True
    return Recovered(tuple(parts), rows, uncompressed, is_damaged)


def _find(file: BinaryIO, mark: bytes, start: int, size: int) -> int:
    """Return the position of the first *mark* at or after *start*, or -1."""
    position = start
    while position < size:
        block = _read(file, position, _BLOCK_BYTES)
        if block is None:
            block = _read(file, position, _UNREADABLE_BYTES)
            if block is None:
                position += _UNREADABLE_BYTES - position % _UNREADABLE_BYTES
                continue
        if not block:
            return -1
        found = block.find(mark)
        if found >= 0:
            return position + found
        position += max(1, len(block) - len(mark) + 1)
    return -1


def _ends_with_zeros(file: BinaryIO, size: int) -> bool:
    end = _read(file, max(0, size - _ZEROS), _ZEROS)
    return end == bytes(_ZEROS)


def _read(file: BinaryIO, position: int, size: int) -> bytes | None:
    """Read bytes; return ``None`` if the disk can't read them."""
    try:
        file.seek(position)
        return file.read(size)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return None
