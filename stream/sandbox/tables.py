"""Tables, with their definition, metadata, import, preview and deletion."""

from __future__ import annotations

import csv
import io
import re
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import DeferredLock

from stream.errors import UserError
from stream.sandbox import catalogue, rows
from stream.sandbox.auth import Token
from stream.sandbox.body import MAX_ITEMS, Body, invalid
from stream.sandbox.buckets import find_bucket, no_bucket
from stream.sandbox.catalogue import Table
from stream.sandbox.files import find_file, no_file
from stream.sandbox.http import Call, Reply, Route, json_reply
from stream.sandbox.jobs import CREATE_TABLE, IMPORT, Job, create_job, job_reply
from stream.sandbox.project import Project

__all__ = ["Tables", "table_detail"]

_NAME = re.compile(r"[A-Za-z0-9_-]{1,96}")
MAX_COLUMN_CHARS = 128
MAX_PREVIEW_ROWS = 1000
MAX_PREVIEW_CHARS = 16 * 1024 * 1024


class Tables:
    """The operations on tables.

    :param catalogue_lock: lock that is held while the set of tables changes in either database.
    :param wake: notifies the runner of a new job.
    """

    def __init__(
        self, project: Project, catalogue_lock: DeferredLock, wake: Callable[[], None]
    ) -> None:
        self._project = project
        self._store = project.store
        self._lock = catalogue_lock
        self._wake = wake

    def routes(self) -> list[Route]:
        """Return the routes of this part of the API."""
        branch = "/v2/storage/branch/<branch>"
        table = f"{branch}/tables/<table>"
        definition = f"{branch}/buckets/<bucket>/tables-definition"
        return [
            Route("getTable", "GET", table, self.get),
            Route("createTable", "POST", definition, self.create),
            Route("deleteTable", "DELETE", table, self.delete),
            Route("setTableMetadata", "POST", f"{table}/metadata", self.set_metadata),
            Route("importTable", "POST", f"{table}/import-async", self.import_async),
            Route("previewTable", "GET", f"{table}/data-preview", self.preview),
        ]

    async def get(self, call: Call) -> Reply:
        """Return a table with its metadata."""
        table_id = self._reach(call, write=False)
        table, metadata = await self._store.meta.read(catalogue.find_with_metadata, table_id)
        return json_reply(table_detail(table, self._project) | {"metadata": metadata})

    async def create(self, call: Call) -> Reply:
        """Create a table."""
        self._project.require_branch(call)
        bucket_id = call.args["bucket"]
        call.token.require_bucket(bucket_id, write=True)
        name, columns, primary_key = _definition(call.body())
        table_id = f"{bucket_id}.{name}"
        params = {"name": name, "columns": columns, "primaryKey": primary_key}
        job = await self._store.meta.write(
            _ask_for_table, bucket_id, table_id, params, call.token, self._store.now_iso()
        )
        self._wake()
        return job_reply(job, self._project, 202)

    async def delete(self, call: Call) -> Reply:
        """Delete a table with its rows."""
        # In the sandbox no object refers to a table, so "force" has no effect.
        table_id = self._reach(call, write=True)
        await self._lock.acquire()
        try:
            await self._store.meta.write(catalogue.forget_table, table_id)
            await self._store.data.write(rows.drop_tables, [table_id])
        finally:
            self._lock.release()
        return Reply(status=204)

    async def set_metadata(self, call: Call) -> Reply:
        """Set metadata of a table."""
        table_id, body = self._reach(call, write=True), call.body()
        values = [(item.text("key"), item.text("value", "")) for item in body.objects("metadata")]
        metadata = await self._store.meta.write(
            catalogue.put_metadata,
            table_id,
            body.text("provider"),
            values,
            self._store.now_iso(),
        )
        return json_reply({"metadata": metadata, "columnsMetadata": []}, 201)

    async def import_async(self, call: Call) -> Reply:
        """Start the job that imports a file into a table."""
        table_id, body = self._reach(call, write=True), call.body()
        file_id = body.integer("dataFileId")
        columns = body.texts("columns")
        if not body.flag("withoutHeaders") or not columns:
            raise invalid('only files without headers are imported, with "columns" in the request')
        if body.text("escapedBy", ""):
            raise invalid('"escapedBy" is not supported: an enclosure is escaped by doubling it')
        params = {
            "dataFileId": file_id,
            "incremental": body.flag("incremental"),
            "columns": columns,
            "delimiter": _character(body, "delimiter", ","),
            "enclosure": _character(body, "enclosure", '"'),
        }
        if params["delimiter"] == params["enclosure"]:
            raise invalid('"delimiter" and "enclosure" are the same')
        job = await self._store.meta.write(
            _ask_for_import, table_id, params, call.token, self._store.now_iso()
        )
        self._wake()
        return job_reply(job, self._project, 202)

    async def preview(self, call: Call) -> Reply:
        """Return the first rows as CSV with a header, or as JSON.

        The rows may end early at `MAX_PREVIEW_CHARS`.
        """
        table_id = self._reach(call, write=False)
        limit = call.query_number("limit", 100, least=1, most=MAX_PREVIEW_ROWS)
        table = await self._store.meta.read(catalogue.find_table, table_id)
        if call.query("format") == "json":
            found = await self._store.data.read(_preview_rows, table_id, table.columns, limit)
            return json_reply(_preview_json(table.columns, found))
        text = await self._store.data.read(_preview, table_id, table.columns, limit)
        return Reply(text, content_type="text/csv; charset=utf-8")

    def _reach(self, call: Call, *, write: bool) -> str:
        """Check the branch and the caller's right; return the table's ID."""
        self._project.require_branch(call)
        table_id = call.args["table"]
        parts = table_id.split(".")
        if len(parts) != 3 or not all(parts):
            raise catalogue.no_table(table_id)
        call.token.require_bucket(".".join(parts[:2]), write=write)
        return table_id


