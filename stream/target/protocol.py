"""The interface of a target, a kind of table that files are imported into.

The storage model (files, slices, states, rotation, statistics, retries) doesn't depend on a target;
it calls these methods. A target is selected by the type of a sink's table; see
`stream.target.registry`. Its methods may be called by any node, repeatedly, and concurrently. It
keeps its state in etcd or in the target system.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any, Protocol, runtime_checkable

import attrs
from twisted.application.service import IService
from twisted.python.threadpool import ThreadPool

from stream.definition.entity import Sink
from stream.definition.key import BranchKey, SinkKey
from stream.encryption.interface import Encryptor
from stream.etcd import AtomicTxn, EtcdClient, Lock, Session
from stream.ops.metrics.registry import Metrics
from stream.settings import Settings
from stream.staging import Chunks, StagingError
from stream.storage.model.entity import File, Slice
from stream.storage.model.key import FileKey, JobKey
from stream.storage.model.statistics import Statistics
from stream.storage.store.prepared import FileProvider
from stream.target.staged import StagingArea

__all__ = [
    "PREVIEW_CHARACTERS",
    "RECORD_KINDS",
    "Preview",
    "Previewing",
    "Probing",
    "Quarantine",
    "Staged",
    "StagingReplaced",
    "Target",
    "TargetContext",
    "TargetFactory",
    "TargetUnavailable",
    "file_record",
]


@attrs.frozen(kw_only=True)
class TargetContext:
    """Resources of the process for targets; none is started when the target is made.

    :ivar client: client of etcd.
    :ivar session: the lease of the node, for locks.
    :ivar encryptor: encrypts secrets stored in etcd.
    :ivar pool: threads for uploads and compression; started with the process.
    :ivar now: the time in UTC.
    :ivar staging: staging for targets without staging storage of their own; ``None`` in a process
        that neither uploads nor imports nor replays, or without declared connections.
    """

    settings: Settings
    reactor: Any
    client: EtcdClient
    session: Session
    encryptor: Encryptor
    pool: ThreadPool
    metrics: Metrics
    now: Callable[[], datetime]
    staging: StagingArea | None = None


class StagingReplaced(Exception):
    """The file's staging storage was replaced during the upload of a slice."""


class TargetUnavailable(StagingError):
    """The target of a file is unavailable now, so the records of the file must be kept.

    :param place: the same for all files that this concerns, such as the name of a connection.
    """

    def __init__(self, message: str, place: str) -> None:
        super().__init__(message)
        self.place = place


@attrs.frozen
class Staged:
    """A slice in staging storage that is about to be marked as uploaded.

    :ivar lock: required by the transaction that marks it; ``None`` if none is needed.
    :ivar check: awaited in this transaction. Raises `StagingReplaced` unless the file is imported
        from the storage that the slice was uploaded to.
    """

    lock: Lock | None
    check: Callable[[AtomicTxn], Awaitable[None]]


@attrs.frozen(kw_only=True)
class Quarantine:
    """Rows of a file that its target has refused.

    :ivar records_count: number of rows that are or will be quarantined.
    :ivar reason: why the target refused them.
    :ivar is_finished: whether every refused row has been found and stored.
    :ivar file_id: id of the file in the project's file storage with the rows, once stored.
    :ivar table: the table with the rows, for targets with quarantine tables.
    """

    records_count: int
    reason: str
    is_finished: bool
    file_id: int | None = None
    table: str = ""


