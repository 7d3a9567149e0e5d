"""Settings of the C library's allocator, so that freed memory is returned to the system."""

from __future__ import annotations

import ctypes

__all__ = ["LARGE_BYTES", "MAX_HEAPS", "give_memory_back"]

LARGE_BYTES = 512 * 1024
"""Blocks larger than this have pages of their own, which are returned to the system when freed.

By default the allocator raises this threshold with each large freed block, up to 32 MiB: from then
on decoded bodies are allocated in the heaps, and small blocks that remain between them keep all
pages occupied.
"""

MAX_HEAPS = 2
"""Maximum number of heaps for all threads: each heap keeps its peak size.

Due to the GIL, few threads need them at once.
"""

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8


def give_memory_back() -> bool:
    """Configure the allocator, before threads are started.

    :returns: whether it is glibc's, which can be configured.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False  # macOS, musl
    settings = (
        (_M_MMAP_THRESHOLD, LARGE_BYTES),
        (_M_TRIM_THRESHOLD, 2 * LARGE_BYTES),
        (_M_ARENA_MAX, MAX_HEAPS),
    )
    return all(mallopt(ctypes.c_int(name), ctypes.c_int(value)) for name, value in settings)
