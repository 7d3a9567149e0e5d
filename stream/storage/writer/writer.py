"""Opens slice files on this node's volumes, for local pipelines and for the server.

Note [One opening at a time]: a slice has at most one open file per source node. If the file is open
and is opened again, the older opening ends, because its connection may be dead without anyone
having noticed. The new opening begins when the file is closed. Openings of the same file wait for
each other. So the length that an opening finds is still correct at its first append.

Note [Fencing]: only the current life of a source node may open a file. etcd is read twice, before
the older opening is ended and afterwards. A life that claims the name later opens the file itself,
which ends this opening. So of two lives of a node, the later one has the file, and the earlier one
can't get it back. An opening truncates data that its own life wrote and knows to be unacknowledged;
data of other lives is truncated only after the last complete part.

Note [Sealing]: the mirror of slices shows when a slice accepts no more rows. The mirror may lag,
and nothing waits for a source node that has lost its lease. So a file is locked as long as it is
open, and the reader treats it as finished only when it isn't locked. Once the file is locked, the
writer reads etcd again: if the reader has checked the file before, the writer now finds the slice
sealed. A change that the mirror reports while a file is being opened is remembered until the
opening ends.

Note [Many files]: a writer may have thousands of files open, and the end of each one takes work:
its pipeline is notified, a thread closes it. When all of them end, this is done in turns, so that
the lease is renewed meanwhile. A file of a missing volume refuses appends immediately, even before
its turn. When the writer stops, a file accepts appends until its turn, and its close follows them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.defer import (
    Deferred,
    DeferredList,
    DeferredLock,
    ensureDeferred,
    fail,
)
from twisted.logger import Logger
from twisted.python.failure import Failure

from stream.concurrency.paced import begin_in_turns, in_turns
from stream.concurrency.waiters import ended
from stream.ops.process.thread_pool import AbandonableThreadPool, NoThread
from stream.storage.model.entity import LocalSlice, Slice
from stream.storage.model.key import SliceKey
from stream.storage.model.marks import marks_of
from stream.storage.network.interface import (
    Enquiry,
    Fenced,
    SliceFile,
    SliceFileListener,
    SliceSealed,
    SourceLife,
    StoredRows,
    SyncLevel,
    WriterDraining,
    WriterError,
    WriterUnavailable,
)
from stream.storage.volumes.local_volume import FoundVolume
from stream.storage.writer.appender import THREADS, VolumeAppender
from stream.storage.writer.disk import DiskFile, open_disk_file
from stream.storage.writer.disk_thread import disk_threads
from stream.storage.writer.register import Register, WrittenSlice
from stream.storage.writer.requests import DEFAULT_KEYS, DEFAULT_SECONDS, Requests, settled

__all__ = ["OpenFile", "OpenVolume", "StorageWriter"]

_log = Logger()

_FileKey = tuple[SliceKey, str]


class OpenVolume:
    """An open volume with its own threads, so that a stuck disk doesn't block other volumes.

    :ivar drained: whether the volume accepts no new files.
    :ivar failed: whether the disk has refused a write. Other volumes are preferred until it accepts
        a write again.
    :ivar gone: whether the volume is no longer at its path; nothing may be written there.
    """

    def __init__(
        self,
        found: FoundVolume,
        volume_id: str,
        reactor: Any,
        synced: Callable[[float], None] = lambda _: None,
    ) -> None:
        """:param synced: called with the duration of each sync of a file in seconds."""
        self.found = found
        self.volume_id = volume_id
        self.drained = False
        self.failed = False
        self.gone = False
        self.pool = AbandonableThreadPool(0, THREADS, name=f"volume {volume_id}")
        self.appender = VolumeAppender(reactor, self.pool, synced, disk_threads(reactor))

    async def leave(self, reactor: Any, seconds: float) -> bool:
        """End the threads; wait at most *seconds* for them.

        Returns whether they have ended.
        """
        end = reactor.seconds() + seconds
        has_left = await self.appender.leave(seconds)
        return await self.pool.leave(reactor, max(0.0, end - reactor.seconds())) and has_left


class OpenFile:
    """A file opened for one pipeline; see `stream.storage.network.interface.SliceFile`."""

    def __init__(
        self,
        writer: StorageWriter,
        key: _FileKey,
        volume: OpenVolume,
        disk: DiskFile,
        listener: SliceFileListener,
        path: str,
    ) -> None:
        self.length = disk.length
        self._path = path
        self.key = key
        self.listener = listener
        self.volume = volume
        self.appender = volume.appender
        self._writer = writer
        self._disk = disk
        self._refusal: WriterError | None = None
        self._closing: Deferred[Any] | None = None

    def append(
        self, offset: int, data: bytes, *, level: SyncLevel, crc: int | None = None
    ) -> Deferred[int]:
        """Append data; see `stream.storage.network.interface.SliceFile.append`.

        :param crc: expected CRC-32 of the data if it comes from another process.
        """
        if self._refusal is not None:
            return fail(self._refusal)
        if self.volume.gone:
            return fail(_missing(self.volume))
        marks = marks_of(data)
        if not marks:
            appended = self.appender.append(self._disk, offset, data, level, crc)
            return appended.addErrback(self._failed)
        sink, end = self.key[0].sink_key, offset + len(data)
        try:
            ended_ = self._writer.requests.appending(self._path, sink, end, marks)
        except WriterError as error:
            return fail(error)
        appended = self.appender.append(self._disk, offset, data, level, crc)
        return settled(appended, ended_).addErrback(self._failed)

    def _failed(self, failure: Failure) -> Failure:
        if self._disk.broken and self._closing is None and isinstance(failure.value, WriterError):
            _log.error(
                "abandoning a slice file: {error}", error=failure.value, slice_id=str(self.key[0])
            )
            self.volume.failed = self.volume.failed or self._disk.is_fault
            self.end(failure.value)
        return failure

    def close(self) -> Deferred[None]:
        """Close the file after its earlier appends are written and synced."""
        return self._close(WriterUnavailable("the file is closed"))

    @property
    def is_closing(self) -> bool:
        """Whether the file is closed, or will be when its appends are written."""
        return self._closing is not None

    def refuse(self, reason: WriterError) -> None:
        """Refuse queued appends."""
        self._disk.refuse(reason)

    def end(self, reason: WriterError) -> Deferred[None]:
        """Close the file on the writer's initiative.

        The pipeline is notified, and queued appends are refused.
        """
        if self._closing is None:
            self.refuse(reason)
            self._close(reason)
            self.listener.lost(reason)
        return self._close(reason)

    def _close(self, refusal: WriterError) -> Deferred[None]:
        if self._closing is None:
            self._refusal = refusal
            self._closing = self.appender.close(self._disk)
            self._closing.addErrback(
                lambda failure: _log.failure("cannot close a slice file", failure)
            )
            self._closing.addCallback(lambda _: self._writer.forget(self))
        return ended(self._closing)


@attrs.define(eq=False)
class _Turn:
    """An opening of a file that waits or runs; see Note [One opening at a time].

    :ivar sealed: whether the slice was sealed while the file was being opened.
    """

    lock: DeferredLock = attrs.Factory(DeferredLock)
    users: int = 0
    sealed: bool = False


class StorageWriter:
    """A `stream.storage.network.interface.SliceOpener` for the volumes of this node.

    :param damaged: called with each file that was repaired after its damaged content was
        quarantined.
    :param register: reads the state from etcd, since a mirror may lag behind the pipeline.
    :param opened: called with the slice, the source node and the path of each opened file.

    :ivar requests: requests with idempotency keys whose rows are on the volumes.
    """

    def __init__(
        self,
        reactor: Any,
        register: Register,
        damaged: Callable[[SliceKey], None] = lambda _: None,
        requests: Requests | None = None,
        opened: Callable[[SliceKey, str, Path], None] = lambda *_: None,
    ) -> None:
        self._opened = opened
        self.requests = requests or Requests(DEFAULT_SECONDS, DEFAULT_KEYS, reactor.seconds)
        self._reactor = reactor
        self._damaged = damaged
        self._register = register
        self._volumes: dict[str, OpenVolume] = {}
        self._files: dict[SliceKey, dict[str, OpenFile]] = {}
        self._turns: dict[_FileKey, _Turn] = {}
        self._draining = False

    def add_volume(self, volume: OpenVolume) -> None:
        """Add a volume on which slices can be opened."""
        self._volumes[volume.volume_id] = volume

    def has_volume(self, volume_id: str) -> bool:
        """Return whether the volume is open in this writer."""
        return volume_id in self._volumes

    @property
    def open_files(self) -> int:
        """The number of files that aren't closed yet."""
        return sum(len(files) for files in self._files.values())

    @property
    def open_slices(self) -> list[SliceKey]:
        """The slices whose files are open."""
        return list(self._files)

    async def enquire(self, enquiries: Sequence[Enquiry]) -> list[list[StoredRows]]:
        """Return which rows of requests are stored; see `stream.storage.writer.requests`."""
        return await self.requests.enquire(enquiries)

    # Opening.

    async def check_life(self, source: SourceLife) -> None:
        """Check that *source* is the current life. Raises `Fenced`; see Note [Fencing]."""
        try:
            present = await self._register.life_of(source.node_id)
        except Exception as error:
            raise WriterUnavailable(f"the life of the node is unknown: {error}") from error
        _check_number(source, present)

    def open(
        self, slice_: Slice, source: SourceLife, listener: SliceFileListener, *, resume: int = -1
    ) -> Deferred[SliceFile]:
        waiting: Deferred[SliceFile] = Deferred()

        def opened(file: OpenFile) -> None:
            if waiting.called:  # cancelled: a thread can't be interrupted
                file.close()
            else:
                waiting.callback(file)

        opening = ensureDeferred(self.open_file(slice_.key, source, listener, resume))
        opening.addCallbacks(opened, lambda f: None if waiting.called else waiting.errback(f))
        return waiting

    def available(self, slice_: Slice) -> Deferred[None]:
        """Return a Deferred that never fires, since a local writer is never unavailable."""
        return Deferred()

    async def open_file(
        self, slice_key: SliceKey, source: SourceLife, listener: SliceFileListener, resume: int
    ) -> OpenFile:
        """Open or create the file of a slice; must not be cancelled.

        See `stream.storage.network.interface.SliceOpener.open`.
        """
        key = (slice_key, source.node_id)
        turn = self._turns.setdefault(key, _Turn())
        turn.users += 1
        try:
            await turn.lock.acquire()
            try:
                return await self._open_alone(turn, slice_key, source, listener, resume)
            finally:
                turn.lock.release()
        finally:
            turn.users -= 1
            if not turn.users:
                del self._turns[key]

    async def _open_alone(
        self,
        turn: _Turn,
        slice_key: SliceKey,
        source: SourceLife,
        listener: SliceFileListener,
        resume: int,
    ) -> OpenFile:
        key = (slice_key, source.node_id)
        volume = self._volume_for(slice_key.volume_id, resume)
        turn.sealed = False
        slice_ = await self._look_up(slice_key, source)
        path = _path_of(volume.found.path, slice_.local, source.node_id)
        older = self._files.get(slice_key, {}).get(source.node_id)
        if older is not None:
            await older.end(WriterUnavailable("the file was opened again"))
        if resume >= 0:
            self.requests.cut(str(path), resume)
        try:
            disk = await volume.appender.run(
                lambda: open_disk_file(
                    path,
                    volume.found.path,
                    life=source.number,
                    resume=resume,
                    compression=slice_.compression,
                    reserve=slice_.local.allocated_disk_space,
                )
            )
        except NoThread as error:
            raise WriterUnavailable(f"cannot open the slice file: {error.strerror}") from None
        if disk.quarantined is not None:
            _log.error(
                "a slice file was damaged: readable parts are kept, the original is {damaged}",
                damaged=str(disk.quarantined),
                slice_id=str(slice_key),
            )
            self._damaged(slice_key)
        file = OpenFile(self, key, volume, disk, listener, str(path))
        self._files.setdefault(slice_key, {})[source.node_id] = file
        refusal = await self._refusal(turn, slice_key, source)
        if refusal is not None:
            await file.close()
            raise refusal
        self._opened(slice_key, source.node_id, path)
        return file

    async def _refusal(self, turn: _Turn, key: SliceKey, source: SourceLife) -> WriterError | None:
        """Return why a file just opened must not be used; see Note [Sealing] and Note [Fencing]."""
        try:
            await self._look_up(key, source)
        except WriterError as error:
            return error
        if self._draining:
            return _draining()
        return _sealed(key) if turn.sealed else None

    def _volume_for(self, volume_id: str, resume: int) -> OpenVolume:
        if self._draining:
            raise _draining()
        volume = self._volumes.get(volume_id)
        if volume is None:
            raise WriterUnavailable(f'volume "{volume_id}" is not on this node')
        if volume.gone:
            raise _missing(volume)
        # A resumed file was opened before the volume was drained.
        if volume.drained and resume < 0:
            raise WriterDraining(f'volume "{volume.volume_id}" is drained')
        return volume

    async def _look_up(self, key: SliceKey, source: SourceLife) -> WrittenSlice:
        """Look up the slice and the node.

        Raises SliceSealed, Fenced: the file must not be opened. Raises WriterUnavailable: etcd
        can't be read.
        """
        try:
            slice_, present = await self._register.look_up(key, source.node_id)
        except Exception as error:
            raise WriterUnavailable(f"the state of the slice is unknown: {error}") from error
        if slice_ is None:
            raise _sealed(key)
        _check_number(source, present)
        return slice_

    def forget(self, file: OpenFile) -> None:
        """Remove a closed file from the open files."""
        key, source_node_id = file.key
        files = self._files.get(key, {})
        if files.get(source_node_id) is file:
            del files[source_node_id]
            if not files:
                del self._files[key]

    # Ending.

    def seal(self, key: SliceKey) -> None:
        """Refuse all further appends, because the slice is no longer in a writable state."""
        for file in list(self._files.get(key, {}).values()):
            file.end(_sealed(key))
        for (slice_key, _), turn in self._turns.items():
            if slice_key == key:
                turn.sealed = True

    def lose_volume(self, volume: OpenVolume) -> None:
        """Stop writing to the volume, because the data would be lost; see Note [Many files]."""
        volume.gone = True
        reason = _missing(volume)
        lost = [file for file in self._all_files() if file.volume is volume]
        for file in lost:
            file.refuse(reason)
        begin_in_turns(
            lost,
            lambda file: file.end(reason),
            self._reactor,
            "cannot end a slice file of a missing volume",
        )

    def drain(self) -> None:
        """Open no more files, and ask every pipeline to leave; see Note [Many files]."""
        self._draining = True

        def ask(file: OpenFile) -> None:
            if not file.is_closing:  # otherwise the pipeline may already use another file
                file.listener.draining()

        begin_in_turns(self._all_files(), ask, self._reactor, "cannot ask a pipeline to leave")

    async def close(self) -> None:
        """Close every file; see Note [Many files].

        A file that is still being opened is closed at the end of its opening.
        """
        self._draining = True
        ending: list[Deferred[None]] = []
        reason = WriterDraining("the writer stopped")
        await in_turns(
            self._all_files(), lambda file: ending.append(file.end(reason)), self._reactor
        )
        for turn in list(self._turns.values()):
            await turn.lock.run(lambda: None)
        # A caller whose wait ends cancels them.
        await DeferredList(ending, consumeErrors=True)

    def _all_files(self) -> list[OpenFile]:
        return [file for files in self._files.values() for file in files.values()]


def _missing(volume: OpenVolume) -> WriterUnavailable:
    return WriterUnavailable(f'volume "{volume.volume_id}" is missing')


def _draining() -> WriterDraining:
    return WriterDraining("disk writer node is terminating")


def _sealed(key: SliceKey) -> SliceSealed:
    return SliceSealed(f"the slice {key} is no longer written")


def _check_number(source: SourceLife, present: int) -> None:
    if source.number != present or not present:
        raise Fenced(
            f'life {source.number} of the source node "{source.node_id}" has ended'
            + (f", the current life is {present}" if present else "")
        )


def _path_of(root: Path, local: LocalSlice, source_node_id: str) -> Path:
    """Return the path of one source node's file of a slice.

    Raises WriterUnavailable: the path would be outside the slice's directory, because of the node's
    name, which another process has sent.
    """
    path = root / local.dir / local.filename(source_node_id)
    inside = path.parent.parent != root and root in path.parents
    if ".." in path.parts or "/" in source_node_id or "\0" in str(path) or not inside:
        raise WriterUnavailable("the slice has no valid directory")
    return path