def table_detail(table: Table, project: Project) -> dict[str, Any]:
    """Return *table* as the API shows it, without metadata."""
    base = f"{project.base_url}/v2/storage/branch/{project.branch_id}"
    return {
        "uri": f"{base}/tables/{table.id}",
        "id": table.id,
        "name": table.name,
        "displayName": table.name,
        "columns": table.columns,
        "primaryKey": table.primary_key,
        "rowsCount": table.rows_count,
        "dataSizeBytes": 0,
        "created": table.created,
        "lastChangeDate": table.changed,
        "lastImportDate": table.last_import,
        "isAlias": False,
        "isTyped": False,
        "metadata": [],
        "columnMetadata": [],
        "bucket": {"id": table.bucket_id, "uri": f"{base}/buckets/{table.bucket_id}"},
    }


def _definition(body: Body) -> tuple[str, list[str], list[str]]:
    name = body.text("name", max_chars=96)
    if not _NAME.fullmatch(name):
        raise invalid('"name" has characters other than letters, digits, "_" and "-"')
    columns = [item.text("name", max_chars=MAX_COLUMN_CHARS) for item in body.objects("columns")]
    primary_key = body.texts("primaryKeysNames")
    if not columns:
        raise invalid(f'"columns" is empty; a table has 1 to {MAX_ITEMS} columns')
    # Column names of SQLite are case-insensitive.
    if len({column.lower() for column in columns}) < len(columns):
        raise invalid('"columns" has a name twice')
    if any("\0" in column for column in columns):
        raise invalid('"columns" has a name with a NUL character')
    for column in primary_key:
        if column not in columns:
            raise invalid(f'"{column}" of the primary key is not a column')
    if len(set(primary_key)) < len(primary_key):
        raise invalid('"primaryKeysNames" has a name twice')
    return name, columns, primary_key


def _character(body: Body, name: str, default: str) -> str:
    text = body.text(name, default, max_chars=1) or default
    if text in "\r\n\0":
        raise invalid(f'"{name}" can\'t be a line end or NUL')
    return text


def _ask_for_table(
    meta: sqlite3.Connection,
    bucket_id: str,
    table_id: str,
    params: dict[str, Any],
    token: Token,
    now: str,
) -> Job:
    if find_bucket(meta, bucket_id) is None:
        raise no_bucket(bucket_id)
    if catalogue.table_exists(meta, table_id):
        raise UserError(f'table "{table_id}" already exists', name="storage.tables.alreadyExists")
    return create_job(meta, CREATE_TABLE, params, table_id, token, now)


def _ask_for_import(
    meta: sqlite3.Connection, table_id: str, params: dict[str, Any], token: Token, now: str
) -> Job:
    catalogue.find_table(meta, table_id)
    file_id = params["dataFileId"]
    file = find_file(meta, file_id)
    if file is None:
        raise no_file(file_id)
    token.require_file(file["token_id"])
    return create_job(meta, IMPORT, params, table_id, token, now, file_id=file_id)


def _preview(data: sqlite3.Connection, table_id: str, columns: Sequence[str], limit: int) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(_preview_rows(data, table_id, columns, limit))
    return text.getvalue().encode("utf-8")


def _preview_rows(
    data: sqlite3.Connection, table_id: str, columns: Sequence[str], limit: int
) -> list[tuple[str, ...]]:
    try:
        return rows.preview(data, table_id, columns, limit, max_chars=MAX_PREVIEW_CHARS)
    except sqlite3.OperationalError as error:
        raise catalogue.no_table(table_id) from error  # deleted after its definition was read


def _preview_json(columns: Sequence[str], found: Sequence[tuple[str, ...]]) -> dict[str, Any]:
    return {
        "columns": list(columns),
        "rows": [
            [
                {"columnName": column, "value": value, "isTruncated": False}
                for column, value in zip(columns, row, strict=True)
            ]
            for row in found
        ],
    }
