"""Buckets, with ``GET``, ``POST`` and ``DELETE branch/{b}/buckets``."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from typing import Any

from stream.errors import UserError
from stream.sandbox.auth import Token, access_denied
from stream.sandbox.body import invalid
from stream.sandbox.http import Call, Reply, Route, json_reply, not_found
from stream.sandbox.jobs import DELETE_BUCKET, Job, create_job, job_reply, succeed_job
from stream.sandbox.project import Project

__all__ = ["Buckets", "find_bucket", "forget_bucket", "no_bucket"]

_NAME = re.compile(r"[A-Za-z0-9_-]{1,94}")  # 96 with the prefix "c-"
_STAGES = ("in", "out", "sys")
_COLUMNS = ("id", "stage", "name", "description", "created", "changed")


class Buckets:
    """The operations on buckets. Deletion is a job, of which *wake* notifies the runner."""

    def __init__(self, project: Project, wake: Callable[[], None]) -> None:
        self._project = project
        self._meta = project.store.meta
        self._wake = wake

    def routes(self) -> list[Route]:
        """Return the routes of this part of the API."""
        path = "/v2/storage/branch/<branch>/buckets"
        return [
            Route("getBucket", "GET", f"{path}/<bucket>", self.get),
            Route("createBucket", "POST", path, self.create),
            Route("deleteBucket", "DELETE", f"{path}/<bucket>", self.delete),
        ]

    async def get(self, call: Call) -> Reply:
        """Return a bucket."""
        self._project.require_branch(call)
        bucket_id = call.args["bucket"]
        if not call.token.is_master:
            raise access_denied("only master tokens can access buckets")
        bucket = await self._meta.read(find_bucket, bucket_id)
        if bucket is None:
            raise no_bucket(bucket_id)
        return self._reply(bucket)

    async def create(self, call: Call) -> Reply:
        """Create a bucket."""
        self._project.require_branch(call)
        call.token.require_manage()
        body = call.body()
        stage, name = body.text("stage"), body.text("name", max_chars=96)
        if stage not in _STAGES:
            raise invalid(f'"{stage}" is not a stage; stages are {", ".join(_STAGES)}')
        if not _NAME.fullmatch(name):
            raise invalid('"name" has characters other than letters, digits, "_" and "-"')
        bucket = await self._meta.write(
            _create, stage, name, body.text("description", ""), self._project.store.now_iso()
        )
        return self._reply(bucket, 201)

    async def delete(self, call: Call) -> Reply:
        """Start the job that deletes a bucket."""
        self._project.require_branch(call)
        call.token.require_manage()
        job = await self._meta.write(
            _ask_for_removal,
            call.args["bucket"],
            call.query_flag("force"),
            call.token,
            self._project.store.now_iso(),
        )
        self._wake()
        return job_reply(job, self._project, 202)

    def _reply(self, bucket: dict[str, Any], status: int = 200) -> Reply:
        uri = (
            f"{self._project.base_url}/v2/storage/branch/{self._project.branch_id}"
            f"/buckets/{bucket['id']}"
        )
        reply = {
            "uri": uri,
            "id": bucket["id"],
            "name": bucket["name"],
            "displayName": bucket["name"].removeprefix("c-"),
            "stage": bucket["stage"],
            "description": bucket["description"],
            "created": bucket["created"],
            "lastChangeDate": bucket["changed"],
            "isReadOnly": False,
            "backend": "sqlite",
            "dataSizeBytes": 0,
            "rowsCount": bucket.get("rows_count", 0),
        }
        return json_reply(reply, status)


def no_bucket(bucket_id: str) -> UserError:
    """Return the 404 error for a bucket that doesn't exist."""
    return not_found(f'bucket "{bucket_id}" not found', "storage.buckets.notFound")


def find_bucket(meta: sqlite3.Connection, bucket_id: str) -> dict[str, Any] | None:
    """Return the bucket as a reply shows it; ``None`` if it doesn't exist."""
    row = meta.execute(
        f"SELECT {', '.join(_COLUMNS)},"
        " (SELECT coalesce(sum(rows_count), 0) FROM tables WHERE bucket_id = buckets.id)"
        " FROM buckets WHERE id = ?",
        (bucket_id,),
    ).fetchone()
    return dict(zip((*_COLUMNS, "rows_count"), row, strict=True)) if row is not None else None


def _create(
    meta: sqlite3.Connection, stage: str, name: str, description: str, now: str
) -> dict[str, Any]:
    bucket_id = f"{stage}.c-{name}"
    values = (bucket_id, stage, f"c-{name}", description, now, now)
    try:
        meta.execute(
            f"INSERT INTO buckets ({', '.join(_COLUMNS)}) VALUES (?, ?, ?, ?, ?, ?)", values
        )
    except sqlite3.IntegrityError as error:
        raise UserError(
            f'bucket "{bucket_id}" already exists', name="storage.buckets.alreadyExists"
        ) from error
    return dict(zip(_COLUMNS, values, strict=True))


def _ask_for_removal(
    meta: sqlite3.Connection, bucket_id: str, force: bool, token: Token, now: str
) -> Job:
    if find_bucket(meta, bucket_id) is None:
        raise no_bucket(bucket_id)
    if not force and _table_ids(meta, bucket_id):
        raise UserError(f'bucket "{bucket_id}" is not empty', name="buckets.deleteNotEmpty")
    params = {"bucketId": bucket_id, "force": force}
    return create_job(meta, DELETE_BUCKET, params, bucket_id, token, now)


def forget_bucket(meta: sqlite3.Connection, job: Job, now: str) -> list[str]:
    """Remove the bucket and finish *job*; return the IDs of its tables.

    Raises UserError: a table has been created in the bucket since, and the deletion isn't forced.
    """
    bucket_id = job.target
    table_ids = _table_ids(meta, bucket_id)
    if table_ids and not job.params["force"]:
        raise UserError(f'bucket "{bucket_id}" is not empty', name="buckets.deleteNotEmpty")
    meta.execute("DELETE FROM buckets WHERE id = ?", (bucket_id,))
    succeed_job(meta, job.id, {"deletedTables": table_ids}, now)
    return table_ids


def _table_ids(meta: sqlite3.Connection, bucket_id: str) -> list[str]:
    rows = meta.execute("SELECT id FROM tables WHERE bucket_id = ?", (bucket_id,))
    return [row[0] for row in rows]
