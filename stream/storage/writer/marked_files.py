"""Finds the marks in a volume's latest slice files, for a writer that starts. All of it blocks.

See Note [Restart] in `stream.storage.writer.requests`.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import attrs

from stream.definition.key import SinkKey
from stream.storage.model.marks import Mark, find_marks
from stream.storage.writer.cleanup import slice_directories

__all__ = ["MarkedGroup", "marked_groups"]

_PREFIX = "slice"
_MAX_BYTES = 2 * 1024 * 1024 * 1024
"""Maximum size of the latest files, which are read in some seconds."""


@attrs.frozen
class MarkedGroup:
    """A group of rows whose requests had idempotency keys.

    :ivar end: where it ends in the file.
    """

    file: str
    sink: SinkKey
    end: int
    marks: tuple[Mark, ...]


def marked_groups(volume: Path, since: float) -> list[MarkedGroup]:
    """The marked groups in slice files that were written after *since*, seconds since the epoch."""
    files = sorted(_latest(volume, since), reverse=True)
    groups: list[MarkedGroup] = []
    left = _MAX_BYTES
    for _, size, directory, name in files:
        left -= size
        if left < 0:
            break
        groups += _of_file(volume, directory, name)
    return groups


def _latest(volume: Path, since: float) -> Iterator[tuple[float, int, str, str]]:
    """Time, size, directory and name of files. What vanishes meanwhile is passed over."""
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


def _of_file(volume: Path, directory: str, name: str) -> Iterator[MarkedGroup]:
    path = volume / directory / name
    try:
        sink = SinkKey.parse("/".join(directory.split("/")[:4]))
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for end, marks in find_marks(data):
                yield MarkedGroup(str(path), sink, end, marks)
    except (OSError, ValueError):
        return
