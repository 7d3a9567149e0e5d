"""System calls that make files and directories durable. Blocks.

Note [Full sync]: on macOS, `fsync` may leave data in the cache of the disk, where it is lost in a
power failure; only ``F_FULLFSYNC`` waits for the disk itself. macOS has no `fdatasync`.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Any

from stream.errors import UserError

__all__ = ["require_durable_files", "sync_data", "sync_directory", "sync_file"]

_NEEDED = ("pwritev", "pread", "ftruncate", "fsync")


def _full_sync() -> int | None:
    """Sync a file to the disk itself on macOS; see Note [Full sync]."""
    return getattr(fcntl, "F_FULLFSYNC", None)


def sync_data(descriptor: int, system: Any = os) -> None:
    """Make the content of a file durable, with the metadata needed to read it.

    :param system: the module with the system calls.
    """
    full = _full_sync()
    if full is not None:
        fcntl.fcntl(descriptor, full)
    elif hasattr(system, "fdatasync"):
        system.fdatasync(descriptor)
    else:
        system.fsync(descriptor)


def sync_file(descriptor: int, system: Any = os) -> None:
    """Make a file or a directory durable with all its metadata."""
    full = _full_sync()
    if full is not None:
        fcntl.fcntl(descriptor, full)
    else:
        system.fsync(descriptor)


def sync_directory(path: Path) -> None:
    """Make new, renamed and removed entries of a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        sync_file(descriptor)
    finally:
        os.close(descriptor)


def require_durable_files() -> None:
    """Check that the platform can store records durably. Raises UserError."""
    missing = [name for name in _NEEDED if not hasattr(os, name)]
    if missing:
        raise UserError(
            f"this platform has no {', '.join(missing)}, so records can't be stored durably here; "
            "run storage-writer on Linux, or on macOS 11 or newer"
        )
