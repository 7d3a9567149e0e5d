"""Removal of slice directories without a record in etcd. Blocks.

A volume may contain other files, so only directories that look like slice directories are removed,
and symbolic links aren't followed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

__all__ = ["remove_directories", "remove_empty_parents", "slice_directories"]

_SLICE_DEPTH = 6
"""Depth of ``project/branch/source/sink/file/slice``; the first two names are numbers."""
_NUMBERS = 2


def slice_directories(volume: Path) -> list[str]:
    """Return the slice directories of a volume, relative to its root."""
    return list(_directories(volume, _SLICE_DEPTH))


def _directories(volume: Path, depth: int, path: str = "", level: int = 0) -> Iterator[str]:
    """Return the directories *depth* levels below; unreadable ones are skipped."""
    if level == depth:
        yield path
        return
    try:
        with os.scandir(volume / path) as entries:
            names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return
    for name in names:
        if level >= _NUMBERS or name.isdigit():
            yield from _directories(volume, depth, f"{path}/{name}" if path else name, level + 1)


def remove_directories(volume: Path, directories: Iterable[str]) -> int:
    """Remove *directories*; return how many of them no longer exist."""
    removed = 0
    for directory in directories:
        path = volume / directory
        shutil.rmtree(path, ignore_errors=True)
        removed += not path.exists()
    return removed


def remove_empty_parents(volume: Path) -> None:
    """Remove the empty parent directories of slices, the deepest first."""
    for depth in range(_SLICE_DEPTH - 1, 0, -1):
        for directory in list(_directories(volume, depth)):
            try:
                (volume / directory).rmdir()
            except OSError:
                continue  # it isn't empty, perhaps because a slice was just opened
