"""Classification of operating system errors: faults of a disk or of the host."""

from __future__ import annotations

import errno

__all__ = ["is_of_disk"]

_OF_HOST = frozenset(
    {
        errno.EMFILE,  # this process has too many open files
        errno.ENFILE,  # the host has too many open files
        errno.ENOMEM,
        errno.ENOBUFS,
        errno.EAGAIN,
        errno.EINTR,
        errno.ECANCELED,
    }
)


def is_of_disk(error: OSError) -> bool:
    """Return whether *error* may be the disk's fault.

    A resource shortage of the process or the host affects every disk. It is no reason to drain a
    volume or to give up a file: the same call may succeed a moment later.
    """
    return error.errno not in _OF_HOST
