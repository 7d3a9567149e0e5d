"""The files of one slice as one stream of bytes, checked before they are sent. Blocks.

A slice has one file for each source node that wrote to it. Each is sent up to its last whole part;
what a crash left behind that was never acknowledged. Joined gzip members are a legal gzip file, and
rows have no header, so joining is all there is to do.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import attrs

from stream.staging.chunks import Chunks
from stream.storage.entity import LocalSlice
from stream.storage.volumes.recovery import readable_prefix

__all__ = ["CheckedFiles", "check_files"]

_BLOCK_BYTES = 1024 * 1024


@attrs.frozen
class CheckedFiles:
    """:ivar files: paths with the bytes of each to send, in the order of names.
    :ivar damaged: files with something behind their last whole part.
    """

    files: tuple[tuple[Path, int], ...]
    rows: int
    uncompressed: int
    damaged: tuple[str, ...]

    @property
    def size(self) -> int:
        return sum(length for _, length in self.files)

    def chunks(self) -> Chunks:
        """The bytes to send, read anew at each call."""
        return self._read

    def _read(self) -> Iterator[bytes]:
        for path, length in self.files:
            with path.open("rb", buffering=0) as file:
                left = length
                while left:
                    block = file.read(min(left, _BLOCK_BYTES))
                    if not block:
                        raise OSError(f"{path.name} became shorter while it was read")
                    left -= len(block)
                    yield block


def check_files(volume: Path, local: LocalSlice, compression: str) -> CheckedFiles:
    """Find and check the files of a slice; none at all is an empty slice."""
    directory = volume / local.dir
    pattern = f"{local.filename_prefix}-*.{local.filename_extension}"
    paths = sorted({*directory.glob(pattern), *directory.glob(f".{pattern}")})
    files = []
    rows = uncompressed = 0
    damaged = []
    for path in paths:
        with path.open("rb", buffering=0) as file:
            readable = readable_prefix(file, compression)
            if path.stat().st_size != readable.length:
                damaged.append(path.name)
        rows += readable.rows
        uncompressed += readable.uncompressed
        if readable.length:
            files.append((path, readable.length))
    return CheckedFiles(tuple(files), rows, uncompressed, tuple(damaged))
