"""A slice file on disk. Its functions block and run in a thread of the volume's pool."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from stream.ops.durable import sync_data, sync_directory, sync_file
from stream.storage.network.interface import (
    ContentConflict,
    Fenced,
    NoSpace,
    WriterError,
    WriterUnavailable,
    WrongOffset,
)
from stream.storage.volumes.damage import recover
from stream.storage.volumes.fault import is_of_disk
from stream.storage.volumes.in_use import lock_for_writing
from stream.storage.volumes.local_volume import FILE_MODE
from stream.storage.volumes.quarantine import quarantine, repair
from stream.storage.volumes.torn_rows import drop_torn_rows
from stream.storage.volumes.unfinished import finish_streams, is_of_original, life_path

__all__ = ["DiskFile", "open_disk_file"]

DIRECTORY_MODE = 0o700
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_KEEP_SIZE = 1
_BUFFERS_PER_CALL = 1024
"""Maximum number of buffers per system call."""

_UNUSABLE = {errno.EISDIR, errno.ELOOP, errno.EIO, errno.EACCES, errno.ENXIO, errno.ENODEV}
"""Errors of a path that can't be opened for writing as a file."""
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_libc = ctypes.CDLL(None, use_errno=True)


class DiskFile:
    """An open slice file, used by one thread at a time.

    Note [Failed sync]: after a failed sync it is unknown which bytes are on the disk, and a second
    sync of the same descriptor may succeed without writing them. So the file is abandoned: it is
    truncated to the length that was promised before, and must be opened again.

    :ivar length: bytes written.
    :ivar broken: why the file was abandoned; empty while it is usable.
    :ivar is_fault: whether it was abandoned because the disk may have failed.
    :ivar quarantined: new path of a damaged file that was found at the path of this one.
    """

    def __init__(self, descriptor: int, length: int, quarantined: Path | None = None) -> None:
        self.length = length
        self.quarantined = quarantined
        self.broken = ""
        self.is_fault = False
        self._descriptor = descriptor
        self._synced = length
        self._promised = length
        self._refusal: WriterError | None = None
        self._met_in_write = 0
        self._met_in_sync = 0
        self._is_repeated = False

    def refuse(self, reason: WriterError) -> None:
        """Make every append fail that isn't written yet; may be called from any thread."""
        self._refusal = reason

    def promise(self) -> None:
        """Mark the written data as about to be acknowledged, so that it is never truncated."""
        self._promised = self.length

    # Writing.

    def append(self, offset: int, data: bytes) -> int:
        """Write *data*; return the new length. Repeating existing bytes changes nothing.

        Raises WrongOffset, ContentConflict: see these classes. Raises NoSpace: no data is kept.
        Raises WriterUnavailable: the file was abandoned.
        """
        result = self.append_many([(offset, data)])[0]
        if isinstance(result, WriterError):
            raise result
        return result

    def append_many(self, appends: Sequence[tuple[int, bytes]]) -> list[int | WriterError]:
        """Call `append` for each append; consecutive appends are written in one call."""
        results: list[int | WriterError] = []
        run: list[bytes] = []
        end = self.length
        for offset, data in appends:
            if offset != end:
                results += self._write_run(run)
                run, end = [], self.length
            if offset == end:
                run.append(data)
                end += len(data)
            else:
                results.append(self._check_repeated(offset, data))
        return results + self._write_run(run)

    def _check_repeated(self, offset: int, data: bytes) -> int | WriterError:
        refusal = self._failure()
        if refusal is not None:
            return refusal
        end = offset + len(data)
        if not 0 <= offset <= end <= self.length:
            return WrongOffset(self.length)
        try:
            is_there = os.pread(self._descriptor, len(data), offset) == data
        except OSError as error:
            self._give_up(error)
            return WriterUnavailable(f"cannot read: {error.strerror}")
        if is_there:
            return end
        return ContentConflict(f"other bytes are stored from {offset} to {end}")

    def _write_run(self, run: list[bytes]) -> list[int | WriterError]:
        """Write the appends of *run* together; if the disk is full, one by one while they fit."""
        if not run:
            return []
        refusal = self._failure()
        if refusal is not None:
            return [refusal] * len(run)
        start = self.length
        self._is_repeated = False
        try:
            met, self._met_in_write = self._met_in_write, 0
            _raise_met(met)
            _write_all(self._descriptor, run, start)
        except OSError as error:
            problem = self._cut_back(error)
            if len(run) == 1 or not isinstance(problem, NoSpace):
                return [problem] * len(run)
            return self._write_singly(run)
        ends: list[int | WriterError] = []
        for data in run:
            self.length += len(data)
            ends.append(self.length)
        return ends

    def _write_singly(self, run: list[bytes]) -> list[int | WriterError]:
        """Write appends one by one; after one that doesn't fit, the rest have no valid position."""
        results: list[int | WriterError] = []
        for data in run:
            results += self._write_run([data])
            if isinstance(results[-1], WriterError):
                rest = len(run) - len(results)
                return results + [self._failure() or WrongOffset(self.length)] * rest
        return results

    def _cut_back(self, error: OSError) -> WriterError:
        """Remove the data of a failed append; return the append's error."""
        try:
            os.ftruncate(self._descriptor, self.length)
        except OSError as again:
            self._break(again, str(again))
        if error.errno in _FULL and not self.broken:
            return NoSpace(f"the volume is full: {error.strerror}")
        if is_of_disk(error):
            self._break(error, self.broken or str(error))
        return WriterUnavailable(f"cannot write: {error.strerror}")

    # Appends by compiled code; see Note [Compiled rounds] in `stream.storage.writer.appender`.

    def place_of(self, appends: Sequence[tuple[int, bytes]]) -> tuple[int, int] | None:
        """Return the descriptor and the length if *appends* continue the file one after another.

        Returns ``None`` if one of them doesn't, if all are empty, if the file refuses them, or if
        compiled code has failed to write or to sync it and Python code hasn't repeated that.
        """
        if self._is_repeated or self._met_in_sync:
            return None
        end = self.length
        for offset, data in appends:
            if offset != end:
                return None
            end += len(data)
        if end == self.length or self._failure() is not None:
            return None
        return self._descriptor, self.length

    def appended(self, end: int, *, is_synced: bool) -> None:
        """Record that data was written up to *end* and is about to be acknowledged."""
        self.length = self._promised = end
        if is_synced:
            self._synced = end

    def meet(self, write_error: int, sync_error: int) -> None:
        """Leave the next appends to Python code: compiled code has failed to write them.

        :param write_error: an error with which their write fails; 0 for none.
        :param sync_error: an error with which their sync fails; 0 for none.
        """
        self._met_in_write, self._met_in_sync = write_error, sync_error
        self._is_repeated = True

    # Syncing and closing.

    def sync(self) -> bool:
        """Make the written data durable; return whether a sync was necessary.

        Raises WriterUnavailable: see Note [Failed sync].
        """
        if self.broken:
            raise WriterUnavailable(f"the file was abandoned: {self.broken}")
        if self._synced == self.length:
            return False
        length = self.length
        try:
            _raise_met(self._met_in_sync)
            sync_data(self._descriptor, os)
        except OSError as error:
            self._give_up(error)
            raise WriterUnavailable(f"cannot sync: {error.strerror}") from None
        self._synced = length
        return True

    def check_linked(self) -> None:
        """Check that the file wasn't removed, in which case its data would be lost.

        Raises WriterUnavailable: the file was removed.
        """
        if not self.broken and not os.fstat(self._descriptor).st_nlink:
            self.broken, self.is_fault = "it was removed", True
            raise WriterUnavailable("the slice file was removed")

    def _break(self, error: OSError, reason: str) -> None:
        self.broken = reason
        self.is_fault = self.is_fault or is_of_disk(error)

    def _give_up(self, error: OSError) -> None:
        self._break(error, str(error))
        try:
            os.ftruncate(self._descriptor, max(self._promised, self._synced))
        except OSError as again:
            self._break(again, f"{error}; {again}")

    def _failure(self) -> WriterError | None:
        if self._refusal is not None:
            return self._refusal
        if self.broken:
            return WriterUnavailable(f"the file was abandoned: {self.broken}")
        return None

    def close(self) -> None:
        """Sync the file, release the space reserved beyond its end, and close it."""
        try:
            if not self.broken:
                os.ftruncate(self._descriptor, self.length)
                sync_file(self._descriptor, os)
        finally:
            os.close(self._descriptor)


