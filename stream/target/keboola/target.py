"""The target for Keboola tables, which uses files and import jobs of the Storage API."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial

from twisted.application.service import IService

from stream.definition.entity import Sink, Source
from stream.definition.key import BranchKey, SinkKey
from stream.definition.transaction import Change
from stream.errors import UserError, shortened
from stream.staging import Chunks
from stream.storage.model.entity import File, Slice
from stream.storage.model.key import FileKey, JobKey
from stream.storage.model.statistics import Statistics
from stream.storage.store.prepared import PreparedFile
from stream.target.jobs import JobRecord, RunningJobs
from stream.target.keboola.client import StorageApi
from stream.target.keboola.destination import delete_destinations
from stream.target.keboola.errors import StorageApiError
from stream.target.keboola.events import EventSender
from stream.target.keboola.imports import FileImporter
from stream.target.keboola.provider import PROVIDER, KeboolaFileProvider
from stream.target.keboola.quarantine import RowQuarantine, quarantine_record_key, read_quarantines
from stream.target.keboola.records import JOBS, file_record_key
from stream.target.keboola.service import StorageApiService
from stream.target.keboola.uploads import SliceUploader
from stream.target.protocol import (
    PREVIEW_CHARACTERS,
    Preview,
    Quarantine,
    Staged,
    TargetContext,
)

__all__ = ["KeboolaTarget"]


class KeboolaTarget:
    """A `stream.target.protocol.Target` that uses the Storage API.

    :param api: the Storage API of all projects.
    :param events: notifies projects of the outcomes of their slices and files.
    :ivar provider: creates tokens, tables and staging files.
    :ivar uploader: stores slices in staging files.
    :ivar importer: imports staging files.
    """

    name = PROVIDER

    def __init__(self, context: TargetContext, api: StorageApi, events: EventSender) -> None:
        client, encryptor, reactor = context.client, context.encryptor, context.reactor
        level = context.settings.storage.level
        self._client = client
        self._api = api
        self.provider = KeboolaFileProvider(client, api, encryptor, reactor)
        self.uploader = SliceUploader(
            client,
            context.session,
            encryptor,
            events,
            context.pool,
            reactor,
            lock_timeout=level.staging.operator.slice_upload_timeout.seconds,
        )
        self.importer = FileImporter(
            client,
            api,
            encryptor,
            events,
            RowQuarantine(client, api, encryptor, context.pool, reactor),
            reactor,
            job_timeout=level.target.operator.file_import_timeout.seconds,
        )
        self._jobs = RunningJobs(client, JOBS, context.settings.sink.table.keboola.job_limit)
        self.services: Sequence[IService] = (StorageApiService(api),)
        self.import_services: Sequence[IService] = (self._jobs,)

    async def prepare(
        self, source: Source, sink: Sink, opened_at: datetime, *, token: str | None
    ) -> PreparedFile:
        return await self.provider.prepare(source, sink, opened_at, token=token)

    async def renew(self, sink: Sink, file: FileKey) -> PreparedFile:
        return await self.provider.renew(sink, file)

    async def discard(self, prepared: PreparedFile) -> None:
        await self.provider.discard(prepared)

    async def committed(self, prepared: PreparedFile) -> None:
        await self.provider.committed(prepared)

    async def deactivated(self, change: Change, sink: Sink, *, token: str | None) -> None:
        await self.provider.deactivated(change, sink, token=token)

    async def deleted(self, change: Change, sink: Sink) -> None:
        await self.provider.deleted(change, sink)

    @asynccontextmanager
    async def upload(self, slice_: Slice, chunks: Chunks) -> AsyncIterator[Staged]:
        """Upload a slice; the context lists it in the file's manifest."""
        store = await self.uploader.upload(slice_, chunks)
        async with self.uploader.listed(store, slice_) as lock:
            yield Staged(lock, partial(self.uploader.check_current, store=store, slice_=slice_))

    async def report_upload(
        self, slice_: Slice, seconds: float, error: Exception | None, statistics: Statistics
    ) -> None:
        """Send the event about an upload, if users see such events."""
        await self.uploader.report(slice_, seconds, error, statistics)

    def may_import(self, file: FileKey) -> bool:
        """Return whether the sink has a free slot for a job."""
        return self._jobs.allow(file)

    async def import_file(self, file: File) -> int:
        """Import a file; return the number of its quarantined rows."""
        return await self.importer.import_file(file)

    def running_jobs(self) -> Sequence[JobKey]:
        """Return the keys of the running jobs."""
        return [record.key for record in self._jobs.records]

    async def forget_finished(self, job: JobKey) -> bool:
        """Delete the record of a finished job; return False if the job is running."""
        return await self.importer.forget_finished(JobRecord(job))

    def file_records(self, file: FileKey) -> Sequence[str]:
        """Return the etcd keys of the target's records of a file."""
        return (file_record_key(file), quarantine_record_key(file))

    async def delete_staged(self, file: FileKey) -> None:
        """Do nothing, since staging files expire in the project's file storage."""

    async def quarantines(self, below: BranchKey | SinkKey) -> Mapping[FileKey, Quarantine]:
        """Return the quarantines of a branch or sink that contain rows or aren't finished."""
        return {
            key: record.shown
            for key, record in (await read_quarantines(self._client, below)).items()
            if not (record.is_done and record.is_empty)
        }

    async def preview(self, sink: Sink, limit: int, *, token: str) -> Preview:
        """Return the first rows with all columns of the table, even those not in the mapping."""
        table = sink.table.table_id
        try:
            columns, rows = await self._api.preview_table(token, sink.key.branch_id, table, limit)
        except StorageApiError as error:
            if not error.is_not_found:
                raise
            raise UserError(
                f'there is no table "{table}"', status=404, name="tableNotFound"
            ) from error
        return Preview(
            columns,
            [[cell and shortened(cell, PREVIEW_CHARACTERS) for cell in row] for row in rows],
        )

    async def delete_tables(self, sinks: Sequence[Sink], *, token: str) -> None:
        """Delete the tables of sinks."""
        await delete_destinations(self._api, token, sinks)
