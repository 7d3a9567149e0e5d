"""Repairs slice files of the original service that contain unfinished gzip streams. Blocks.

A source node of the original service writes one gzip stream to a slice file while it is open. Its
acknowledged data ends with a sync marker; the stream is finished when the node closes the file. If
the node was killed, the stream is unfinished, and after its restart the node writes a second stream
directly after the marker. If its writer was killed, unacknowledged data is between the two streams.
Such a file contains all rows, but it can't be decompressed as a whole.

So before the file is read or continued, it is replaced once with a file that contains the same rows
in finished streams. Files that this service has opened are marked by a note file and left
unchanged, because their groups are finished streams, and unfinished data in them was never
acknowledged (`stream.storage.volumes.recovery`).
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import attrs

from stream.ops.durable import sync_directory, sync_file
from stream.storage.volumes.quarantine import link_quarantined
from stream.storage.volumes.recovery import RowCounter

__all__ = ["Finished", "finish_streams", "is_of_original", "life_path", "unfinished_rows"]

_LIFE_PREFIX = ".life-"
_MARK = b"\x1f\x8b\x08"
_MARKER = b"\x00\x00\xff\xff"
"""The marker at the end of flushed data."""
_BLOCK_BYTES = 32 * 1024
_CONTAINER = 31
_PLAIN = b"\x00" * 5
"""Flags and time in the header of a stream of rows, which has no name or other extra fields."""
_SYSTEMS = (0xFF, 0x03)
"""Values of the operating system in the header of a stream: unknown, as written by Go, and Unix."""
_LEVEL = 1


@attrs.frozen
class Finished:
    """The outcome of repairing a file.

    :ivar rows: number of rows that were in unfinished streams.
    :ivar kept: path of the unrepaired file if a part of it can't be decompressed; otherwise
        ``None``.
    """

    rows: int
    kept: Path | None


@attrs.frozen
class _Stream:
    """One gzip stream in a file.

    :ivar end: position after the stream's end, or after its last marker if it is unfinished.
    """

    start: int
    end: int
    is_finished: bool


def life_path(path: Path) -> Path:
    """Return the path of the note file that contains the last life that opened a slice file.

    See `open_disk_file` of the writer.
    """
    return path.with_name(f"{_LIFE_PREFIX}{path.name}")


def is_of_original(path: Path) -> bool:
    """Return whether this service has never opened the slice file for writing."""
    return not life_path(path).exists()


def finish_streams(path: Path) -> Finished | None:
    """Replace a gzip file that has unfinished streams with one that has the same rows, finished.

    The file is either unchanged or replaced, however often the function is interrupted.

    :returns: the outcome; ``None`` if no row is in an unfinished stream and the file is unchanged.
    """
    with path.open("rb", buffering=0) as file:
        streams, is_damaged = _streams(file)
        if all(stream.is_finished for stream in streams):
            return None
        finished = path.with_name(f".{path.name}.finished")
        finished.unlink(missing_ok=True)
        mode = path.stat().st_mode & 0o777
        descriptor = os.open(finished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            with os.fdopen(descriptor, "wb") as target:
                rows = _rewrite(file, streams, target)
                target.flush()
                sync_file(target.fileno())
            kept = link_quarantined(path) if is_damaged else None
            finished.replace(path)
        except BaseException:
            finished.unlink(missing_ok=True)
            raise
    sync_directory(path.parent)
    return Finished(rows, kept)


def unfinished_rows(path: Path) -> int:
    """Return the number of rows in unfinished streams, without changing the file."""
    with path.open("rb", buffering=0) as file:
        streams, _ = _streams(file)
        return sum(_rows(file, stream) for stream in streams if not stream.is_finished)


def _streams(file: BinaryIO) -> tuple[Sequence[_Stream], bool]:
    """Return the readable streams, and whether there is other data between or inside them."""
    size = file.seek(0, os.SEEK_END)
    found = []
    is_damaged = False
    position = 0
    while position < size:
        end, is_finished, is_broken = _walk(file, position)
        if is_finished:
            found.append(_Stream(position, end, True))
            position = end
            continue
        # If the end is torn, the next stream may look like a part of this one.
        inner = _next_stream(file, position + 1, end, is_plain=True)
        if inner is not None and inner < end:
            end, is_broken = inner, True
        last = _last_marker(file, position, end)
        if last is not None:
            found.append(_Stream(position, last, False))
        if not is_broken:
            break
        following = _next_stream(file, end, size)
        # A stream may begin only directly after a marker; anything else is damage.
        is_damaged |= following is None or following != last
        if following is None:
            break
        position = following
    return found, is_damaged


def _walk(file: BinaryIO, start: int) -> tuple[int, bool, bool]:
    """Decompress the stream at *start*.

    :returns: the position where the stream ends or becomes unreadable; whether it is finished;
        whether the data after it can't belong to it.
    """
    stream = zlib.decompressobj(_CONTAINER)
    position = start
    for block in _blocks(file, start):
        before = stream.copy()
        try:
            stream.decompress(block)
        except zlib.error:
            return position + _readable(before, block), False, True
        if stream.eof:
            return position + len(block) - len(stream.unused_data), True, False
        position += len(block)
    return position, False, False


def _readable(stream: Any, block: bytes) -> int:
    """Return the number of bytes of *block* that can be decompressed."""
    for index in range(len(block)):
        try:
            stream.decompress(block[index : index + 1])
        except zlib.error:
            return index
    return len(block)


def _rewrite(file: BinaryIO, streams: Sequence[_Stream], target: BinaryIO) -> int:
    """Write each stream as a finished stream; return the number of rows in unfinished ones."""
    rows = 0
    for stream in streams:
        if stream.is_finished:
            for block in _blocks(file, stream.start, stream.end):
                target.write(block)
            continue
        packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, _CONTAINER)
        counter = RowCounter()
        for data in _whole_rows(file, stream):
            counter.feed(data)
            target.write(packer.compress(data))
        rows += counter.rows
        target.write(packer.flush())
    return rows


def _rows(file: BinaryIO, stream: _Stream) -> int:
    counter = RowCounter()
    for data in _whole_rows(file, stream):
        counter.feed(data)
    return counter.rows


def _whole_rows(file: BinaryIO, stream: _Stream) -> Iterator[bytes]:
    unpacker = zlib.decompressobj(_CONTAINER)
    counter = RowCounter()
    rest = b""
    for block in _blocks(file, stream.start, stream.end):
        data = unpacker.decompress(block)
        last = counter.feed(data)
        if last < 0:
            rest += data
        else:
            yield rest + data[: last + 1]
            rest = data[last + 1 :]


def _blocks(file: BinaryIO, start: int, end: int | None = None) -> Iterator[bytes]:
    position = start
    while end is None or position < end:
        file.seek(position)
        block = file.read(_BLOCK_BYTES if end is None else min(_BLOCK_BYTES, end - position))
        if not block:
            return
        yield block
        position += len(block)


def _last_marker(file: BinaryIO, start: int, end: int) -> int | None:
    """Return the position after the last marker between two others."""
    behind = end
    while behind - len(_MARKER) >= start:
        first = max(start, behind - _BLOCK_BYTES)
        file.seek(first)
        found = file.read(behind - first).rfind(_MARKER)
        if found >= 0:
            return first + found + len(_MARKER)
        if first == start:
            return None
        behind = first + len(_MARKER) - 1
    return None


def _next_stream(file: BinaryIO, start: int, size: int, *, is_plain: bool = False) -> int | None:
    """Return the position of the first stream of rows at or after *start*.

    :param is_plain: whether the stream has the header that the original writes, nine bytes of which
        are fixed.
    """
    position = start
    while (position := _find(file, position, size)) >= 0:
        file.seek(position)
        block = file.read(_BLOCK_BYTES)
        if (not is_plain or _has_plain_header(block)) and _begins_row(block):
            return position
        position += 1
    return None


def _has_plain_header(block: bytes) -> bool:
    return len(block) > 9 and block[3:8] == _PLAIN and block[9] in _SYSTEMS


def _begins_row(block: bytes) -> bool:
    """Return whether *block* is the beginning of a stream whose content begins with a row."""
    stream = zlib.decompressobj(_CONTAINER)
    try:
        for index in range(len(block)):
            data = stream.decompress(block[index : index + 1])
            if data:
                return data.startswith(b'"')
    except zlib.error:
        pass
    return False


def _find(file: BinaryIO, start: int, size: int) -> int:
    """Return the position of the first stream header at or after *start*, or -1."""
    while start < size:
        file.seek(start)
        block = file.read(_BLOCK_BYTES)
        found = block.find(_MARK)
        if found >= 0:
            return start + found
        if len(block) < len(_MARK):
            break
        start += len(block) - len(_MARK) + 1
    return -1