def _raise_met(error: int) -> None:
    """Raise the OSError with the number *error* if it isn't 0."""
    if error:
        raise OSError(error, os.strerror(error))


def _write_all(descriptor: int, buffers: Sequence[bytes], offset: int) -> None:
    """Write all buffers, even if the operating system writes only some bytes at a time."""
    left: list[bytes | memoryview] = [buffer for buffer in buffers if buffer]
    while left:
        written = os.pwritev(descriptor, left[:_BUFFERS_PER_CALL], offset)
        offset += written
        done = 0
        while done < len(left) and written >= len(left[done]):
            written -= len(left[done])
            done += 1
        del left[:done]
        if written:
            left[0] = memoryview(left[0])[written:]


def open_disk_file(
    path: Path, root: Path, *, life: int, resume: int, compression: str, reserve: int
) -> DiskFile:
    """Open or create the file, and make its directory entries durable.

    Note [Lives on disk]: the number of the life that last opened the file is stored next to the
    file, and is durable before that life writes anything. Only that life may have the file
    truncated to a length that it specifies; any other life continues after the readable part. etcd
    decides which life may open the file, not this number: after a restore of etcd from a backup the
    number would be too high.

    :param root: root of the volume; missing directories below it are created.
    :param life: the number of the life of the source node that opens the file.
    :param resume: number of bytes acknowledged to the caller; a longer file is truncated to this
        length. With -1, for a caller that doesn't know it, the file is truncated after its last
        complete part, and repaired if it is damaged before that.
    :param reserve: bytes to reserve on the disk for a new file.

    Raises NoSpace, WriterUnavailable: see these classes. Raises Fenced: another life wrote the data
    that would be truncated.
    """
    try:
        _make_directories(path.parent, root)
        descriptor, quarantined = _open_regular(path)
    except OSError as error:
        raise _cannot_open(error) from None
    try:
        _claim(descriptor)
        length = os.fstat(descriptor).st_size
        if length and compression in ("gzip", "none") and is_of_original(path):
            length = _finish(descriptor, path, compression)
        if not _is_last_of(path, life):
            if 0 <= resume < length:
                raise Fenced("another life of the source node has since written to the file")
            _note_life(path, life)
        _sync_entries(path.parent, root)
        if length:
            if resume < 0:
                length, repaired = _recover(descriptor, path, compression)
                if repaired is not None:  # the path now has a different file
                    _claim(descriptor)
                quarantined = repaired or quarantined
            else:
                length = min(length, resume)
            _cut(descriptor, length)
        elif reserve:
            _reserve(descriptor, reserve)
    except Fenced:
        os.close(descriptor)
        raise
    except OSError as error:
        os.close(descriptor)
        raise _cannot_open(error) from None
    return DiskFile(descriptor, length, quarantined)


