"""Settings of the C library's allocator, so that memory which is freed goes back to the system."""

from __future__ import annotations

import ctypes

__all__ = ["LARGE_BYTES", "MAX_HEAPS", "give_memory_back"]

LARGE_BYTES = 512 * 1024
"""What is larger has pages of its own, which the system gets back when it is freed. By itself the
allocator raises this bound with each large block that is freed, up to 32 MiB: from then on decoded
bodies come out of the heaps, and what is small and stays behind them keeps all of their pages."""

MAX_HEAPS = 2
"""For all threads: each heap keeps what it once had. Python's lock leaves few to share them."""

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8


def give_memory_back() -> bool:
    """Set the allocator up; before threads are started.

    :returns: whether there is one that can be: glibc's.
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
