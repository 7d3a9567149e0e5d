"""What a change of definitions means for the files of sinks.

An enabled sink has exactly one open file. So a sink that is created, enabled or changed gets a new
one, and the open file of a sink that is changed, disabled or deleted is closed. Both happen in the
transaction of the change; the files and their remote parts belong to others, who are reached
through the two protocols below.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Generic, Protocol, TypeVar, cast

import attrs
from twisted.internet.defer import DeferredList, DeferredSemaphore
from twisted.python.failure import Failure

from stream.definition.entity import Sink, Source, TableSink
from stream.definition.key import SinkKey
from stream.definition.transaction import Change
from stream.etcd import AtomicTxn

__all__ = [
    "FileRecords",
    "FilesNotPrepared",
    "Prepared",
    "PreparedFiles",
    "RemoteFiles",
    "SinkFiles",
]

MAX_ROUNDS = 10
"""How often a change may meet sinks that nobody knew of before."""

PREPARED_AT_ONCE = 8
"""Files of one change that are prepared at the same time."""


class Prepared(Protocol):
    """What was made remotely for a file."""

    @property
    def table(self) -> TableSink:
        """The table for which it was made."""


P = TypeVar("P", bound=Prepared)
P_contra = TypeVar("P_contra", bound=Prepared, contravariant=True)


class RemoteFiles(Protocol[P]):
    """The remote parts of files: token, table, staging file."""

    async def prepare(
        self, source: Source, sink: Sink, opened_at: datetime, *, token: str | None
    ) -> P:
        """Make what a file of *sink* needs.

        :param token: of the user who makes the change.
        """

    async def discard(self, prepared: P) -> None:
        """Undo `prepare`: no file uses it. Errors are only logged."""

    async def committed(self, prepared: P) -> None:
        """Remove what *prepared* replaces: a file uses it now. Errors are only logged."""

    async def deactivated(self, change: Change, sink: Sink, *, token: str | None) -> None:
        """Delete what a sink that was disabled or deleted doesn't need any more."""

    async def deleted(self, change: Change, sink: Sink) -> None:
        """Delete what a sink that was deleted doesn't need any more."""


class FileRecords(Protocol[P_contra]):
    """The records of files in etcd, written in a running transaction."""

    async def open_file(
        self, txn: AtomicTxn, source: Source, sink: Sink, prepared: P_contra
    ) -> object:
        """Open the file that was *prepared*."""

    async def close_files(self, txn: AtomicTxn, sink: SinkKey, now: datetime) -> object:
        """Close every open file of the sink."""


@attrs.define
class FilesNotPrepared(Exception):
    """Sinks need files that must be prepared first."""

    missing: tuple[tuple[Source, Sink], ...]


class SinkFiles(Generic[P]):
    """The `SinkHooks` of one attempt: opens and closes files as sinks change.

    :param prepared: by sink, what there is so far.
    :param token: of the user who makes the change.
    :ivar used: sinks whose prepared file was opened in this attempt.
    :ivar missing: sinks whose file isn't prepared; with any, the attempt must not be written.
    """

    def __init__(
        self,
        records: FileRecords[P],
        remote: RemoteFiles[P],
        prepared: Mapping[SinkKey, P],
        *,
        token: str | None = None,
    ) -> None:
        self._records = records
        self._remote = remote
        self._prepared = prepared
        self._token = token
        self.used: set[SinkKey] = set()
        self.missing: list[tuple[Source, Sink]] = []

    async def sink_activated(self, change: Change, source: Source, sink: Sink) -> None:
        await self._records.close_files(change.txn, sink.key, change.now)
        await self._open(change, source, sink)

    async def sink_modified(self, change: Change, source: Source, sink: Sink) -> None:
        await self._records.close_files(change.txn, sink.key, change.now)
        await self._open(change, source, sink)

    async def sink_deactivated(self, change: Change, sink: Sink) -> None:
        await self._records.close_files(change.txn, sink.key, change.now)
        await self._remote.deactivated(change, sink, token=self._token)

    async def sink_deleted(self, change: Change, sink: Sink) -> None:
        await self._remote.deleted(change, sink)

    async def _open(self, change: Change, source: Source, sink: Sink) -> None:
        prepared = self._prepared.get(sink.key)
        if prepared is None or prepared.table != sink.table:
            self.missing.append((source, sink))
            return
        await self._records.open_file(change.txn, source, sink, prepared)
        self.used.add(sink.key)

    def check_prepared(self) -> None:
        """Raises `FilesNotPrepared` if the attempt must not be written."""
        if self.missing:
            raise FilesNotPrepared(tuple(self.missing))


class PreparedFiles(Generic[P]):
    """The files that are prepared for one change; each of them is used or discarded.

    :param now: the time in UTC.
    :param token: of the user who makes the change.
    :ivar by_sink: those that no file uses yet.
    """

    def __init__(
        self, remote: RemoteFiles[P], now: Callable[[], datetime], token: str | None
    ) -> None:
        self._remote = remote
        self._now = now
        self._token = token
        self._rounds = 0
        self.by_sink: dict[SinkKey, P] = {}

    async def prepare(self, missing: Sequence[tuple[Source, Sink]]) -> None:
        """Prepare all *missing* files; the first failure is raised when every one has ended.

        Raises RuntimeError if it is called again and again without anything being used.
        """
        self._rounds += 1
        if self._rounds >= MAX_ROUNDS:
            raise RuntimeError("the sinks of a change don't come to rest")
        slots = DeferredSemaphore(PREPARED_AT_ONCE)
        results = await DeferredList(
            [slots.run(self._prepare, source, sink) for source, sink in missing], consumeErrors=True
        )
        for success, result in results:
            if not success:
                cast(Any, cast(Failure, result)).raiseException()

    async def _prepare(self, source: Source, sink: Sink) -> None:
        outdated = self.by_sink.pop(sink.key, None)
        if outdated is not None:
            await self._remote.discard(outdated)
        self.by_sink[sink.key] = await self._remote.prepare(
            source, sink, self._now(), token=self._token
        )

    async def committed(self, used: Iterable[SinkKey]) -> None:
        """The transaction that opened the files of these sinks is written."""
        self._rounds = 0
        for key in used:
            await self._remote.committed(self.by_sink.pop(key))

    async def discard(self) -> None:
        """Undo what nothing uses."""
        for prepared in self.by_sink.values():
            await self._remote.discard(prepared)
