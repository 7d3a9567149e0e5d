"""The runner of jobs: two imports run concurrently, and one change of the catalog at a time.

Note [A job happens once]: the state of a job (waiting, processing or ended) is a row of
``meta.sqlite``; its effects are in ``data.sqlite``. The two can't be committed together. Therefore
the rows of an import are committed with a mark, and the job's end is recorded afterwards. After a
crash in between, the job is processing *and* marked, so `recover` records its end from the mark.
After an earlier crash there are neither rows nor mark, and the job runs again from the start. An
interrupted creation or deletion can at worst leave a table in ``data.sqlite`` that ``meta.sqlite``
doesn't know. `recover` drops it before the job runs again.
"""

from __future__ import annotations

import sqlite3
import threading
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Concatenate, ParamSpec

import attrs
from twisted.internet.defer import (
    Deferred,
    DeferredList,
    DeferredLock,
    ensureDeferred,
)
from twisted.logger import Logger
from twisted.python.failure import Failure

from stream.concurrency.waiters import Waiters
from stream.errors import UserError
from stream.sandbox import catalogue, jobs, rows
from stream.sandbox.buckets import find_bucket, forget_bucket, no_bucket
from stream.sandbox.faults import JOB, Faults
from stream.sandbox.files import find_file, note_file_import
from stream.sandbox.importer import (
    ImportInterrupted,
    ImportPlan,
    ImportRefused,
    load,
    plan_import,
)
from stream.sandbox.jobs import Job
from stream.sandbox.project import Project
from stream.sandbox.store import Reactor, iso_time, remove_objects
from stream.sandbox.tables import table_detail
from stream.values.backoff import Backoff

__all__ = ["JobRunner", "recover"]

P = ParamSpec("P")

MAX_IMPORTS = 2
FIRST_WAIT_SECONDS = 0.2
LONGEST_WAIT_SECONDS = 10.0


