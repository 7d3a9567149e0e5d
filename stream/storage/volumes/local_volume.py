"""A volume on a disk: ``<volumes path>/<type>/<label>/`` with its id and locks."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import socket
import string
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import attrs

from stream.errors import UserError
from stream.ops.durable import sync_directory, sync_file

__all__ = [
    "DRAIN_FILE",
    "FoundVolume",
    "VolumeGone",
    "VolumeLock",
    "check_volume",
    "find_volumes",
    "free_bytes",
    "is_drained",
    "make_volume_id",
    "name_volumes",
    "read_volume_id",
]

ID_FILE = "volume-id"
DRAIN_FILE = "drain"
_ID_LENGTH = 10
_ID_ALPHABET = string.ascii_letters + string.digits
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
FILE_MODE = 0o600
_MAX_HOLDER_BYTES = 1000


class VolumeGone(Exception):
    """The directory isn't the volume that was opened."""


@attrs.frozen
class FoundVolume:
    """A volume that was found on the disk.

    :ivar type: name of the first directory, in lower case.
    :ivar label: name of the second directory, unchanged.
    """

    path: Path
    type: str
    label: str


def find_volumes(volumes_path: str) -> list[FoundVolume]:
    """Return the volumes two levels below a path. Raises UserError if there are none."""
    root = Path(volumes_path)
    if not root.is_dir():
        raise UserError(f'volumes path "{root}" is not a directory')
    found = [
        FoundVolume(label.absolute(), type_.name.lower(), label.name)
        for type_ in sorted(root.iterdir())
        if type_.is_dir() and not type_.name.startswith(".")
        for label in sorted(type_.iterdir())
        if label.is_dir()
    ]
    if not found:
        raise UserError(
            f'no volume found in "{root}": create a directory "{{type}}/{{label}}" for each disk'
        )
    return found


def read_volume_id(volume: FoundVolume) -> str | None:
    """Return the volume's ID, or ``None`` if the writer hasn't created it yet."""
    try:
        text = (volume.path / ID_FILE).read_text(errors="replace").strip()
    except FileNotFoundError:
        return None
    if not _ID.fullmatch(text):
        raise UserError(f'"{volume.path / ID_FILE}" contains no volume id')
    return text


def make_volume_id(volume: FoundVolume) -> str:
    """Return the volume's ID; if there is none, create one and sync it to disk.

    The file appears atomically with its content, so a reader that waits for it never sees a part.
    Raises UserError: the volume isn't writable.
    """
    known = read_volume_id(volume)
    if known is not None:
        _sync_volume(volume)  # the process that created it may have been killed before the sync
        return known
    volume_id = "".join(secrets.choice(_ID_ALPHABET) for _ in range(_ID_LENGTH))
    unfinished = volume.path / f".{ID_FILE}-{volume_id}"
    try:
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE)
        try:
            os.write(descriptor, volume_id.encode())
            sync_file(descriptor)
            os.link(unfinished, volume.path / ID_FILE)
        except FileExistsError:
            return make_volume_id(volume)  # Another process was faster.
        finally:
            os.close(descriptor)
            unfinished.unlink()
    except OSError as error:
        raise _not_writable(volume, error) from None
    _sync_volume(volume)
    return volume_id


def _sync_volume(volume: FoundVolume) -> None:
    try:
        sync_directory(volume.path)
    except OSError as error:
        raise _not_writable(volume, error) from None


def check_volume(volume: FoundVolume, volume_id: str, *, write: bool) -> None:
    """Check that the directory is still the volume and can be used.

    Raises VolumeGone: the directory is missing or is another volume. Raises OSError: the volume
    can't be used.

    :param write: whether to check that the volume stores a few bytes durably.
    """
    try:
        found = read_volume_id(volume)
    except UserError as error:
        raise VolumeGone(str(error)) from None
    if found != volume_id:
        raise VolumeGone(f'volume "{volume_id}" is no longer in "{volume.path}"')
    if write:
        probe = volume.path / f".probe-{volume_id}"
        descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        try:
            os.write(descriptor, volume_id.encode())
            sync_file(descriptor)
        finally:
            os.close(descriptor)
            probe.unlink()


def name_volumes(found: Iterable[FoundVolume]) -> dict[str, FoundVolume]:
    """Return the volumes by ID; missing IDs are created.

    Raises UserError: two volumes have the same ID (a copied disk), or a volume isn't writable.
    """
    named: dict[str, list[FoundVolume]] = {}
    for volume in found:
        named.setdefault(make_volume_id(volume), []).append(volume)
    for volume_id, volumes in named.items():
        if len(volumes) > 1:
            paths = ", ".join(f'"{volume.path}"' for volume in volumes)
            raise UserError(f'found {len(volumes)} volumes with the ID "{volume_id}": {paths}')
    return {volume_id: volumes[0] for volume_id, volumes in named.items()}


def is_drained(volume: FoundVolume) -> bool:
    """Return whether an operator has drained the volume."""
    return (volume.path / DRAIN_FILE).exists()


def free_bytes(path: Path) -> tuple[int, int]:
    """Return the available and the total bytes of the disk that contains *path*."""
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize


class VolumeLock:
    """The lock that prevents a second process of the same kind from using a volume.

    The file describes the process that holds the lock. Only the error of another process shows
    this description; whether the volume is locked depends only on the lock of the operating system.

    Raises UserError: another process holds the lock, or the volume isn't writable.

    :param kind: ``writer`` or ``reader``.
    :param node_id: the id of the node that uses the volume.
    """

    def __init__(self, volume: FoundVolume, kind: str, node_id: str) -> None:
        self._path = volume.path / f"{kind}.lock"
        while True:
            try:
                descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
            except OSError as error:
                raise _not_writable(volume, error) from None
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = _read_holder(descriptor)
                os.close(descriptor)
                by = f" by {holder}" if holder else ""
                raise UserError(
                    f'cannot acquire {kind} lock "{self._path}": already locked{by}'
                ) from None
            if self._is_current(descriptor):
                self._descriptor = descriptor
                _write_holder(descriptor, node_id)
                return
            os.close(descriptor)

    def _is_current(self, descriptor: int) -> bool:
        """Return whether the locked file is still the file at the path."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return False
        return os.path.samestat(os.fstat(descriptor), found)

    def release(self) -> None:
        """Release the lock.

        The file is removed first, so that a process that has already opened it notices the release.
        """
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)


def _write_holder(descriptor: int, node_id: str) -> None:
    """Replace the content of a lock file by a description of this process.

    An error, such as that of a full disk, doesn't matter: the lock is held without a description.
    """
    text = f'node "{node_id}", process {os.getpid()} on host "{socket.gethostname()}"'
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)


def _read_holder(descriptor: int) -> str:
    """Return the description of the holder of a lock; empty if it is unknown."""
    try:
        text = os.pread(descriptor, _MAX_HOLDER_BYTES, 0).decode(errors="replace")
    except OSError:
        return ""
    return text if text.isprintable() else ""


def _not_writable(volume: FoundVolume, error: OSError) -> UserError:
    return UserError(f'volume "{volume.path}" is not writable: {error.strerror}')
