"""Whether a slice file is open for writing, shown by a lock on the file itself.

The lock goes with the process that holds it, however that ends, and needs nobody else's word: not
etcd's, which may come late, nor the writer's, which may be stopped.
"""

from __future__ import annotations

import fcntl

__all__ = ["is_in_use", "lock_for_writing"]


def lock_for_writing(descriptor: int) -> bool:
    """Mark the file as in use until *descriptor* and its copies are closed; false if it is."""
    return _lock(descriptor, fcntl.LOCK_EX)


def is_in_use(descriptor: int) -> bool:
    """Whether somebody writes to the file. If not, nobody begins before *descriptor* is closed."""
    return not _lock(descriptor, fcntl.LOCK_SH)


def _lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
