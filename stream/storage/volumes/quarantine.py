"""Quarantine of damaged files: a copy named ``*.damaged`` is kept for inspection.

Every step leaves the file either unchanged or completely repaired, even after a crash. Blocks.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from stream.ops.durable import sync_directory, sync_file

__all__ = ["link_quarantined", "quarantine", "repair"]

_SUFFIX = ".damaged"
_BLOCK_BYTES = 1024 * 1024
_MAX_NAMES = 100


def quarantine(path: Path) -> Path:
    """Rename the file or directory at *path*; return its new name."""
    for name in _names(path):
        if not os.path.lexists(name):
            path.rename(name)
            sync_directory(path.parent)
            return name
    raise FileExistsError(f"{path.name} was already quarantined too many times")


def link_quarantined(path: Path) -> Path:
    """Give the file a second name in quarantine, unless it already has one; return that name."""
    for name in _names(path):
        try:
            os.link(path, name, follow_symlinks=False)
        except FileExistsError:
            if os.path.samestat(name.lstat(), path.lstat()):
                return name
            continue
        sync_directory(path.parent)
        return name
    raise FileExistsError(f"{path.name} was already quarantined too many times")


def repair(path: Path, file: BinaryIO, parts: Sequence[tuple[int, int]]) -> Path:
    """Replace the file with its readable *parts*; return the path of the damaged file.

    :param file: the same file, open for reading.
    """
    repaired = path.with_name(f".{path.name}.mended")
    mode = path.stat().st_mode & 0o777
    repaired.unlink(missing_ok=True)
    descriptor = os.open(repaired, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as target:
            for start, end in parts:
                _copy(file, target, start, end)
            target.flush()
            sync_file(target.fileno())
        kept = link_quarantined(path)
        repaired.replace(path)
    except BaseException:
        repaired.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)
    return kept


def _copy(source: BinaryIO, target: BinaryIO, start: int, end: int) -> None:
    source.seek(start)
    left = end - start
    while left:
        block = source.read(min(left, _BLOCK_BYTES))
        if not block:
            raise OSError("the file became shorter while it was read")
        target.write(block)
        left -= len(block)


def _names(path: Path) -> list[Path]:
    numbers = ["", *(f"-{number}" for number in range(2, _MAX_NAMES))]
    return [path.with_name(f"{path.name}{_SUFFIX}{number}") for number in numbers]
