"""The interface between sink pipelines and writers.

It has two implementations: the writer in the same process and the client of a remote writer. Both
pass the same contract tests.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Sequence
from typing import Protocol

import attrs
from twisted.internet.defer import Deferred

from stream.definition.key import SinkKey
from stream.storage.model.entity import Slice

__all__ = [
    "UNKNOWN_OWNER",
    "ContentConflict",
    "Enquiry",
    "Fenced",
    "LocalWriter",
    "NoSpace",
    "SliceFile",
    "SliceFileListener",
    "SliceOpener",
    "SliceSealed",
    "SourceLife",
    "StoredRows",
    "Superseded",
    "SyncLevel",
    "WriterDraining",
    "WriterError",
    "WriterUnavailable",
    "WrongOffset",
]


class SyncLevel(enum.IntEnum):
    """The durability that an append waits for."""

    NONE = 0
    """Queued by the writer."""
    WRITTEN = 1
    """Written to the writer host's page cache: survives a crash of any process."""
    SYNCED = 2
    """Written to the disk (fdatasync): survives a power failure."""


class WriterError(Exception):
    """Opening a file or appending to it failed; the data of a failed append isn't acknowledged."""


class WriterUnavailable(WriterError):
    """No connection or no answer: the sent data may or may not be stored."""


class WriterDraining(WriterError):
    """The writer is stopping or the volume is drained; no new files are opened."""


class NoSpace(WriterError):
    """The volume is full; no data of the append is kept."""


class SliceSealed(WriterError):
    """The slice is no longer in a writable state; no data of the append is kept."""


class Fenced(WriterError):
    """The source node has lost its name to a later life and must not write any longer."""


class Superseded(WriterError):
    """Another attempt of a request may have been made; no data of the append is kept.

    Only requests with an idempotency key are refused in this way.

    :ivar keys: the keys of these requests; empty if the writer doesn't name them.
    """

    def __init__(self, message: str, keys: frozenset[bytes] = frozenset()) -> None:
        super().__init__(message)
        self.keys = keys


class ContentConflict(WriterError):
    """Other bytes are already stored at the position of the append; they remain unchanged."""


class WrongOffset(WriterError):
    """The append neither continues the file nor repeats its end.

    :ivar length: current length of the file in bytes.
    """

    def __init__(self, length: int) -> None:
        super().__init__(f"the file is {length} bytes long")
        self.length = length


@attrs.frozen
class SourceLife:
    """A source node and one of its lives.

    :ivar number: see `stream.etcd.claims`.
    """

    node_id: str
    number: int


UNKNOWN_OWNER = (0, b"")


@attrs.frozen
class Enquiry:
    """Asks which rows of a request are stored; from then on, no other attempt may store any.

    :ivar key: digest of the project, source and idempotency key; see `stream.storage.model.marks`.
    :ivar attempt: the attempt that is about to carry the request out.
    :ivar owner: the project, and the digest of the source; `UNKNOWN_OWNER` if a source node of an
        earlier version asks.
    """

    key: bytes
    attempt: bytes
    owner: tuple[int, bytes] = UNKNOWN_OWNER


@attrs.frozen
class StoredRows:
    """States that the rows of a request are stored for a sink.

    :ivar content: digest of the request's content.
    """

    sink: SinkKey
    content: bytes


class SliceFile(Protocol):
    """An open file of one slice and one source node.

    :ivar length: length of the file when it was opened, which is the offset of the first append.
    """

    length: int

    def append(self, offset: int, data: bytes, *, level: SyncLevel) -> Deferred[int]:
        """Append *data*, which must end where a part of the file ends.

        :param offset: the length of the file before this append. A repetition of an earlier append
            is recognized by its position and bytes, and acknowledged without being written again.
            Other bytes at an occupied position fail with `ContentConflict`.
        :returns: a Deferred that fires with the new length once *level* is reached, or fails with a
            `WriterError`.
        """

    def close(self) -> Deferred[None]:
        """Sync and close the file; nothing may be appended afterwards.

        The Deferred fires even if the file is lost.
        """


class SliceFileListener(Protocol):
    """Receives the writer's notifications about an open file."""

    def draining(self) -> None:
        """The writer is about to stop: flush and close soon."""

    def lost(self, reason: WriterError) -> None:
        """The file can no longer be used (lost connection, sealed slice, failed disk)."""


class LocalWriter(Protocol):
    """The writer in the same process."""

    def open(
        self, slice_: Slice, source: SourceLife, listener: SliceFileListener, *, resume: int = -1
    ) -> Deferred[SliceFile]:
        """Open or create a file, as in `SliceOpener`."""

    def enquire(self, enquiries: Sequence[Enquiry]) -> Awaitable[list[list[StoredRows]]]:
        """Return which rows of requests are stored; see `stream.storage.writer.requests`."""


class SliceOpener(Protocol):
    """Opens files of slices on the node that holds the slice's volume."""

    def open(
        self, slice_: Slice, source: SourceLife, listener: SliceFileListener, *, resume: int = -1
    ) -> Deferred[SliceFile]:
        """Open or create the file of *slice_* that *source* writes.

        :param resume: number of bytes acknowledged to this life; a longer file is truncated to this
            length. With -1, for a caller that doesn't know it, the file is truncated after its last
            complete part.
        :returns: a Deferred that fires with the file, or fails with a `WriterError`, for example
            `Fenced` if the life isn't the node's current one.
        """

    def available(self, slice_: Slice) -> Deferred[None]:
        """Return a Deferred that fires when opening *slice_* may be retried; may be cancelled.

        It fires when the writer that holds the slice's volume responds again or registers the
        volume.
        """
