"""Locks on slice files that are open for writing.

The operating system releases the lock when the process that holds it ends, for any reason. The lock
depends neither on etcd, whose data may arrive late, nor on the writer, which may be paused.
"""

from __future__ import annotations

import fcntl

__all__ = ["is_in_use", "lock_for_writing"]


def lock_for_writing(descriptor: int) -> bool:
    """Lock the file until *descriptor* and its copies are closed; return False if it is locked."""
    return _lock(descriptor, fcntl.LOCK_EX)


def is_in_use(descriptor: int) -> bool:
    """Return whether the file is open for writing.

    If it isn't, no writer can lock it before *descriptor* is closed.
    """
    return not _lock(descriptor, fcntl.LOCK_SH)


def _lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
