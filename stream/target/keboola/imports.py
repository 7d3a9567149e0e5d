"""Imports files into tables; a file's job is started once, and every later attempt joins it.

Note [Once-only import]: the job's ID is stored before anything waits for the job, so every later
attempt joins the same job. Storing is retried for as long as an import may take. The call that
starts the job is never retried blindly; the intention to start it is stored before the call. An
attempt that finds this intention but no ID, after a crash or a lost answer, first looks for the
file's job among the newest jobs. If the API doesn't show jobs to the sink's token, the file is
imported again, because duplicate rows do less harm than lost rows.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import attrs
from twisted.logger import Logger

from stream.definition.key import SinkKey
from stream.encryption.interface import Encryptor
from stream.errors import UserError
from stream.etcd import (
    AtomicConflict,
    AtomicTxn,
    EtcdClient,
    EtcdError,
    EtcdUnavailable,
    atomic,
)
from stream.storage.model.entity import File
from stream.storage.model.key import JobKey
from stream.storage.reconcile.operator import Requeue
from stream.storage.store.statistics_reads import one_file_statistics
from stream.target.jobs import JobRecord
from stream.target.keboola.client import StorageApi
from stream.target.keboola.errors import (
    JobDeadlineExceeded,
    JobFailed,
    StorageApiError,
    is_about_rows,
)
from stream.target.keboola.events import EventSender
from stream.target.keboola.provider import load_file_record, load_sink_token, with_sink_token
from stream.target.keboola.quarantine import RowQuarantine, Save
from stream.target.keboola.records import (
    FileRecord,
    decode_file,
    encode_record,
    file_record_key,
    job_record_key,
    token_record_key,
)
from stream.target.keboola.values import Job
from stream.values.token import Token

__all__ = ["FileImporter"]

_log = Logger()

_SHARE_OF_SPLIT = 1 / 3
"""Share of an import's time limit after which the import of refused rows starts no more jobs."""

_NOT_SHOWN = (400, 403, 404, 405, 501)
"""Statuses of an API that doesn't list its jobs, or doesn't list them for the sink's token."""