@attrs.frozen
class Preview:
    """Some rows of a table, for people.

    :ivar rows: a text for each column, at most `PREVIEW_CHARACTERS` long; ``None`` for no value.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str | None]]


PREVIEW_CHARACTERS = 1000


class Target(FileProvider, Protocol):
    """A kind of table. `FileProvider` is the part that prepares new files.

    :ivar name: the ``type`` of its tables, and the ``provider`` in the records of files.
    :ivar services: started before the target is used, in this order, and stopped after it.
    :ivar import_services: services of nodes that import files (coordinators).
    """

    @property
    def name(self) -> str:
        """The name of the target, as in the type of a sink's table."""

    @property
    def services(self) -> Sequence[IService]:
        """The services that every node with the target runs."""

    @property
    def import_services(self) -> Sequence[IService]:
        """The services that a coordinator runs for imports."""

    # Reader: upload of slices.

    def upload(self, slice_: Slice, chunks: Chunks) -> AbstractAsyncContextManager[Staged]:
        """Store the rows of *slice_* in staging storage; repeated calls store the same.

        The caller marks the slice as uploaded inside the context.

        Raises StagingError: says whether a retry can help.

        :param chunks: returns the compressed bytes; read in a thread.
        """

    async def report_upload(
        self, slice_: Slice, seconds: float, error: Exception | None, statistics: Statistics
    ) -> None:
        """Notify the project of an attempted upload; problems are only logged."""

    # Coordinator: import of files.

    def may_import(self, file: FileKey) -> bool:
        """Return whether the target accepts one more file of the sink now."""

    async def import_file(self, file: File) -> int:
        """Import each row of the file once, regardless of repeated calls and crashes.

        Raises `Requeue` if the work doesn't fit into one attempt.

        :returns: the number of its rows that were refused and are quarantined.
        """

    def running_jobs(self) -> Sequence[JobKey]:
        """Return the running jobs of the target; each occupies a slot of its sink."""

    async def forget_finished(self, job: JobKey) -> bool:
        """Delete the record of a job that isn't running; return False if it is kept."""

    def file_records(self, file: FileKey) -> Sequence[str]:
        """Return the etcd keys that are deleted with the file, each from `file_record`."""

    async def delete_staged(self, file: FileKey) -> None:
        """Remove the staged objects of *file*, whose records are deleted next; idempotent.

        Raises `StagingError` if something is left, and `TargetUnavailable` if nothing of the same
        place can be removed now; the records stay then, and it is called again.
        """

    # API: views and deletion.

    async def quarantines(self, below: BranchKey | SinkKey) -> Mapping[FileKey, Quarantine]:
        """Return the files of a sink, or of a branch, with refused rows."""

    async def delete_tables(self, sinks: Sequence[Sink], *, token: str) -> None:
        """Delete the tables of *sinks* that were deleted for good.

        Raises UserError: lists what could not be deleted; everything else is deleted.

        :param token: token of the user.
        """


@runtime_checkable
class Previewing(Protocol):
    """A `Target` that can read its tables: not every one can."""

    async def preview(self, sink: Sink, limit: int, *, token: str) -> Preview:
        """Return the first rows of the table of *sink*, with the columns of its mapping.

        Raises UserError: 404 ``tableNotFound`` if there is no table.

        :param sink: with the content of its mapping.
        :param token: token of the user.
        """


@runtime_checkable
class Probing(Protocol):
    """A `Target` that can check whether a connection of its type answers: not every one can."""

    async def prepare_probe(self, connection: str) -> None:
        """Get ready to `probe` the *connection*, such as by the start of a process.

        Its time doesn't count.
        """

    async def probe(self, connection: str) -> None:
        """Try the *connection*, within seconds.

        Raises UserError: it doesn't answer. Every user of the project sees the message, so it
        contains neither host nor user; the log has the details.
        """


def file_record(target: str, kind: str, file: FileKey) -> str:
    """Return the etcd key of a target's record of a file.

    :param target: its name.
    :param kind: one of `RECORD_KINDS`, so that a process without the target can delete the records.
    """
    return f"storage/{target}/{kind}/{file}"


RECORD_KINDS = ("file", "quarantine")
"""``file``: the destination; ``quarantine``: the refused rows."""

TargetFactory = Callable[[TargetContext], Target]
"""Makes a target without opening anything."""
