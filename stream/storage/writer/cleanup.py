"""Removes slice directories that no record in etcd belongs to any more."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

__all__ = ["remove_directories", "slice_directories"]

_SLICE_DEPTH = 6
"""``project/branch/source/sink/file/slice``"""


def slice_directories(volume: Path) -> list[str]:
    """The slice directories of a volume, relative to it. Blocks."""
    found = [volume]
    for _ in range(_SLICE_DEPTH):
        found = [child for parent in found for child in parent.iterdir() if child.is_dir()]
    return [str(path.relative_to(volume)) for path in found]


def remove_directories(volume: Path, directories: Iterable[str]) -> int:
    """Remove *directories* and the parents that are empty then; how many were removed. Blocks."""
    removed = 0
    for directory in directories:
        path = volume / directory
        shutil.rmtree(path)
        removed += 1
        for parent in path.parents:
            if parent == volume or any(parent.iterdir()):
                break
            parent.rmdir()
    return removed
