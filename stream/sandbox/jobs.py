"""Jobs: the rows of ``jobs`` with their states, ``GET jobs`` and ``GET jobs/{id}``.

Functions that take a connection run inside a transaction of ``meta.sqlite``.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import orjson

from stream.sandbox.auth import Token, access_denied
from stream.sandbox.http import Call, Reply, Route, json_reply, not_found
from stream.sandbox.project import Project

__all__ = [
    "CREATE_TABLE",
    "DELETE_BUCKET",
    "IMPORT",
    "Job",
    "Jobs",
    "claim",
    "create_job",
    "fail_job",
    "job_reply",
    "recent",
    "release",
    "succeed_job",
    "trim",
    "unfinished",
]

CREATE_TABLE = "tableCreate"
DELETE_BUCKET = "bucketDelete"
IMPORT = "tableImport"
KEPT_JOBS = 10_000
MAX_LISTED_JOBS = 100


@attrs.frozen
class Job:
    """A job of the storage, which is an import or a removal."""

    id: int
    operation: str
    params: Mapping[str, Any]
    status: str
    target: str
    token_id: str
    results: Any
    error: Mapping[str, Any] | None
    created: str
    started: str | None
    ended: str | None


_COLUMNS = (
    "id, operation, params, status, target, token_id, results, error, created, started, ended"
)


def _job(row: Sequence[Any]) -> Job:
    id, operation, params, status, target, token_id, results, error, *times = row
    return Job(
        id,
        operation,
        orjson.loads(params),
        status,
        target,
        token_id,
        orjson.loads(results) if results is not None else None,
        orjson.loads(error) if error is not None else None,
        *times,
    )


def find(meta: sqlite3.Connection, job_id: int) -> Job | None:
    """Return the job with this ID; ``None`` if there is none."""
    row = meta.execute(f"SELECT {_COLUMNS} FROM jobs WHERE id = ?", (job_id,)).fetchone()
    return _job(row) if row is not None else None


def create_job(
    meta: sqlite3.Connection,
    operation: str,
    params: Mapping[str, Any],
    target: str,
    token: Token,
    now: str,
    file_id: int | None = None,
) -> Job:
    """Create a waiting job, which starts when the transaction is committed."""
    job_id = meta.execute(
        "INSERT INTO jobs (operation, params, status, target, token_id, created, file_id)"
        " VALUES (?, ?, 'waiting', ?, ?, ?, ?)",
        (operation, orjson.dumps(params).decode(), target, token.id, now, file_id),
    ).lastrowid
    assert job_id is not None
    job = find(meta, job_id)
    assert job is not None
    return job


def claim(meta: sqlite3.Connection, operations: Sequence[str], now: str) -> Job | None:
    """Claim the oldest waiting job of *operations*, which is then processing.

    Jobs with the same target run in sequence. So loads of a table are applied in the order of their
    requests, which determines the result of an upsert.
    """
    marks = ", ".join("?" * len(operations))
    row = meta.execute(
        f"UPDATE jobs SET status = 'processing', started = ? WHERE id = ("
        f" SELECT min(id) FROM jobs WHERE status = 'waiting' AND operation IN ({marks})"
        f" AND target NOT IN (SELECT target FROM jobs WHERE status = 'processing'))"
        f" RETURNING {_COLUMNS}",
        (now, *operations),
    ).fetchone()
    return _job(row) if row is not None else None


def release(meta: sqlite3.Connection, job_id: int) -> None:
    """Return a processing job, which was interrupted without effects, to the queue."""
    meta.execute(
        "UPDATE jobs SET status = 'waiting', started = NULL WHERE id = ? AND status = 'processing'",
        (job_id,),
    )


def succeed_job(meta: sqlite3.Connection, job_id: int, results: Any, now: str) -> None:
    """End a job successfully."""
    meta.execute(
        "UPDATE jobs SET status = 'success', results = ?, ended = ? WHERE id = ?",
        (orjson.dumps(results).decode(), now, job_id),
    )


def fail_job(meta: sqlite3.Connection, job_id: int, error: Mapping[str, Any], now: str) -> None:
    """End a job with an error."""
    meta.execute(
        "UPDATE jobs SET status = 'error', error = ?, ended = ? WHERE id = ?",
        (orjson.dumps(error).decode(), now, job_id),
    )


def unfinished(meta: sqlite3.Connection) -> list[Job]:
    """Return jobs that are waiting or processing, oldest first."""
    rows = meta.execute(
        f"SELECT {_COLUMNS} FROM jobs WHERE status IN ('waiting', 'processing') ORDER BY id"
    )
    return [_job(row) for row in rows]


def recent(meta: sqlite3.Connection, limit: int) -> list[Job]:
    """Return the last jobs, newest first."""
    rows = meta.execute(f"SELECT {_COLUMNS} FROM jobs ORDER BY id DESC LIMIT ?", (limit,))
    return [_job(row) for row in rows]


def trim(meta: sqlite3.Connection) -> None:
    """Remove finished jobs beyond the newest `KEPT_JOBS`."""
    meta.execute(
        "DELETE FROM jobs WHERE status IN ('success', 'error')"
        " AND id <= (SELECT max(id) FROM jobs) - ?",
        (KEPT_JOBS,),
    )


def job_reply(job: Job, project: Project, status: int = 200) -> Reply:
    """Return a reply that shows a job."""
    return json_reply(job_detail(job, project), status)


def job_detail(job: Job, project: Project) -> dict[str, Any]:
    """Return *job* as the API shows it; ``results`` is an empty list until there are results."""
    detail = {
        "id": job.id,
        "status": job.status,
        "url": f"{project.base_url}/v2/storage/jobs/{job.id}",
        "operationName": job.operation,
        "operationParams": job.params,
        "results": job.results or [],
        "createdTime": job.created,
        "startTime": job.started,
        "endTime": job.ended,
        "token": {"id": job.token_id},
    }
    if job.error is not None:
        detail["error"] = job.error
    return detail


class Jobs:
    """The operations on jobs."""

    def __init__(self, project: Project) -> None:
        self._project = project

    def routes(self) -> list[Route]:
        """Return the routes of this part of the API."""
        return [
            Route("listJobs", "GET", "/v2/storage/jobs", self.list_all),
            Route("getJob", "GET", "/v2/storage/jobs/<job>", self.get),
        ]

    async def list_all(self, call: Call) -> Reply:
        """List the jobs that the caller may see, newest first."""
        limit = call.query_number("limit", 20, least=1, most=MAX_LISTED_JOBS)
        offset = call.query_number("offset", 0, least=0, most=KEPT_JOBS)
        found = await self._project.store.meta.read(recent, KEPT_JOBS)
        seen = [job for job in found if _may_see(call.token, job)]
        return json_reply([job_detail(job, self._project) for job in seen[offset : offset + limit]])

    async def get(self, call: Call) -> Reply:
        """Return a job of the token's project."""
        job_id = call.id("job", "storage.jobs.notFound")
        job = await self._project.store.meta.read(find, job_id)
        if job is None:
            raise not_found(f'job "{job_id}" not found', "storage.jobs.notFound")
        _require_job(call.token, job)
        return job_reply(job, self._project)


def _may_see(token: Token, job: Job) -> bool:
    # A token that replaces a sink's token must be able to follow the jobs of the old token.
    bucket_id = ".".join(job.target.split(".")[:2])
    return token.is_master or token.id == job.token_id or bucket_id in token.bucket_permissions


def _require_job(token: Token, job: Job) -> None:
    if not _may_see(token, job):
        raise access_denied("the job belongs to another token")