class JobRunner:
    """Three loops that claim waiting jobs from the queue in the database.

    :param catalogue_lock: lock that is shared with the calls that delete tables directly.
    """

    _log = Logger()

    def __init__(
        self, reactor: Reactor, project: Project, faults: Faults, catalogue_lock: DeferredLock
    ) -> None:
        self._reactor = reactor
        self._project = project
        self._store = project.store
        self._faults = faults
        self._lock = catalogue_lock
        self._stop = threading.Event()  # set here, read by the loading thread
        self._sleepers = Waiters[None]()
        self._loops: list[Deferred[None]] = []
        self._generation = 0

    def start(self) -> None:
        """Start running waiting jobs."""
        self._stop.clear()
        catalogue_jobs = ((jobs.CREATE_TABLE, jobs.DELETE_BUCKET), self._change_catalogue)
        imports = ((jobs.IMPORT,), self._import)
        self._loops = [
            ensureDeferred(self._loop(operations, work))
            for operations, work in (catalogue_jobs, *(imports,) * MAX_IMPORTS)
        ]

    def wake(self) -> None:
        """Notify the runner that a job may be waiting."""
        self._generation += 1
        self._sleepers.fire(None)

    async def stop(self) -> None:
        """Interrupt running imports, which return to the queue; wait until nothing is running."""
        self._stop.set()
        self.wake()
        await DeferredList(self._loops)
        self._loops = []

    async def _loop(
        self, operations: Sequence[str], work: Callable[[Job], Awaitable[None]]
    ) -> None:
        backoff = Backoff(FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS)
        while not self._stop.is_set():
            generation = self._generation
            try:
                job = await self._store.meta.write(jobs.claim, operations, self._store.now_iso())
                if job is not None:
                    await work(job)
                    self.wake()  # a job for the same table may run now
                backoff.reset()
            except Exception:
                self._log.failure("a job loop failed, continuing")
                await self._sleep(backoff.next())
                continue
            # If a job was added while this loop was checking, the generation has changed.
            if job is None and generation == self._generation:
                await self._sleep(None)

    async def _sleep(self, seconds: float | None) -> None:
        """Sleep until *seconds* have passed, or until `wake` or `stop`."""
        if self._stop.is_set():
            return
        woken = self._sleepers.wait()
        if seconds is None:
            await woken
            return
        timer = self._reactor.callLater(seconds, self.wake)
        try:
            await woken
        finally:
            if timer.active():
                timer.cancel()

    async def _import(self, job: Job) -> None:
        try:
            refused_text = await self._inject_fault()
            plan = attrs.evolve(await self._plan(job), refused_text=refused_text)
            try:
                applied = await self._store.data.write(load, plan, self._stop.is_set)
            except sqlite3.Error:
                # A commit that reports an error may still have reached the disk.
                found = await self._store.data.read(rows.find_applied, job.id)
                if found is None:
                    raise
                applied = found
        except ImportInterrupted:
            await self._record(jobs.release, job.id)
        except Exception as error:
            await self._fail(job, error)
        else:
            await self._record(_finish_import, job, applied, plan.warnings, self._store.now())
        if self._project.objects is not None:
            # These are only copies, which can be fetched again.
            folder = [int(job.params["dataFileId"])]
            await self._store.in_thread(remove_objects, self._store.staging, folder)

    async def _plan(self, job: Job) -> ImportPlan:
        params = job.params
        table, file = await self._store.meta.read(
            _find_table_and_file, job.target, params["dataFileId"]
        )
        plan = ImportPlan(
            job_id=job.id,
            table_id=table.id,
            columns=tuple(params["columns"]),
            primary_key=table.primary_key,
            incremental=params["incremental"],
            objects=(),
            delimiter=params["delimiter"],
            enclosure=params["enclosure"],
        )
        folder, sliced = self._store.staging / str(file["id"]), bool(file["sliced"])
        objects = self._project.objects
        prefixes: tuple[str, ...] = ()
        if objects is not None:
            await self._store.in_thread(objects.fetch, file["id"], folder, sliced=sliced)
            prefixes = (objects.url_prefix(file["id"]),)
        return await self._store.in_thread(
            plan_import, plan, table.columns, folder, sliced, prefixes
        )

    async def _inject_fault(self) -> str:
        """Apply a pending fault; return the text whose rows are refused."""
        fault = self._faults.take(JOB)
        if fault is None:
            return ""
        await self._pause(fault.delay)
        if self._stop.is_set():
            raise ImportInterrupted
        if fault.status:
            raise ImportRefused(fault.message, fault.code)
        return fault.rows_with

    async def _change_catalogue(self, job: Job) -> None:
        await self._lock.acquire()
        try:
            if job.operation == jobs.CREATE_TABLE:
                await self._create_table(job)
            else:
                now = self._store.now_iso()
                dropped = await self._store.meta.write(forget_bucket, job, now)
                await self._store.data.write(rows.drop_tables, dropped)
        except Exception as error:
            await self._fail(job, error)
        finally:
            self._lock.release()

    async def _create_table(self, job: Job) -> None:
        now = self._store.now_iso()
        bucket_id, _, name = job.target.rpartition(".")
        columns, primary_key = job.params["columns"], job.params["primaryKey"]
        table = catalogue.Table(
            job.target, bucket_id, name, tuple(columns), tuple(primary_key), 0, now, now, None
        )
        if await self._store.meta.read(find_bucket, bucket_id) is None:
            raise no_bucket(bucket_id)
        # Looked up first, because creating the rows' table begins with dropping one of that name.
        if await self._store.meta.read(catalogue.table_exists, table.id):
            raise UserError(
                f'table "{table.id}" already exists', name="storage.tables.alreadyExists"
            )
        await self._store.data.write(rows.create_table, table.id, columns, primary_key)
        await self._store.meta.write(
            _finish_create, job, table, table_detail(table, self._project), now
        )

    async def _fail(self, job: Job, error: Exception) -> None:
        exception_id = f"sandbox-{uuid.uuid4().hex}"
        if isinstance(error, UserError):
            code, message = error.name, error.message
        elif isinstance(error, ImportRefused):
            code, message = error.code, error.message
        else:
            code, message = "storage.internalError", "Internal error"
            self._log.failure(
                "job {job_id} failed ({exception_id})",
                Failure(error),
                job_id=job.id,
                exception_id=exception_id,
            )
        detail = {"code": code, "message": message, "exceptionId": exception_id}
        await self._record(jobs.fail_job, job.id, detail, self._store.now_iso())

    async def _record(
        self,
        work: Callable[Concatenate[sqlite3.Connection, P], None],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> None:
        """Record the end of a job, with retries; until then no other loop claims the job."""
        backoff = Backoff(FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS)
        while True:
            try:
                await self._store.meta.write(work, *args, **kwargs)
                return
            except Exception:
                self._log.failure("cannot record the result of a job")
                if self._stop.is_set():
                    return  # `recover` handles it at the next startup.
                await self._pause(backoff.next())

    async def _pause(self, seconds: float) -> None:
        end = self._reactor.seconds() + seconds
        while not self._stop.is_set() and (left := end - self._reactor.seconds()) > 0:
            await self._sleep(left)


def _find_table_and_file(
    meta: sqlite3.Connection, table_id: str, file_id: int
) -> tuple[catalogue.Table, dict[str, Any]]:
    table, file = catalogue.find_table(meta, table_id), find_file(meta, file_id)
    if file is None:
        raise ImportRefused(f'file "{file_id}" not found', "storage.fileNotFound")
    return table, file


def _finish_import(
    meta: sqlite3.Connection, job: Job, applied: rows.Applied, warnings: Sequence[str], now: float
) -> None:
    results = {
        "importedColumns": job.params["columns"],
        "totalRowsCount": applied.loaded_rows,
        "warnings": list(warnings),
    }
    catalogue.note_import(meta, job.target, applied, iso_time(now))
    note_file_import(meta, job.params["dataFileId"], now)
    jobs.succeed_job(meta, job.id, results, iso_time(now))
    jobs.trim(meta)


def _finish_create(
    meta: sqlite3.Connection, job: Job, table: catalogue.Table, results: Any, now: str
) -> None:
    catalogue.add_table(meta, table)
    jobs.succeed_job(meta, job.id, results, now)


async def recover(project: Project) -> int:
    """Repair the state after a crash, before any loop runs; see Note [A job happens once].

    Return the number of jobs that were applied but not ended.
    """
    store = project.store
    found = await store.meta.read(jobs.unfinished)
    ended = 0
    for job in found:
        applied = await store.data.read(rows.find_applied, job.id)
        if applied is not None:
            await store.meta.write(_finish_import, job, applied, (), store.now())
            ended += 1
        elif job.status == "processing":
            await store.meta.write(jobs.release, job.id)
    tables = await store.meta.read(catalogue.list_tables)
    known = [(table.id, table.columns, table.primary_key) for table in tables]
    await store.data.write(rows.repair, known)
    await store.data.write(rows.forget_applied)
    return ended
