"""Reads the files of one slice as one checked stream of bytes. Blocks.

A slice has one file for each source node that wrote to it. A crash may leave an incomplete part at
the end of a file; it was never acknowledged and isn't sent. If a file is damaged before its end,
all its readable parts are sent, and the file is quarantined. Concatenated gzip members are a valid
gzip file, and rows have no header, so the files are simply concatenated.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import attrs

from stream.staging.chunks import Chunks
from stream.storage.model.entity import LocalSlice
from stream.storage.volumes.damage import recover
from stream.storage.volumes.in_use import is_in_use
from stream.storage.volumes.quarantine import link_quarantined, quarantine
from stream.storage.volumes.torn_rows import drop_torn_rows
from stream.storage.volumes.unfinished import finish_streams, is_of_original

__all__ = ["CheckedFiles", "FileInUse", "check_files"]

_BLOCK_BYTES = 1024 * 1024


class FileInUse(Exception):
    """The writer still has a file of the slice open."""


@attrs.frozen
class CheckedFiles:
    """The checked files of one slice, with the parts to upload.

    :ivar files: path of each file, with the start and end of each part to upload; sorted by name.
    :ivar cut: names of files that contain data after their last complete part.
    :ivar damaged: names of quarantined files, from which other data is missing as well.
    :ivar finished: names of files of the original service whose unfinished gzip streams this check
        has repaired.
    """

    files: tuple[tuple[Path, tuple[tuple[int, int], ...]], ...]
    rows: int
    uncompressed: int
    cut: tuple[str, ...]
    damaged: tuple[str, ...]
    finished: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """The number of bytes to upload."""
        return sum(end - start for _, parts in self.files for start, end in parts)

    def chunks(self) -> Chunks:
        """Return the bytes to send; each call reads them again."""
        return self._read

    def _read(self) -> Iterator[bytes]:
        for path, parts in self.files:
            with _open(path) as file:
                for start, end in parts:
                    file.seek(start)
                    while start < end:
                        block = file.read(min(end - start, _BLOCK_BYTES))
                        if not block:
                            raise OSError(f"{path.name} became shorter while it was read")
                        start += len(block)
                        yield block


def _open(path: Path) -> BinaryIO:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    return os.fdopen(descriptor, "rb", buffering=0)


def check_files(volume: Path, local: LocalSlice, compression: str) -> CheckedFiles:
    """Find and check the files of a slice; a slice without files is empty.

    A directory or a link with the name of a slice file is quarantined. Unfinished streams in files
    of the original service are repaired; see `stream.storage.volumes.unfinished`.

    Raises FileInUse: the writer hasn't closed a file, so its data may be incomplete.
    """
    directory = volume / local.dir
    pattern = f"{local.filename_prefix}-*.{local.filename_extension}"
    paths = sorted({*directory.glob(pattern), *directory.glob(f".{pattern}")})
    files = []
    rows = uncompressed = 0
    cut, damaged, names = [], [], []
    for path in paths:
        if not stat.S_ISREG(path.lstat().st_mode):
            damaged.append(quarantine(path).name)
            continue
        with _open(path) as file:
            if is_in_use(file.fileno()):
                raise FileInUse(f"the writer has {path.name} still open")
            found = recover(file, compression)
        if compression == "gzip" and found.size != path.stat().st_size and is_of_original(path):
            finished = finish_streams(path)
            if finished is not None:
                names.append(path.name)
                if finished.kept is not None:
                    damaged.append(finished.kept.name)
                with _open(path) as file:
                    found = recover(file, compression)
        if compression == "none" and is_of_original(path):
            kept = drop_torn_rows(path)
            if kept is not None:
                names.append(path.name)
                damaged.append(kept.name)
                with _open(path) as file:
                    found = recover(file, compression)
        if found.is_damaged:
            damaged.append(link_quarantined(path).name)
        elif path.stat().st_size != found.size:
            cut.append(path.name)
        rows += found.rows
        uncompressed += found.uncompressed
        if found.parts:
            files.append((path, found.parts))
    return CheckedFiles(tuple(files), rows, uncompressed, tuple(cut), tuple(damaged), tuple(names))
