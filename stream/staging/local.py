"""Objects as files in a folder of this machine.

An object appears durably and as a whole, or not at all. It is written to a hidden file in the same
folder, synced, and renamed; then the folder is synced.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from stream.ops.durable import sync_directory, sync_file
from stream.staging.chunks import Chunks
from stream.staging.errors import ObjectMismatch, StagingError
from stream.staging.store import StoredObject

__all__ = ["LocalBackend", "opened_part", "part_path"]

_READ_BYTES = 1024 * 1024
_MAX_NAME_BYTES = 255


class LocalBackend:
    """The backend of a local folder.

    :param directory: root directory; keys are paths below it. It must exist, because a missing root
        is probably an unmounted disk.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def put(self, key: str, chunks: Chunks, stopped: Callable[[], bool]) -> StoredObject:
        """Store an object; see `stream.staging.store.Backend`."""
        target = self._directory / key
        try:
            self._make_folders(target.parent)
            size = _write(target, chunks, stopped)
            found = target.stat().st_size
        except InterruptedError as problem:
            raise StagingError(str(problem)) from None
        except OSError as problem:
            raise StagingError(f'cannot store "{target}": {problem.strerror}') from problem
        if found != size:
            raise ObjectMismatch(f'"{target}" is {found} bytes, but {size} bytes were sent')
        return StoredObject(url="", size=size, etag="", verified=True)

    def get(self, key: str) -> Iterator[bytes]:
        """Return the body of an object; see `stream.staging.store.Backend`."""
        path = self._directory / key
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            with open(descriptor, "rb", buffering=0) as file:  # noqa: PTH123
                while chunk := file.read(_READ_BYTES):
                    yield chunk
        except OSError as problem:
            raise StagingError(f'cannot read "{path}": {problem.strerror}') from problem

    def _make_folders(self, folder: Path) -> None:
        missing = []
        while folder != self._directory and not folder.is_dir():
            missing.append(folder)
            folder = folder.parent
        for each in reversed(missing):
            each.mkdir(exist_ok=True)
            sync_directory(each.parent)


def part_path(target: Path) -> Path:
    """Return the path of the hidden file of the object *target*; see Note [Parts]."""
    return target.with_name(f".{target.name}.part")


def opened_part(target: Path) -> tuple[int, Path]:
    """Open an empty hidden file for the bytes of *target*; see Note [Parts].

    The file must be renamed or removed before it is closed.
    """
    part = part_path(target)
    while len(part.name.encode()) <= _MAX_NAME_BYTES:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(part, descriptor):
                os.ftruncate(descriptor, 0)
                return descriptor, part
        except OSError:  # another writer holds it, or locks aren't supported
            os.close(descriptor)
            break
        os.close(descriptor)  # the holder of the lock has renamed or removed it
    descriptor, hidden = tempfile.mkstemp(prefix=".", suffix=".part", dir=target.parent)
    return descriptor, Path(hidden)


def _is_at(path: Path, descriptor: int) -> bool:
    """Return whether the open file is still the one at *path*."""
    try:
        found = path.stat(follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(found, os.fstat(descriptor))


def _write(target: Path, chunks: Chunks, stopped: Callable[[], bool]) -> int:
    size = 0
    descriptor, hidden = opened_part(target)
    with open(descriptor, "wb", buffering=0) as file:  # noqa: PTH123
        try:
            for chunk in chunks():
                if stopped():
                    raise InterruptedError("the upload was cancelled")
                view = memoryview(chunk)
                while view:
                    written = file.write(view)
                    view = view[written:]
                size += len(chunk)
            sync_file(file.fileno())
            hidden.replace(target)
        except BaseException:
            hidden.unlink(missing_ok=True)
            raise
    sync_directory(target.parent)
    return size
