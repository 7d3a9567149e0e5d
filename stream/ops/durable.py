"""System calls that make files and directories durable. They block.

Note [Full sync]: macOS keeps what `fsync` has written in the memory of the disk, where a loss of
power reaches it; only ``F_FULLFSYNC`` waits for the disk itself. It has no `fdatasync`.
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
    """See Note [Full sync]."""
    return getattr(fcntl, "F_FULLFSYNC", None)


def sync_data(descriptor: int, system: Any = os) -> None:
    """Make the bytes of a file durable, and what is needed to find them.

    :param system: the module that asks the operating system.
    """
    full = _full_sync()
    if full is not None:
        fcntl.fcntl(descriptor, full)
    elif hasattr(system, "fdatasync"):
        system.fdatasync(descriptor)
    else:
        system.fsync(descriptor)


def sync_file(descriptor: int, system: Any = os) -> None:
    """Make a file or a directory durable with all that is known of it."""
    full = _full_sync()
    if full is not None:
        fcntl.fcntl(descriptor, full)
    else:
        system.fsync(descriptor)


def sync_directory(path: Path) -> None:
    """Make the entries of a directory durable: new, renamed and removed names."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        sync_file(descriptor)
    finally:
        os.close(descriptor)


def require_durable_files() -> None:
    """Raises UserError on a platform where records can't be stored as they are promised to be."""
    missing = [name for name in _NEEDED if not hasattr(os, name)]
    if missing:
        raise UserError(
            f"this platform has no {', '.join(missing)}, so records can't be stored durably here; "
            "run storage-writer on Linux, or on macOS 11 or newer"
        )
