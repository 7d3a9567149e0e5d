"""A target whose tables are lists in this process, as an example of a third-party package."""

from __future__ import annotations

import csv
import gzip
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime

from twisted.application.service import IService

from stream.definition.entity import Sink, Source
from stream.definition.key import BranchKey, SinkKey
from stream.definition.transaction import Change
from stream.etcd import AtomicTxn
from stream.staging import Chunks
from stream.storage.model.entity import File, Slice
from stream.storage.model.key import FileKey, JobKey, SliceKey
from stream.storage.model.statistics import Statistics
from stream.storage.store.prepared import PreparedFile
from stream.storage.store.records import read_slices
from stream.target.protocol import Quarantine, Staged, TargetContext

__all__ = ["MemoryTarget", "broken_target", "misnamed_target"]


class MemoryTarget:
    """A target in memory.

    :ivar staged: the uploaded bytes of slices.
    :ivar tables: rows by sink, and by their file.
    """

    name = "memory"
    services: Sequence[IService] = ()
    import_services: Sequence[IService] = ()

    def __init__(self, context: TargetContext) -> None:
        self._client = context.client
        self.staged: dict[SliceKey, bytes] = {}
        self.tables: dict[SinkKey, dict[FileKey, list[list[str]]]] = {}

    async def prepare(
        self, source: Source, sink: Sink, opened_at: datetime, *, token: str | None
    ) -> PreparedFile:
        self.tables.setdefault(sink.key, {})
        return PreparedFile(FileKey.of(sink.key, opened_at), sink.table, self.name, None, ())

    async def renew(self, sink: Sink, file: FileKey) -> PreparedFile:
        return PreparedFile(file, sink.table, self.name, None, ())

    async def discard(self, prepared: PreparedFile) -> None:
        """Do nothing: nothing was created."""

    async def committed(self, prepared: PreparedFile) -> None:
        """Do nothing: there is nothing to delete."""

    async def deactivated(self, change: Change, sink: Sink, *, token: str | None) -> None:
        """Do nothing: no resources are stored for the sink."""

    async def deleted(self, change: Change, sink: Sink) -> None:
        """Do nothing: no resources are stored for the sink."""

    @asynccontextmanager
    async def upload(self, slice_: Slice, chunks: Chunks) -> AsyncIterator[Staged]:
        self.staged[slice_.key] = b"".join(chunks())
        yield Staged(None, self._check)

    async def _check(self, txn: AtomicTxn) -> None:
        """Check that staging is never replaced."""

    async def report_upload(
        self, slice_: Slice, seconds: float, error: Exception | None, statistics: Statistics
    ) -> None:
        """Do nothing: there is no receiver."""

    def may_import(self, file: FileKey) -> bool:
        return True

    async def import_file(self, file: File) -> int:
        if file.staging.is_empty:
            return 0
        slices = await read_slices(self._client, file.key)
        texts = [gzip.decompress(self.staged[slice_.key]).decode() for slice_ in slices]
        lines = [line for text in texts for line in text.splitlines(keepends=True)]
        self.tables[file.key.sink_key][file.key] = list(csv.reader(lines))
        return 0

    def running_jobs(self) -> Sequence[JobKey]:
        return ()

    async def forget_finished(self, job: JobKey) -> bool:
        return True

    def file_records(self, file: FileKey) -> Sequence[str]:
        return ()

    async def delete_staged(self, file: FileKey) -> None:
        self.staged = {key: rows for key, rows in self.staged.items() if key.file_key != file}

    async def quarantines(self, below: BranchKey | SinkKey) -> Mapping[FileKey, Quarantine]:
        return {}

    async def delete_tables(self, sinks: Sequence[Sink], *, token: str) -> None:
        for sink in sinks:
            self.tables.pop(sink.key, None)


def misnamed_target(context: TargetContext) -> MemoryTarget:
    """Return a target whose entry point has another name."""
    return MemoryTarget(context)


def broken_target(context: TargetContext) -> MemoryTarget:
    """Raise the error of a target that can't be created."""
    raise RuntimeError("a library is missing")
