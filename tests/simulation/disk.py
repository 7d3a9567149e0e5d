"""A machine's disk: real files in a temporary directory, and the effects of a power loss.

The service's system calls go through `Os`. There they take time, fail, or are the last action of
the process, and synced data is recorded.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

from tests.simulation.scheduler import Process, Scheduler
from tests.simulation.threads import rest

__all__ = ["Disk", "Os"]

_WRITE_SECONDS = 0.0002
_SYNC_SECONDS = 0.004
_SLOW_SHARE = 0.01
_SLOW_FACTOR = 200.0


@attrs.define(eq=False)
class Disk:
    """The disk of a machine.

    :ivar synced: contents by inode as of their last sync.
    :ivar linked: paths whose directory entries are durable.
    :ivar refusing: the error with which writes (ENOSPC) or syncs (EIO) currently fail.
    """

    root: Path
    synced: dict[int, bytes] = attrs.Factory(dict)
    linked: set[Path] = attrs.Factory(set)
    refusing: int = 0
    _dropped: dict[int, tuple[int, int]] = attrs.Factory(dict)

    def made(self, descriptor: int) -> None:
        """Record a new file, whose inode may have been used by a removed file."""
        inode = os.fstat(descriptor).st_ino
        self.synced.pop(inode, None)
        self._dropped.pop(inode, None)

    def sync(self, descriptor: int) -> None:
        inode = os.fstat(descriptor).st_ino
        content = bytearray(_content(descriptor))
        start, end = self._dropped.get(inode, (0, 0))
        content[start:end] = bytes(max(0, min(end, len(content)) - start))
        self.synced[inode] = bytes(content)

    def failed_sync(self, descriptor: int) -> None:
        """Record a failed sync: the system now considers the pages written, but they aren't."""
        inode = os.fstat(descriptor).st_ino
        content = _content(descriptor)
        known = len(self.synced.get(inode, b""))
        if len(content) > known:
            self._dropped[inode] = (known, len(content))

    def written(self, descriptor: int, offset: int) -> None:
        """Record that the pages from *offset* on are unsynced."""
        inode = os.fstat(descriptor).st_ino
        start, end = self._dropped.get(inode, (0, 0))
        if offset < end:
            self._dropped[inode] = (start, max(start, offset))

    def sync_directory(self, path: Path) -> None:
        self.linked.update(path.iterdir())

    def lose_power(self, scheduler: Scheduler) -> None:
        """Lose any part of the unsynced data."""
        random = scheduler.random
        for directory, names, files in os.walk(self.root):
            names.sort()
            for name in sorted(files):
                path = Path(directory, name)
                if self._is_lost(path, random):
                    path.unlink()
                elif name.startswith("slice"):
                    self._damage(path, scheduler)
            for name in [name for name in names if self._is_lost(Path(directory, name), random)]:
                shutil.rmtree(Path(directory, name))
                names.remove(name)
        self._dropped.clear()

    def _is_lost(self, path: Path, random: Any) -> bool:
        depth = len(path.relative_to(self.root).parts)
        is_of_slices = depth > 1 or path.is_dir()
        return is_of_slices and path not in self.linked and random.random() < 0.5

    def _damage(self, path: Path, scheduler: Scheduler) -> None:
        random = scheduler.random
        now = path.read_bytes()
        synced = self.synced.get(path.stat().st_ino, b"")
        kept = now
        if random.random() < 0.8:
            kept = synced
            rest_ = now[len(synced) :] if now.startswith(synced) else b""
            if rest_ and random.random() < 0.5:
                cut = random.randrange(len(rest_) + 1)
                zeros = len(rest_) - cut if random.random() < 0.3 else 0
                kept = synced + rest_[:cut] + bytes(zeros)
        path.write_bytes(kept)
        self.synced[path.stat().st_ino] = kept
        scheduler.note(f"power {path.name} {len(now)} {len(synced)} {len(kept)}")


class Os:
    """Replaces the module `os` for slice files and volumes."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self.disks: dict[str, Disk] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def _takes(self, seconds: float, label: str) -> Disk | None:
        """Let time pass, and return the disk, or ``None`` if it can't be used any more."""
        process = self._scheduler.running
        if self._scheduler.over or process is None or process.is_dead:
            return None
        random = self._scheduler.random
        seconds = random.expovariate(1 / seconds)
        if random.random() < _SLOW_SHARE:
            seconds *= _SLOW_FACTOR
        rest(process, seconds, label)
        return None if self._scheduler.over else self.disks[process.host]

    def _process(self) -> Process | None:
        return self._scheduler.running

    def open(self, path: Any, flags: int, mode: int = 0o777) -> int:
        disk = self._takes(_WRITE_SECONDS, "open")
        is_new = not os.path.lexists(path)
        descriptor = os.open(path, flags, mode)
        process = self._process()
        if process is not None:
            process.descriptors.add(descriptor)
        if disk is not None and is_new:
            disk.made(descriptor)
        return descriptor

    def close(self, descriptor: int) -> None:
        process = self._process()
        if self._scheduler.over or process is None or descriptor not in process.descriptors:
            return
        process.descriptors.discard(descriptor)
        os.close(descriptor)

    def pwritev(self, descriptor: int, buffers: Sequence[bytes], offset: int) -> int:
        disk = self._takes(_WRITE_SECONDS, "write")
        if disk is None:
            return sum(map(len, buffers))
        data = b"".join(buffers)
        if disk.refusing == errno.ENOSPC:
            data = data[: len(data) // 2]
            if not data or self._scheduler.random.random() < 0.5:
                raise OSError(errno.ENOSPC, "no space")
        elif self._scheduler.random.random() < 0.05 and len(data) > 1:
            data = data[: self._scheduler.random.randrange(1, len(data))]
        disk.written(descriptor, offset)
        return os.pwrite(descriptor, data, offset)

    def ftruncate(self, descriptor: int, length: int) -> None:
        disk = self._takes(_WRITE_SECONDS, "truncate")
        if disk is not None:
            disk.written(descriptor, length)
            os.ftruncate(descriptor, length)

    def fdatasync(self, descriptor: int) -> None:
        disk = self._takes(_SYNC_SECONDS, "sync")
        if disk is None:
            return
        if disk.refusing == errno.EIO:
            disk.failed_sync(descriptor)
            raise OSError(errno.EIO, "input/output error")
        disk.sync(descriptor)

    fsync = fdatasync

    def sync_directory(self, path: Path) -> None:
        disk = self._takes(_WRITE_SECONDS, "sync directory")
        if disk is not None:
            disk.sync_directory(path)


def _content(descriptor: int) -> bytes:
    """Return the content, even of a file that is open only for writing."""
    return Path(f"/proc/self/fd/{descriptor}").read_bytes()
