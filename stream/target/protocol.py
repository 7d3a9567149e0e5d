"""What Stream asks of a target, a kind of table that files are imported into.

The storage model (files, slices, states, rotation, statistics, retries) knows no target: it calls
these methods. A target is found by the type of a sink's table, see `stream.target.registry`. Its
methods are called by any node, repeatedly, and at the same time; all that it keeps, it keeps in
etcd or in the target itself.
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
from stream.staging import Chunks
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
    "file_record",
]


@attrs.frozen(kw_only=True)
class TargetContext:
    """What a target may use of the process; nothing of it is open when the target is made.

    :ivar client: of etcd.
    :ivar session: the lease of the node, for locks.
    :ivar encryptor: of secrets that are stored in etcd.
    :ivar pool: threads for uploads and compression; started with the process.
    :ivar now: the time in UTC.
    :ivar staging: for slices of targets that bring no staging storage of their own; ``None`` in a
        process that neither uploads nor imports nor replays, or where no connection is declared.
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
    """The file has got other staging storage while a slice was uploaded to the one before."""


@attrs.frozen
class Staged:
    """A slice in staging storage that is about to be marked as uploaded.

    :ivar lock: required by the transaction that marks it; ``None`` if none is needed.
    :ivar check: awaited in this transaction. Raises `StagingReplaced` unless the file of the slice
        is imported from where the slice was uploaded to.
    """

    lock: Lock | None
    check: Callable[[AtomicTxn], Awaitable[None]]


@attrs.frozen(kw_only=True)
class Quarantine:
    """Rows of a file that its target has refused.

    :ivar records_count: rows that are in quarantine, or will be.
    :ivar reason: why the target refused them.
    :ivar is_finished: every refused row has been found and stored.
    :ivar file_id: of the file in the project's file storage that holds them, once it is stored.
    :ivar table: that holds them, for targets that keep them in one.
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
    """A kind of table. `FileProvider` is the part that makes what a new file needs.

    :ivar name: the ``type`` of its tables, and the ``provider`` in the records of files.
    :ivar services: started before the target is used, in this order, and stopped after it.
    :ivar import_services: the same, where files are imported (the coordinator).
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

    # The reader: slices into staging storage.

    def upload(self, slice_: Slice, chunks: Chunks) -> AbstractAsyncContextManager[Staged]:
        """Store the rows of *slice_* in staging storage; the same again if it is repeated.

        The caller marks the slice as uploaded inside the context.

        :param chunks: the compressed bytes; read in a thread.

        Raises `StagingError`, which says whether a repetition can help.
        """

    async def report_upload(
        self, slice_: Slice, seconds: float, error: Exception | None, statistics: Statistics
    ) -> None:
        """Notify the project of an upload that was tried; problems are only logged."""

    # The coordinator: files into tables.

    def may_import(self, file: FileKey) -> bool:
        """Return whether the target takes one more file of the sink now."""

    async def import_file(self, file: File) -> int:
        """Import the file: each of its rows once, however often this is called or killed.

        :returns: how many of its rows are in quarantine instead, because the target refused them.

        Raises `Requeue` if there is more to do than fits into one attempt.
        """

    def running_jobs(self) -> Sequence[JobKey]:
        """Jobs of the target that count as running; each keeps a sink from other imports."""

    async def forget_finished(self, job: JobKey) -> bool:
        """Delete the record of a job that doesn't run any more; false if it is kept."""

    def file_records(self, file: FileKey) -> Sequence[str]:
        """Keys in etcd that are deleted with the file, each `file_record` of some kind."""

    async def delete_staged(self, file: FileKey) -> None:
        """Remove what is staged of *file*, whose records are deleted next; may be repeated.

        Raises `StagingError` if something is left; the records stay then, and it is called again.
        """

    # The API: what people see and delete.

    async def quarantines(self, below: BranchKey | SinkKey) -> Mapping[FileKey, Quarantine]:
        """The files of a sink, or of a branch, with rows that the target has refused."""

    async def delete_tables(self, sinks: Sequence[Sink], *, token: str) -> None:
        """Delete the tables of *sinks* that were deleted for good.

        :param token: of the user who asks.

        Raises UserError listing what could not be deleted; the rest is deleted all the same.
        """


@runtime_checkable
class Previewing(Protocol):
    """A `Target` that can read its tables; not all can."""

    async def preview(self, sink: Sink, limit: int, *, token: str) -> Preview:
        """The first rows of the table of *sink*, with the columns of its mapping.

        :param sink: with the content of its mapping.
        :param token: of the user who asks.

        Raises UserError, 404 ``tableNotFound`` if there is no table.
        """


@runtime_checkable
class Probing(Protocol):
    """A `Target` that can say whether a connection of its type answers; not all can."""

    async def probe(self, connection: str) -> None:
        """Try the *connection*, within seconds.

        Raises UserError if it doesn't answer. Every user of the project sees the message, so it
        names neither host nor user; the log has the details.
        """


def file_record(target: str, kind: str, file: FileKey) -> str:
    """The key in etcd of what a target keeps of a file.

    :param target: its name.
    :param kind: one of `RECORD_KINDS`, so that the records can also be deleted by a process that
        has the target not installed.
    """
    return f"storage/{target}/{kind}/{file}"


RECORD_KINDS = ("file", "quarantine")
"""``file``: where it is imported to; ``quarantine``: its rows that were refused."""

TargetFactory = Callable[[TargetContext], Target]
"""Makes a target; opens nothing."""
