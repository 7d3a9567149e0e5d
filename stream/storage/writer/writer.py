"""Opens slice files on this node's volumes, for pipelines in this process and for the server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, DeferredList, ensureDeferred, fail
from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool

from stream.storage.entity import Slice
from stream.storage.key import SliceKey
from stream.storage.network.interface import (
    SliceFile,
    SliceFileListener,
    SliceSealed,
    SyncLevel,
    WriterDraining,
    WriterError,
    WriterUnavailable,
)
from stream.storage.volumes.local_volume import FoundVolume, is_drained
from stream.storage.writer.appender import VolumeAppender
from stream.storage.writer.disk import DiskFile, open_disk_file

__all__ = ["OpenVolume", "StorageWriter"]

_log = Logger()

THREADS_PER_VOLUME = 2


class OpenVolume:
    """A volume in use: its own threads, so that a hanging disk doesn't hold up the others."""

    def __init__(self, found: FoundVolume, volume_id: str, reactor: Any) -> None:
        self.found = found
        self.volume_id = volume_id
        self.pool = ThreadPool(0, THREADS_PER_VOLUME, name=f"volume {volume_id}")
        self.appender = VolumeAppender(reactor, self.pool)


class _OpenFile:
    """A file opened for one pipeline; see `stream.storage.network.interface.SliceFile`."""

    def __init__(
        self,
        writer: StorageWriter,
        key: tuple[SliceKey, str],
        volume: OpenVolume,
        disk: DiskFile,
        listener: SliceFileListener,
    ) -> None:
        self.length = disk.length
        self.key = key
        self.listener = listener
        self._writer = writer
        self._volume = volume
        self._disk = disk
        self._refusal: WriterError | None = None
        self._closing: Deferred[None] | None = None

    def append(self, offset: int, data: bytes, *, level: SyncLevel) -> Deferred[int]:
        if self._refusal is not None:
            return fail(self._refusal)
        return self._volume.appender.append(self._disk, offset, data, level)

    def close(self) -> Deferred[None]:
        self._writer.forget(self)
        return self._close(WriterUnavailable("the file is closed"))

    def end(self, reason: WriterError) -> Deferred[None]:
        """Close from the writer's side; the pipeline is told."""
        if self._closing is not None:
            return _after(self._closing)
        closed = self._close(reason)
        self.listener.lost(reason)
        return closed

    def _close(self, refusal: WriterError) -> Deferred[None]:
        if self._closing is None:
            self._refusal = refusal
            self._closing = self._volume.appender.run(self._disk.close)
            self._closing.addErrback(
                lambda failure: _log.failure("cannot close a slice file", failure)
            )
        return _after(self._closing)


def _after(deferred: Deferred[None]) -> Deferred[None]:
    """Fires when *deferred* has; it can be waited for many times."""
    waiter: Deferred[None] = Deferred()

    def fire(result: Any) -> Any:
        waiter.callback(None)
        return result

    deferred.addBoth(fire)
    return waiter


class StorageWriter:
    """A `stream.storage.network.interface.SliceOpener` for the volumes of this node.

    :param may_be_written: whether a slice is in a state in which rows may come; asks etcd, since
        the mirror of slices may lag behind the pipeline that wants to open one.
    """

    def __init__(self, reactor: Any, may_be_written: Callable[[SliceKey], Awaitable[bool]]) -> None:
        self._reactor = reactor
        self._may_be_written = may_be_written
        self._volumes: dict[str, OpenVolume] = {}
        self._files: dict[tuple[SliceKey, str], _OpenFile] = {}
        self._draining = False

    def add_volume(self, volume: OpenVolume) -> None:
        self._volumes[volume.volume_id] = volume

    def has_volume(self, volume_id: str) -> bool:
        return volume_id in self._volumes

    @property
    def open_files(self) -> int:
        return len(self._files)

    def open(
        self, slice_: Slice, source_node_id: str, listener: SliceFileListener, *, resume: int = -1
    ) -> Deferred[SliceFile]:
        return ensureDeferred(self._open(slice_, source_node_id, listener, resume))

    async def _open(
        self, slice_: Slice, source_node_id: str, listener: SliceFileListener, resume: int
    ) -> SliceFile:
        volume = self._volume_for(slice_)
        if not await self._may_be_written(slice_.key):
            raise SliceSealed(f"the slice {slice_.key} is not written any more")
        key = (slice_.key, source_node_id)
        older = self._files.pop(key, None)
        if older is not None:
            await older.end(WriterUnavailable("the file was opened again"))
        path = _path_of(volume.found.path, slice_, source_node_id)
        disk = await volume.appender.run(
            lambda: open_disk_file(
                path,
                volume.found.path,
                resume=resume,
                compression=slice_.encoding.compression.type,
                reserve=slice_.local.allocated_disk_space,
            )
        )
        file = _OpenFile(self, key, volume, disk, listener)
        if self._draining:
            await file.close()
            raise WriterDraining("disk writer node is terminating")
        newer = self._files.pop(key, None)
        self._files[key] = file
        if newer is not None:
            await newer.end(WriterUnavailable("the file was opened again"))
        return file

    def _volume_for(self, slice_: Slice) -> OpenVolume:
        if self._draining:
            raise WriterDraining("disk writer node is terminating")
        volume = self._volumes.get(slice_.key.volume_id)
        if volume is None:
            raise WriterUnavailable(f'volume "{slice_.key.volume_id}" is not on this node')
        if is_drained(volume.found):
            raise WriterDraining(f'volume "{volume.volume_id}" is drained')
        return volume

    def forget(self, file: _OpenFile) -> None:
        if self._files.get(file.key) is file:
            del self._files[file.key]

    def seal(self, key: SliceKey) -> None:
        """The slice has left the states in which it is written: refuse everything further."""
        for file_key in [k for k in self._files if k[0] == key]:
            self._files.pop(file_key).end(SliceSealed(f"the slice {key} is not written any more"))

    def drain(self) -> None:
        """Open nothing more, and ask every pipeline to leave."""
        self._draining = True
        for file in list(self._files.values()):
            file.listener.draining()

    async def close(self) -> None:
        """Close every file, whoever uses it."""
        self._draining = True
        files, self._files = list(self._files.values()), {}
        await DeferredList([file.end(WriterDraining("the writer stopped")) for file in files])


def _path_of(root: Path, slice_: Slice, source_node_id: str) -> Path:
    """Where one source node's file of a slice lies.

    The names come from other nodes: raises `WriterUnavailable` for one that leads elsewhere.
    """
    path = root / slice_.local.dir / slice_.local.filename(source_node_id)
    inside = path.parent.parent != root and root in path.parents
    if ".." in path.parts or "/" in source_node_id or "\0" in str(path) or not inside:
        raise WriterUnavailable("the slice has no valid directory")
    return path
