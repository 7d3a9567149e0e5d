"""One slice file on disk. Everything here blocks and runs in a thread of the volume's pool."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

from stream.storage.network.interface import NoSpace, WriterUnavailable, WrongOffset
from stream.storage.volumes.local_volume import sync_directory
from stream.storage.volumes.recovery import readable_prefix

__all__ = ["DiskFile", "open_disk_file"]

DIRECTORY_MODE = 0o750
FILE_MODE = 0o640
_KEEP_SIZE = 1
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_libc = ctypes.CDLL(None, use_errno=True)


class DiskFile:
    """An open file; used by one thread at a time.

    Note [Failed sync]: after a failed sync nobody knows which bytes are on the disk, and a second
    sync of the same descriptor can succeed without them. So the file is given up: it is opened
    again, and cut to what had been acknowledged.

    :ivar length: bytes written.
    """

    def __init__(self, descriptor: int, length: int) -> None:
        self.length = length
        self._descriptor = descriptor
        self._synced = length
        self._broken = ""

    def append(self, offset: int, data: bytes) -> int:
        """Write *data*; the new length. A repetition of bytes already there changes nothing.

        Raises `WrongOffset`, `NoSpace` (nothing is kept) or `WriterUnavailable` (given up).
        """
        self._check()
        end = offset + len(data)
        if offset < self.length:
            if end <= self.length and os.pread(self._descriptor, len(data), offset) == data:
                return end
            raise WrongOffset(self.length)
        if offset > self.length:
            raise WrongOffset(self.length)
        try:
            self._write_all(data, offset)
        except OSError as error:
            self._cut_back(error)
        self.length = end
        return end

    def _write_all(self, data: bytes, offset: int) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._descriptor, view, offset)
            view = view[written:]
            offset += written

    def _cut_back(self, error: OSError) -> None:
        """Leave nothing of the failed append behind, and say what happened."""
        try:
            os.ftruncate(self._descriptor, self.length)
        except OSError as again:
            self._broken = str(again)
        if error.errno in _FULL and not self._broken:
            raise NoSpace(f"the volume is full: {error.strerror}") from None
        self._broken = self._broken or str(error)
        raise WriterUnavailable(f"cannot write: {error.strerror}") from None

    def sync(self) -> None:
        """Make what is written durable. Raises `WriterUnavailable`; see Note [Failed sync]."""
        self._check()
        if self._synced == self.length:
            return
        length = self.length
        try:
            os.fdatasync(self._descriptor)
        except OSError as error:
            self._broken = str(error)
            raise WriterUnavailable(f"cannot sync: {error.strerror}") from None
        self._synced = length

    def _check(self) -> None:
        if self._broken:
            raise WriterUnavailable(f"the file was given up: {self._broken}")

    def close(self) -> None:
        """Sync, give back what was reserved beyond the end, and close."""
        try:
            if not self._broken:
                os.ftruncate(self._descriptor, self.length)
                os.fsync(self._descriptor)
        finally:
            os.close(self._descriptor)


def open_disk_file(
    path: Path, root: Path, *, resume: int, compression: str, reserve: int
) -> DiskFile:
    """Open or create the file, durably also in its directories.

    :param root: of the volume; directories below it are made.
    :param resume: bytes acknowledged to the caller; the file is cut to it if longer. -1 if the
        caller knows of none: the file is cut after its last whole part.
    :param reserve: bytes to reserve on the disk for a new file.

    Raises `NoSpace` or `WriterUnavailable`.
    """
    try:
        _make_directories(path.parent, root)
        is_new = not path.exists()
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    except OSError as error:
        kind = NoSpace if error.errno in _FULL else WriterUnavailable
        raise kind(f"cannot open the slice file: {error.strerror}") from None
    try:
        if is_new:
            sync_directory(path.parent)
        length = os.fstat(descriptor).st_size
        if length:
            length = _cut(descriptor, length, resume, compression)
        elif reserve:
            # A failure is of no harm: the space is taken when it is written.
            _libc.fallocate(descriptor, _KEEP_SIZE, ctypes.c_int64(0), ctypes.c_int64(reserve))
    except OSError as error:
        os.close(descriptor)
        raise WriterUnavailable(f"cannot open the slice file: {error.strerror}") from None
    return DiskFile(descriptor, length)


def _cut(descriptor: int, length: int, resume: int, compression: str) -> int:
    """Remove what nobody was promised from the end of the file; its new length."""
    if resume >= 0:
        wanted = min(length, resume)
    else:
        with os.fdopen(os.dup(descriptor), "rb", buffering=0) as file:
            wanted = readable_prefix(file, compression).length
    if wanted < length:
        os.ftruncate(descriptor, wanted)
        os.fsync(descriptor)
    return wanted


def _make_directories(path: Path, root: Path) -> None:
    """Make *path* below *root*, and every new entry durable."""
    missing = []
    while path != root and not path.exists():
        missing.append(path)
        path = path.parent
    for directory in reversed(missing):
        directory.mkdir(mode=DIRECTORY_MODE, exist_ok=True)
        sync_directory(directory.parent)
