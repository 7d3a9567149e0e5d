"""Classifies operating system errors as disk failures or failures of the host."""

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
    """Return whether *error* may be caused by the disk.

    A resource shortage in the process or on the host affects every disk. It is no reason to drain a
    volume or to abandon a file, because the same call may succeed a moment later.
    """
    return error.errno not in _OF_HOST
