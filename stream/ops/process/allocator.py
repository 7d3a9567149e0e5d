"""Settings of the C library's allocator that make it return freed memory to the system."""

from __future__ import annotations

import ctypes

__all__ = ["LARGE_BYTES", "MAX_HEAPS", "give_memory_back"]

LARGE_BYTES = 512 * 1024
"""Blocks larger than this get separate pages, which are returned to the system when freed.

By default the allocator raises this threshold with each large block that is freed, up to 32 MiB.
Decoded bodies would then be allocated in the heaps, where small blocks that remain between them
would keep all pages in use.
"""

MAX_HEAPS = 2
"""Maximum number of heaps for all threads; low because each heap keeps its peak size.

Because of the GIL, few threads need heaps at the same time.
"""

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8


def give_memory_back() -> bool:
    """Configure the allocator, before threads are started.

    :returns: whether the allocator is glibc's, the only one that can be configured.
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