class FileImporter:
    """The import of files into Keboola tables.

    :param job_timeout: maximum seconds to wait for a job in one attempt.
    """

    def __init__(
        self,
        client: EtcdClient,
        api: StorageApi,
        encryptor: Encryptor,
        events: EventSender,
        quarantine: RowQuarantine,
        reactor: Any,
        *,
        job_timeout: float,
    ) -> None:
        self._quarantine = quarantine
        self._client = client
        self._api = api
        self._encryptor = encryptor
        self._events = events
        self._reactor = reactor
        self._job_timeout = job_timeout

    async def import_file(self, file: File) -> int:
        """Import the file; idempotent after any failure or crash.

        Raises `Requeue` if the work doesn't fit into one attempt.

        :returns: the number of rows that were refused and are quarantined.
        """
        if file.staging.is_empty:
            token = await load_sink_token(self._client, self._encryptor, file.key.sink_key)
            await self._delete_empty(token, await load_file_record(self._client, file.key))
            return 0

        async def import_(token: Token) -> int:
            # The record is read each time, since the previous attempt may have started the job.
            return await self._import_rows(
                token, file, await load_file_record(self._client, file.key)
            )

        started = self._reactor.seconds()
        try:
            refused = await with_sink_token(
                self._client, self._encryptor, file.key.sink_key, import_
            )
        except Requeue:
            raise
        except Exception as error:
            await self._report(file, self._reactor.seconds() - started, error)
            raise
        await self._report(file, self._reactor.seconds() - started, None)
        return refused

    async def _import_rows(self, token: Token, file: File, record: FileRecord) -> int:
        """Import the file as a whole; if rows are refused, import the accepted ones."""
        split = await self._quarantine.load(file.key)
        if split is None:
            try:
                await self._import(token, record, partial(_change, record=record))
            except JobFailed as error:
                if not error.is_about_rows:
                    raise
                _log.error(
                    "the target refuses rows of the file {file_id}, searching for them: {reason}",
                    file_id=str(file.key),
                    reason=error.reason,
                )
                split = await self._quarantine.begin(token, file, record, error)
            else:
                return 0
        until = self._reactor.seconds() + self._job_timeout * _SHARE_OF_SPLIT
        return await self._quarantine.go_on(token, file, record, split, self._import, until)

    async def _report(self, file: File, seconds: float, error: Exception | None) -> None:
        try:
            token = await load_sink_token(self._client, self._encryptor, file.key.sink_key)
        except (UserError, EtcdError) as problem:
            _log.warn("cannot send an event: {error}", error=problem)
            return
        try:
            statistics = (await one_file_statistics(self._client, file.key)).staging
        except EtcdError as problem:
            _log.warn("an event lacks its statistics: {error}", error=problem)
            statistics = None
        self._events.send(
            token,
            "fileImport",
            "File import",
            file.key.sink_key,
            seconds=seconds,
            error=error,
            statistics=statistics,
        )

    async def _delete_empty(self, token: Token, record: FileRecord) -> None:
        try:
            await self._api.delete_file(token, record.file_key.branch_id, record.file_id)
        except UserError as error:
            _log.warn("cannot delete an empty staging file: {error}", error=error)

    async def _import(self, token: Token, record: FileRecord, save: Save) -> None:
        """Import the staging file of *record*; see Note [Once-only import].

        :param save: stores changes of *record*.
        """
        job_id = record.storage_job_id
        if job_id is not None:
            job = await self._api.get_job(token, job_id)
            if job.is_finished:
                await self._forget_job(record.sink_key, job_id)
            if job.status == "success":
                return
            if job.error is not None and is_about_rows(job.error.code):
                raise JobFailed(job_id, job.error.message, code=job.error.code)
            if job.status == "error":
                _log.warn("import job {job_id} failed, starting a new one", job_id=job_id)
                job_id = None
        if job_id is None:
            job_id = await self._start_job(token, record, save)
        try:
            await self._api.wait_job(token, job_id, timeout=self._job_timeout)
        except JobDeadlineExceeded:
            raise UserError(
                "wait for import operation deadline exceeded", status=504, name="importTimeout"
            ) from None
        except JobFailed:
            await self._forget_job(record.sink_key, job_id)
            raise
        await self._forget_job(record.sink_key, job_id)

    async def _start_job(self, token: Token, record: FileRecord, save: Save) -> int:
        """Start the job; see Note [Once-only import]."""
        job = await self._started_before(token, record) if record.import_asked else None
        if job is None:
            await self._asking(record, save)
            job = await self._api.import_async(
                token,
                record.file_key.branch_id,
                record.table_id,
                file_id=record.file_id,
                columns=record.columns,
            )
            _log.info("started import job {job_id}", job_id=job.id, file_id=str(record.file_key))
        await self._store_job(record, job.id, save)
        return job.id

    async def _asking(self, record: FileRecord, save: Save) -> None:
        async def store(txn: AtomicTxn) -> None:
            await save(txn, import_asked=True)

        if not record.import_asked:
            await atomic(self._client, store)

    async def _started_before(self, token: Token, record: FileRecord) -> Job | None:
        """Return the job that an earlier attempt started without storing its id."""
        try:
            job = await self._api.find_import(token, record.file_id)
        except StorageApiError as error:
            if error.status not in _NOT_SHOWN:
                raise
            _log.warn(
                "cannot check whether the file {file_id} is already being imported, so it may be "
                "imported twice: "
                "{error}",
                file_id=str(record.file_key),
                error=error,
            )
            return None
        if job is not None:
            _log.info(
                "import job {job_id} had already been started",
                job_id=job.id,
                file_id=str(record.file_key),
            )
        return job

    async def _store_job(self, record: FileRecord, job_id: int, save: Save) -> None:
        job_key = JobKey.of(record.sink_key, str(job_id))

        async def store(txn: AtomicTxn) -> None:
            await save(txn, storage_job_id=job_id)
            txn.put(job_record_key(job_key), encode_record(JobRecord(job_key)))

        deadline = self._reactor.seconds() + self._job_timeout
        while True:
            try:
                await atomic(self._client, store)
                return
            except (EtcdUnavailable, AtomicConflict) as error:
                # Each attempt here comes only after a call was retried for several seconds.
                if self._reactor.seconds() >= deadline:
                    raise
                _log.error(
                    "cannot store the id of import job {job_id}, retrying: {error}",
                    job_id=job_id,
                    error=error,
                )

    async def _forget_job(self, sink: SinkKey, job_id: int) -> None:
        """Release the sink's slot immediately; if that fails, the cleanup releases it later."""
        try:
            await self._client.delete(job_record_key(JobKey.of(sink, str(job_id))))
        except EtcdError as error:
            _log.warn(
                "cannot delete the record of import job {job_id}, the cleanup will delete it: "
                "{error}",
                job_id=job_id,
                error=error,
            )

    async def forget_finished(self, record: JobRecord) -> bool:
        """Delete the record of a job that isn't running; return False if it is kept.

        The record is kept while the job runs or may be running: without a token, as for a disabled
        sink, its state is unknown.
        """
        if await self._client.get(token_record_key(record.key.sink_key)) is None:
            _log.warn(
                "cannot delete the record of import job {job_id}: its sink has no token",
                job_id=record.key.job_id,
                sink_id=str(record.key.sink_key),
            )
            return False
        try:
            token = await load_sink_token(self._client, self._encryptor, record.key.sink_key)
            job = await self._api.get_job(token, int(record.key.job_id))
        except StorageApiError as error:
            if not error.is_not_found:
                raise
        else:
            if not job.is_finished:
                return False
        await self._client.delete(job_record_key(record.key))
        return True


async def _change(txn: AtomicTxn, record: FileRecord, **changes: Any) -> None:
    stored = await txn.get(file_record_key(record.file_key))
    latest = decode_file(stored.value) if stored else record
    txn.put(file_record_key(record.file_key), encode_record(attrs.evolve(latest, **changes)))
