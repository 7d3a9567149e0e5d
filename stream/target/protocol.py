"""The interface of a target, which stands for one kind of table that files are imported into.

The storage model (files, slices, states, rotation, statistics, retries) doesn't depend on the
target; it calls the target through this interface. A target is selected by the type of a sink's
table; see `stream.target.registry`. Its methods may be called by any node, repeatedly, and
concurrently. It keeps its state in etcd or in the target system.
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
    """The resources of the process that targets use; none is started when a target is created.

    :ivar client: etcd client.
    :ivar session: etcd session with the node's lease, for locks.
    :ivar encryptor: encrypts secrets stored in etcd.
    :ivar pool: threads for uploads and compression; started with the process.
    :ivar now: returns the current time in UTC.
    :ivar staging: staging area for targets without their own staging storage. ``None`` if no
        connections are declared, or in a process that doesn't upload, import or replay.
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
    """The file's staging storage was replaced while a slice was uploaded."""


class TargetUnavailable(StagingError):
    """The target of a file is currently unavailable, so the file's records must be kept.

    :param place: what is unavailable, such as the name of a connection; the same for all affected
        files.
    """

    def __init__(self, message: str, place: str) -> None:
        super().__init__(message)
        self.place = place


@attrs.frozen
class Staged:
    """A slice in staging storage that is about to be marked as uploaded.

    :ivar lock: lock that the transaction that marks the slice requires; ``None`` if none is needed.
    :ivar check: awaited in this transaction. It raises `StagingReplaced` unless the file will be
        imported from the storage that the slice was uploaded to.
    """

    lock: Lock | None
    check: Callable[[AtomicTxn], Awaitable[None]]


@attrs.frozen(kw_only=True)
class Quarantine:
    """The rows of a file that its target refused.

    :ivar records_count: number of rows that are or will be quarantined.
    :ivar reason: why the target refused the rows.
    :ivar is_finished: whether every refused row has been found and stored.
    :ivar file_id: ID of the file in the project's file storage that contains the rows, once stored.
    :ivar table: name of the table with the rows, for targets with quarantine tables.
    """

    records_count: int
    reason: str
    is_finished: bool
    file_id: int | None = None
    table: str = ""


@attrs.frozen
class Preview:
    """Some rows of a table, to be shown to users.

    :ivar rows: for each row, a string of at most `PREVIEW_CHARACTERS` for each column; ``None`` for
        no value.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str | None]]


PREVIEW_CHARACTERS = 1000


class Target(FileProvider, Protocol):
    """A kind of table that files are imported into.

    The inherited `FileProvider` prepares new files.

    :ivar name: name of the target, used as the ``type`` of its tables and the ``provider`` in
        records of files.
    :ivar services: started before the target is used, in this order, and stopped after it.
    :ivar import_services: additional services of the nodes that import files (coordinators).
    """

    @property
    def name(self) -> str:
        """The name of the target, which is the ``type`` of its tables."""

    @property
    def services(self) -> Sequence[IService]:
        """The services that every node with the target runs."""

    @property
    def import_services(self) -> Sequence[IService]:
        """The services that a coordinator runs for imports."""

    # Reader: upload of slices.

    def upload(self, slice_: Slice, chunks: Chunks) -> AbstractAsyncContextManager[Staged]:
        """Store the rows of *slice_* in staging storage; repeated calls store the same object.

        The caller marks the slice as uploaded inside the context.

        Raises StagingError: says whether a retry can help.

        :param chunks: returns the compressed bytes; read in a thread.
        """

    async def report_upload(
        self, slice_: Slice, seconds: float, error: Exception | None, statistics: Statistics
    ) -> None:
        """Notify the project of an attempted upload; failures are only logged."""

    # Coordinator: import of files.

    def may_import(self, file: FileKey) -> bool:
        """Return whether the target now accepts another file of the sink."""

    async def import_file(self, file: File) -> int:
        """Import each row of the file once, regardless of repeated calls and crashes.

        Raises `Requeue` if the work doesn't fit into one attempt.

        :returns: the number of rows that were refused and are quarantined.
        """

    def running_jobs(self) -> Sequence[JobKey]:
        """Return the target's running jobs, each of which occupies a slot of its sink."""

    async def forget_finished(self, job: JobKey) -> bool:
        """Delete the record of a job that isn't running; return False if the record is kept."""

    def file_records(self, file: FileKey) -> Sequence[str]:
        """Return the etcd keys to delete with the file, each made by `file_record`."""

    async def delete_staged(self, file: FileKey) -> None:
        """Remove the staged objects of *file*, whose records are deleted next; idempotent.

        Raises `StagingError` if some objects remain, and `TargetUnavailable` if no objects at the
        same place can be removed at present. The records are then kept, and the method is called
        again.
        """

    # API: views and deletion.

    async def quarantines(self, below: BranchKey | SinkKey) -> Mapping[FileKey, Quarantine]:
        """Return the quarantines of the files of a sink or a branch."""

    async def delete_tables(self, sinks: Sequence[Sink], *, token: str) -> None:
        """Delete the tables of *sinks* that were permanently deleted.

        Raises UserError: some tables could not be deleted. The error lists them; all others are
        deleted.

        :param token: token of the user.
        """


@runtime_checkable
class Previewing(Protocol):
    """A `Target` that can also read its tables."""

    async def preview(self, sink: Sink, limit: int, *, token: str) -> Preview:
        """Return the first rows of *sink*'s table, with the columns of its mapping.

        Raises UserError: 404 ``tableNotFound`` if there is no table.

        :param sink: the sink, with the content of its mapping.
        :param token: token of the user.
        """


@runtime_checkable
class Probing(Protocol):
    """A `Target` that can also check whether a connection of its type answers."""

    async def prepare_probe(self, connection: str) -> None:
        """Prepare to `probe` the *connection*, for example by starting a process.

        The time that this takes doesn't count against the connection.
        """

    async def probe(self, connection: str) -> None:
        """Check within seconds whether the *connection* answers.

        Raises UserError: the connection doesn't answer. Every user of the project sees the message,
        so it contains neither host nor user; the details are in the log.
        """


def file_record(target: str, kind: str, file: FileKey) -> str:
    """Return the etcd key of a target's record of a file.

    :param target: name of the target.
    :param kind: one of `RECORD_KINDS`, so that a process without the target can delete the records.
    """
    return f"storage/{target}/{kind}/{file}"


RECORD_KINDS = ("file", "quarantine")
"""Kinds of records: ``file`` for the destination, ``quarantine`` for the refused rows."""

TargetFactory = Callable[[TargetContext], Target]
"""A function that creates a target without opening connections or files."""
