"""What a sink pipeline needs of a writer, whichever process the writer runs in.

Two providers exist, the writer in the same process and the client of a remote one; both pass the
same contract tests.
"""

from __future__ import annotations

import enum
from typing import Protocol

import attrs
from twisted.internet.defer import Deferred

from stream.storage.model.entity import Slice

__all__ = [
    "ContentConflict",
    "Fenced",
    "NoSpace",
    "SliceFile",
    "SliceFileListener",
    "SliceOpener",
    "SliceSealed",
    "SourceLife",
    "SyncLevel",
    "WriterDraining",
    "WriterError",
    "WriterUnavailable",
    "WrongOffset",
]


class SyncLevel(enum.IntEnum):
    """What an append waits for."""

    NONE = 0
    """Queued by the writer."""
    WRITTEN = 1
    """In the operating system's cache of the writer's host: survives a crash of any process."""
    SYNCED = 2
    """On the disk (fdatasync): survives a loss of power."""


class WriterError(Exception):
    """An append or an opening failed; the data of the failed append aren't acknowledged."""


class WriterUnavailable(WriterError):
    """No connection or no answer: what was sent may or may not be stored."""


class WriterDraining(WriterError):
    """The writer is stopping or the volume is drained: nothing new is opened."""


class NoSpace(WriterError):
    """The volume is full; nothing of the append is kept."""


class SliceSealed(WriterError):
    """The slice has left the states in which it may be written; nothing of the append is kept."""


class Fenced(WriterError):
    """The source node has lost its name to a later life: it may write nothing any more."""


class ContentConflict(WriterError):
    """Other bytes are stored where the append says that its own are; they stay as they are."""


class WrongOffset(WriterError):
    """The append doesn't continue the file and isn't a repetition of its end.

    :ivar length: bytes that the file really has.
    """

    def __init__(self, length: int) -> None:
        super().__init__(f"the file has {length} bytes")
        self.length = length


@attrs.frozen
class SourceLife:
    """Who writes: a source node, and which of its lives.

    :ivar number: see `stream.etcd.claims`.
    """

    node_id: str
    number: int


class SliceFile(Protocol):
    """An open file of one slice and one source node.

    :ivar length: bytes in the file when it was opened; the offset of the first append.
    """

    length: int

    def append(self, offset: int, data: bytes, *, level: SyncLevel) -> Deferred[int]:
        """Append *data*, which must end at a position up to which the file can be read.

        :param offset: the length of the file before. A repetition of an earlier append is
            recognised by its place and its bytes and acknowledged, not written twice; other bytes
            at a place already taken fail with `ContentConflict`.
        :returns: fires with the new length once *level* is reached; fails with a `WriterError`.
        """

    def close(self) -> Deferred[None]:
        """Sync and close. Nothing may be appended afterwards. Fires also if the file is lost."""


class SliceFileListener(Protocol):
    """Called by the writer about a file that it has opened."""

    def draining(self) -> None:
        """The writer is about to stop: flush and close soon."""

    def lost(self, reason: WriterError) -> None:
        """The file can't be used any more (connection lost, slice sealed, disk failed)."""


class SliceOpener(Protocol):
    """Opens files of slices on whichever node has the slice's volume."""

    def open(
        self, slice_: Slice, source: SourceLife, listener: SliceFileListener, *, resume: int = -1
    ) -> Deferred[SliceFile]:
        """Open or create the file of *slice_* that *source* writes.

        :param resume: bytes acknowledged to this very life; the file is cut to it if longer. -1 if
            the caller knows of none: then the file is cut after the last whole part that can be
            read.
        :returns: fires with the file; fails with a `WriterError`, for one `Fenced` if the life
            isn't the present one of its node.
        """

    def available(self, slice_: Slice) -> Deferred[None]:
        """Fires when a further attempt to open *slice_* need not wait; may be cancelled.

        That is when the writer of its volume has just answered again, or has just registered the
        volume.
        """
