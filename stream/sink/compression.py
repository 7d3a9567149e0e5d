"""Compression of each group of rows as a separate gzip member or zstd frame.

Therefore every acknowledged position of a slice file is the end of a readable file. It is always
safe to truncate the file there, or to continue there after a crash.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import zstandard
from isal import isal_zlib

from stream.storage.model.encoding import Compression

__all__ = ["compressor"]

_GZIP_CONTAINER = 31
_ISAL_MAX_LEVEL = 3


def compressor(compression: Compression) -> Callable[[bytes], bytes]:
    """Return the function that compresses one group.

    ISA-L is used for the gzip implementations ``fast`` and ``parallel`` up to its highest level;
    zlib is used for all others. Both release the GIL.
    """
    if compression.type == "none":
        return _unchanged
    if compression.type == "zstd":
        level = compression.zstd.level if compression.zstd else 2
        return lambda data: zstandard.ZstdCompressor(level=level, write_checksum=True).compress(
            data
        )
    gzip = compression.gzip
    level = gzip.level if gzip else 1
    if (gzip is None or gzip.implementation != "standard") and level <= _ISAL_MAX_LEVEL:
        return lambda data: bytes(isal_zlib.compress(data, level, _GZIP_CONTAINER))
    return lambda data: zlib.compress(data, level, _GZIP_CONTAINER)


def _unchanged(data: bytes) -> bytes:
    return data
