"""Finds the marks in a volume's latest slice files, for a writer that starts. Blocks.

See Note [Restart] in `stream.storage.writer.requests`.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs

from stream.definition.key import SinkKey
from stream.ops.durable import sync_file
from stream.storage.model.marks import Mark, find_marks
from stream.storage.writer.cleanup import slice_directories

__all__ = ["MarkedGroup", "marked_groups"]

_PREFIX = "slice"
_MAX_BYTES = 2 * 1024 * 1024 * 1024
"""Maximum total size of the latest files, which takes a few seconds to read."""
_READ_BYTES = 1024 * 1024
"""Number of bytes to search at once, during which no other thread of the process runs."""


@attrs.frozen
class MarkedGroup:
    """A group of rows whose requests had idempotency keys.

    :ivar end: file offset at which the group ends.
    """

    file: str
    sink: SinkKey
    end: int
    marks: tuple[Mark, ...]


def marked_groups(volume: Path, since: float, max_marks: int) -> list[MarkedGroup]:
    """Return the marked groups in slice files that were written after *since*.

    The oldest groups come first. If there are more than *max_marks* marks, the oldest are omitted.

    :param since: in seconds since the epoch.
    """
    files = sorted(_latest(volume, since), reverse=True)
    found: list[Sequence[MarkedGroup]] = []
    left, bytes_left = max_marks, _MAX_BYTES
    for _, size, directory, name in files:
        bytes_left -= size
        if bytes_left < 0 or left <= 0:
            break
        # Each group has at least one mark, so this number of groups is sufficient.
        groups = _of_file(volume, directory, name, max_marks)
        left -= sum(len(group.marks) for group in groups)
        found.append(groups)
    return [group for groups in reversed(found) for group in groups]


def _latest(volume: Path, since: float) -> Iterator[tuple[float, int, str, str]]:
    """Return time, size, directory and name of the files; skip files that vanish."""
    for directory in slice_directories(volume):
        try:
            with os.scandir(volume / directory) as entries:
                for entry in entries:
                    if entry.name.startswith(_PREFIX) and entry.is_file(follow_symlinks=False):
                        found = entry.stat(follow_symlinks=False)
                        if found.st_mtime >= since and found.st_size:
                            yield found.st_mtime, found.st_size, directory, entry.name
        except OSError:
            continue


class _Content:
    """The content of a file for `find_marks`.

    A memory map of the file would be searched in one step, during which all other threads of the
    process would wait for the disk. If the file were truncated during the search, the process would
    be killed.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._size = os.fstat(descriptor).st_size

    def __getitem__(self, part: slice) -> bytes:
        size = min(part.stop, self._size) - part.start
        return os.pread(self._descriptor, size, part.start) if size > 0 else b""

    def find(self, wanted: bytes, start: int = 0) -> int:
        """Return the position of *wanted* at or after *start*; -1 if there is none."""
        while piece := os.pread(self._descriptor, _READ_BYTES, start):
            found = piece.find(wanted)
            if found >= 0:
                return start + found
            if len(piece) < len(wanted):
                break
            start += len(piece) - len(wanted) + 1
        return -1


def _of_file(volume: Path, directory: str, name: str, most: int) -> Sequence[MarkedGroup]:
    """Return the last *most* marked groups of a file.

    The groups are synced, because from now on producers are answered that the rows are stored, and
    the process that wrote them may have ended before its sync.
    """
    path = volume / directory / name
    try:
        sink = SinkKey.parse("/".join(directory.split("/")[:4]))
        with path.open("rb", buffering=0) as file:
            found = find_marks(_Content(file.fileno()))
            groups = deque((MarkedGroup(str(path), sink, *each) for each in found), maxlen=most)
            if groups:
                sync_file(file.fileno())
            return groups
    except (OSError, ValueError):
        return ()