def _is_last_of(path: Path, life: int) -> bool:
    """Return whether *life* was the last to open the file *path*; see Note [Lives on disk]."""
    try:
        return life_path(path).read_text(errors="replace") == f"{life}\n"
    except FileNotFoundError:
        return False


def _note_life(path: Path, life: int) -> None:
    """Write the number of the life; it becomes durable when the directory entries are synced."""
    noted = life_path(path)
    unfinished = noted.with_name(f"{noted.name}.new")
    descriptor = os.open(
        unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE
    )
    try:
        os.write(descriptor, f"{life}\n".encode())
        sync_file(descriptor, os)
    finally:
        os.close(descriptor)
    unfinished.replace(noted)


def _finish(descriptor: int, path: Path, compression: str) -> int:
    """Repair unfinished streams in a file of the original service; return the file's length.

    See `stream.storage.volumes.unfinished`. If the file was replaced, the descriptor then refers to
    the new one.
    """
    is_replaced = (
        finish_streams(path) if compression == "gzip" else drop_torn_rows(path)
    ) is not None
    if is_replaced:
        _follow(descriptor, path)
        _claim(descriptor)
    return os.fstat(descriptor).st_size


def _follow(descriptor: int, path: Path) -> None:
    """Make *descriptor* refer to the file that is now at *path*."""
    replaced = os.open(path, _FLAGS, FILE_MODE)
    os.dup2(replaced, descriptor, inheritable=False)
    os.close(replaced)


