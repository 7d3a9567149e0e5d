"""The effects of a change of definitions on the files of sinks.

An enabled sink has exactly one open file. So a sink that is created, enabled or changed gets a new
file, and the open file of a sink that is changed, disabled or deleted is closed. Both happen in the
transaction of the change. The module accesses files and their remote parts through the two
protocols below.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Generic, Protocol, TypeVar

from stream.definition.entity import Sink, Source, TableSink
from stream.definition.key import SinkKey
from stream.definition.transaction import Change
from stream.etcd import AtomicTxn

__all__ = [
    "FileRecords",
    "Prepared",
    "RemoteFiles",
    "SinkFiles",
]


class Prepared(Protocol):
    """Remote resources created for a file."""

    @property
    def table(self) -> TableSink:
        """The table of the file."""


P = TypeVar("P", bound=Prepared)
P_contra = TypeVar("P_contra", bound=Prepared, contravariant=True)


class RemoteFiles(Protocol[P]):
    """The remote parts of files: token, table, staging file."""

    async def prepare(
        self, source: Source, sink: Sink, opened_at: datetime, *, token: str | None
    ) -> P:
        """Create the resources that a file of *sink* needs.

        :param token: token of the user who makes the change.
        """

    async def discard(self, prepared: P) -> None:
        """Undo `prepare` if no file uses the resources. Errors are only logged."""

    async def committed(self, prepared: P) -> None:
        """Remove what *prepared* replaces, because a file now uses it. Errors are only logged."""

    async def deactivated(self, change: Change, sink: Sink, *, token: str | None) -> None:
        """Delete what a disabled or deleted sink no longer needs."""

    async def deleted(self, change: Change, sink: Sink) -> None:
        """Delete what a deleted sink no longer needs."""


class FileRecords(Protocol[P_contra]):
    """The records of files in etcd, written in a running transaction."""

    async def open_file(
        self, txn: AtomicTxn, source: Source, sink: Sink, prepared: P_contra
    ) -> object:
        """Open the file that was *prepared*."""

    def reads(self, sink: SinkKey) -> Sequence[str]:
        """Return the prefixes that `close_files` reads."""

    async def close_files(self, txn: AtomicTxn, sink: SinkKey, now: datetime) -> object:
        """Close every open file of the sink."""

    async def mappings_in_use(self, txn: AtomicTxn, sink: SinkKey) -> set[str]:
        """Return the hashes of the mappings to which files of the sink and their slices refer."""


class SinkFiles(Generic[P]):
    """The `SinkHooks` of one attempt: opens and closes files as sinks change.

    :param prepared: the files prepared so far, by sink.
    :param token: token of the user who makes the change.
    :ivar used: sinks whose prepared file was opened in this attempt.
    :ivar missing: sinks whose file isn't prepared; if there are any, the attempt must not be
        written.
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

    def reads(self, key: SinkKey) -> Sequence[str]:
        return self._records.reads(key)

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
