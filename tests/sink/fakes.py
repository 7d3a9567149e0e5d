"""A writer in memory whose answers the test chooses, and requests that record their answer."""

from __future__ import annotations

import attrs
from twisted.internet.defer import Deferred, fail, succeed

from stream.errors import UserError
from stream.storage.model.entity import Slice
from stream.storage.model.marks import marks_of
from stream.storage.network.interface import (
    ContentConflict,
    SliceFile,
    SliceFileListener,
    SourceLife,
    Superseded,
    SyncLevel,
    WriterError,
    WrongOffset,
)

__all__ = ["FakeCompletion", "FakeOpener", "FakeSliceFile"]


@attrs.define(eq=False)
class FakeCompletion:
    """A completion that records its outcome.

    :ivar outcome: ``stored``, the error, or ``None`` while unanswered.
    """

    outcome: str | UserError | None = None

    def stored(self) -> None:
        assert self.outcome is None, "answered twice"
        self.outcome = "stored"

    def accepted(self, status: int) -> None:
        assert self.outcome is None, "answered twice"
        self.outcome = f"accepted {status}"

    def failed(self, error: Exception) -> None:
        assert self.outcome is None, "answered twice"
        assert isinstance(error, UserError), error
        self.outcome = error


@attrs.define(eq=False)
class FakeSliceFile:
    """A slice file in memory. Appends wait until the test answers them, unless `at_once`.

    :ivar disk: the stored content, shared by all openings of the slice.
    :ivar waiting: unanswered appends.
    :ivar answers_close: whether the writer confirms that it has closed the file.
    :ivar superseded: keys of requests that have another attempt meanwhile.
    """

    disk: bytearray
    at_once: bool
    length: int = 0
    closed: bool = False
    answers_close: bool = True
    waiting: list[tuple[int, bytes, Deferred[int]]] = attrs.Factory(list)
    levels: list[SyncLevel] = attrs.Factory(list)
    superseded: set[bytes] = attrs.Factory(set)

    def append(self, offset: int, data: bytes, *, level: SyncLevel) -> Deferred[int]:
        self.levels.append(level)
        superseded = self.superseded & {mark.key for mark in marks_of(data)}
        if superseded:
            return fail(Superseded("another attempt", frozenset(superseded)))
        if self.at_once:
            return self._store(offset, data)
        answer: Deferred[int] = Deferred()
        self.waiting.append((offset, data, answer))
        return answer

    def _store(self, offset: int, data: bytes) -> Deferred[int]:
        if bytes(self.disk[offset : offset + len(data)]) == data:
            return succeed(offset + len(data))
        if offset + len(data) <= len(self.disk):
            return fail(ContentConflict("other bytes are stored"))
        if offset != len(self.disk):
            return fail(WrongOffset(len(self.disk)))
        self.disk += data
        return succeed(len(self.disk))

    def answer(self) -> None:
        """Store the oldest waiting append and acknowledge it."""
        offset, data, answer = self.waiting.pop(0)
        self._store(offset, data).chainDeferred(answer)

    def refuse(self, error: WriterError, *, stored: bool = False) -> None:
        """Fail the oldest waiting append; *stored* if its bytes nevertheless reached the disk."""
        offset, data, answer = self.waiting.pop(0)
        if stored:
            self._store(offset, data)
        answer.errback(error)

    def close(self) -> Deferred[None]:
        self.closed = True
        return succeed(None) if self.answers_close else Deferred()


@attrs.define(eq=False)
class FakeOpener:
    """Opens slice files in memory.

    :ivar files: every opened file, the latest last.
    :ivar refusals: errors of the next openings.
    :ivar absent: Deferreds of pipelines that wait for the writer.
    :ivar held: if set, openings wait for `release`.
    """

    at_once: bool = True
    disk: dict[str, bytearray] = attrs.Factory(dict)
    files: list[FakeSliceFile] = attrs.Factory(list)
    listeners: list[SliceFileListener] = attrs.Factory(list)
    refusals: list[WriterError] = attrs.Factory(list)
    held: bool = False
    resumes: list[int] = attrs.Factory(list)
    lives: list[SourceLife] = attrs.Factory(list)
    absent: list[Deferred[None]] = attrs.Factory(list)
    _waiting: list[tuple[Deferred[SliceFile], FakeSliceFile]] = attrs.Factory(list)

    def open(
        self, slice_: Slice, source: SourceLife, listener: SliceFileListener, *, resume: int = -1
    ) -> Deferred[SliceFile]:
        self.resumes.append(resume)
        self.lives.append(source)
        if self.refusals:
            return fail(self.refusals.pop(0))
        disk = self.disk.setdefault(str(slice_.key), bytearray())
        if resume >= 0:
            del disk[resume:]
        file = FakeSliceFile(disk, self.at_once, len(disk))
        self.files.append(file)
        self.listeners.append(listener)
        if self.held:
            opened: Deferred[SliceFile] = Deferred()
            self._waiting.append((opened, file))
            return opened
        return succeed(file)

    def available(self, slice_: Slice) -> Deferred[None]:
        waiting: Deferred[None] = Deferred(lambda cancelled: self.absent.remove(cancelled))
        self.absent.append(waiting)
        return waiting

    def release(self) -> None:
        waiting, self._waiting = self._waiting, []
        for opened, file in waiting:
            if opened.called:  # cancelled
                file.close()
            else:
                opened.callback(file)