def _claim(descriptor: int) -> None:
    """Lock the file. Raises OSError if it is in use."""
    if not lock_for_writing(descriptor):
        raise OSError(errno.EBUSY, "it is in use")


def _open_regular(path: Path) -> tuple[int, Path | None]:
    """Open or create the file. Anything else than a writable file is quarantined first."""
    try:
        descriptor = os.open(path, _FLAGS, FILE_MODE)
    except OSError as error:
        if error.errno not in _UNUSABLE or not os.path.lexists(path):
            raise
    else:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor, None
        os.close(descriptor)
    quarantined = quarantine(path)
    return os.open(path, _FLAGS | os.O_EXCL, FILE_MODE), quarantined


def _recover(descriptor: int, path: Path, compression: str) -> tuple[int, Path | None]:
    """Return the length of the intact part of the file.

    A damaged file is replaced with its readable parts, the descriptor then refers to the new file,
    and the path of the damaged file is recorded.
    """
    with os.fdopen(os.dup(descriptor), "rb", buffering=0) as file:
        recovered = recover(file, compression)
        if not recovered.is_damaged:
            return recovered.size, None
        quarantined = repair(path, file, recovered.parts)
    _follow(descriptor, path)
    return recovered.size, quarantined


def _cannot_open(error: OSError) -> WriterError:
    kind = NoSpace if error.errno in _FULL else WriterUnavailable
    return kind(f"cannot open the slice file: {error.strerror}")


def _cut(descriptor: int, length: int) -> None:
    """Truncate unacknowledged data at the end of the file.

    The remaining data is synced, because it counts as stored from now on, and the process that
    wrote it may have ended before syncing it.
    """
    os.ftruncate(descriptor, length)
    sync_file(descriptor, os)


def _reserve(descriptor: int, size: int) -> None:
    """Reserve blocks without changing the length.

    A failure does no harm, because the space is then allocated when data is written.
    """
    fallocate = getattr(_libc, "fallocate", None)
    if fallocate is not None:
        fallocate(descriptor, _KEEP_SIZE, ctypes.c_int64(0), ctypes.c_int64(size))


_ATTEMPTS = 3


def _make_directories(path: Path, root: Path) -> None:
    """Create *path* below *root*, even if the cleanup removes a parent in between."""
    parents = [path, *path.parents]
    missing = parents[: parents.index(root)]
    for attempt in range(_ATTEMPTS):
        try:
            for directory in reversed(missing):
                if not directory.is_dir():
                    directory.mkdir(mode=DIRECTORY_MODE, exist_ok=True)
            return
        except FileNotFoundError:
            if attempt == _ATTEMPTS - 1:
                raise


def _sync_entries(path: Path, root: Path) -> None:
    """Make every directory entry from the file up to *root* durable.

    This includes existing directories, because the process that created them may have been killed
    before syncing them.
    """
    parents = [path, *path.parents]
    for directory in parents[: parents.index(root) + 1]:
        sync_directory(directory)
