"""Which errors of the operating system say something about a disk, and which about this host."""

from __future__ import annotations

import errno

__all__ = ["is_of_disk"]

_OF_HOST = frozenset(
    {
        errno.EMFILE,  # this process has too many open files
        errno.ENFILE,  # the host has
        errno.ENOMEM,
        errno.ENOBUFS,
        errno.EAGAIN,
        errno.EINTR,
        errno.ECANCELED,
    }
)


def is_of_disk(error: OSError) -> bool:
    """Return whether *error* may be the disk's fault.

    What is short in the process or on the host is short for every disk: a volume isn't to be
    drained for it, and a file isn't to be given up. The same call may succeed a moment later.
    """
    return error.errno not in _OF_HOST
