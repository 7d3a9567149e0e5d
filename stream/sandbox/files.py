"""Staged files: ``files/prepare``, list, get, delete, and the removal of old files.

With the provider ``local``, a client writes objects to a folder, where they become visible when
they are complete. With other providers, it gets a bucket of an object store
(`stream.sandbox.objects`).
"""

from __future__ import annotations

import sqlite3
from typing import Any

import orjson

from stream.errors import UserError
from stream.sandbox.auth import access_denied
from stream.sandbox.http import Call, Reply, Route, json_reply, not_found
from stream.sandbox.importer import MANIFEST, object_url
from stream.sandbox.project import Project
from stream.sandbox.store import iso_time, remove_objects

__all__ = ["Files", "find_file", "list_files", "no_file", "note_file_import"]

KEPT_SECONDS = 15 * 24 * 3600.0
KEPT_AFTER_IMPORT_SECONDS = 24 * 3600.0
_COLUMNS = (
    "id", "name", "tags", "sliced", "encrypted", "permanent", "token_id", "created", "created_at",
    "imported_at",
)  # fmt: skip
_SELECT = f"SELECT {', '.join(_COLUMNS)} FROM files"


class Files:
    """The operations on files of the staging storage."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._store = project.store

    def routes(self) -> list[Route]:
        """Return the routes of this part of the API."""
        path = "/v2/storage/branch/<branch>/files"
        return [
            Route("prepareFile", "POST", f"{path}/prepare", self.prepare),
            Route("listFiles", "GET", path, self.list_all),
            Route("getFile", "GET", f"{path}/<file>", self.get),
            Route("deleteFile", "DELETE", f"{path}/<file>", self.delete),
        ]

    async def prepare(self, call: Call) -> Reply:
        """Create a file, including its folder, and return the location of its objects."""
        self._project.require_branch(call)
        if call.token.is_master and not call.token.can_manage:
            raise access_denied("this token can only read")
        body, now = call.body(), self._store.now()
        life = self._project.credentials_life.total_seconds()
        if call.fault is not None and call.fault.expires_in is not None:
            life = call.fault.expires_in
        values = (
            body.text("name"),
            orjson.dumps(body.texts("tags")).decode(),
            body.flag("isSliced"),
            body.flag("isEncrypted"),
            body.flag("isPermanent"),
            call.token.id,
            iso_time(now),
            now,
        )
        file = await self._store.meta.write(_create, values)
        objects = self._project.objects
        if objects is not None:
            members = objects.prepared(file["id"], sliced=bool(file["sliced"]), now=now, life=life)
            return json_reply(self._detail(file) | members, 201)
        folder = self._store.staging / str(file["id"])
        await self._store.in_thread(folder.mkdir, parents=True, exist_ok=True)
        key = f"{file['id']}/" + ("" if file["sliced"] else "data")
        upload = {
            "directory": str(self._store.staging),
            "key": key,
            "expiration": iso_time(now + life),
        }
        return json_reply(self._detail(file) | {"localUploadParams": upload}, 201)

    async def list_all(self, call: Call) -> Reply:
        """List the newest files that the token may read."""
        self._project.require_branch(call)
        limit = call.query_number("limit", 100, least=1, most=1000)
        owner = None if call.token.is_master or call.token.can_read_all_files else call.token.id
        files = await self._store.meta.read(list_files, limit, owner)
        return json_reply([self._detail(file) for file in files])

    async def get(self, call: Call) -> Reply:
        """Return a file; on request, with credentials to read it."""
        self._project.require_branch(call)
        file = await self._find(call)
        call.token.require_file(file["token_id"])
        reply = self._detail(file)
        if call.query_flag("federationToken") and self._project.objects is None:
            folder = self._store.staging / str(file["id"])
            name = MANIFEST if file["sliced"] else "data"
            reply["url"] = object_url(folder / name)
            reply["localPath"] = {
                "directory": str(self._store.staging),
                "key": f"{file['id']}/",
            }
        return json_reply(reply)

    async def delete(self, call: Call) -> Reply:
        """Delete a file with its content."""
        self._project.require_branch(call)
        file = await self._find(call)
        call.token.require_file(file["token_id"], write=True)
        await self._store.meta.write(forget_files, [file["id"]])
        await self._remove([file["id"]])
        return Reply(status=204)

    async def remove_old(self) -> int:
        """Remove expired files; return their number."""
        now = self._store.now()
        ids = await self._store.meta.write(forget_old_files, now)
        await self._remove(ids)
        return len(ids)

    async def _remove(self, ids: list[int]) -> None:
        objects, staging = self._project.objects, self._store.staging
        if objects is not None:
            for file_id in ids:
                await self._store.in_thread(objects.remove, file_id, staging / str(file_id))
        await self._store.in_thread(remove_objects, staging, ids)

    async def _find(self, call: Call) -> dict[str, Any]:
        file_id = call.id("file", "storage.files.notFound")
        file = await self._store.meta.read(find_file, file_id)
        if file is None:
            raise no_file(file_id)
        return file

    def _detail(self, file: dict[str, Any]) -> dict[str, Any]:
        objects = self._project.objects
        base = f"{self._project.base_url}/v2/storage/branch/{self._project.branch_id}"
        return {
            "id": file["id"],
            "name": file["name"],
            "created": file["created"],
            "uri": f"{base}/files/{file['id']}",
            "provider": "local" if objects is None else objects.provider,
            "region": "local" if objects is None else objects.region,
            "isSliced": bool(file["sliced"]),
            "isEncrypted": bool(file["encrypted"]),
            "isPublic": False,
            "maxAgeDays": None if file["permanent"] else int(KEPT_SECONDS // 86400),
            "tags": orjson.loads(file["tags"]),
            "creatorToken": {"id": int(file["token_id"])},
        }


def no_file(file_id: int) -> UserError:
    """Return the 404 error for a file that doesn't exist."""
    return not_found(f'file "{file_id}" not found', "storage.files.notFound")


def _create(meta: sqlite3.Connection, values: tuple[Any, ...]) -> dict[str, Any]:
    file_id = meta.execute(
        "INSERT INTO files"
        " (name, tags, sliced, encrypted, permanent, token_id, created, created_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        values,
    ).lastrowid
    assert file_id is not None
    file = find_file(meta, file_id)
    assert file is not None
    return file


def find_file(meta: sqlite3.Connection, file_id: int) -> dict[str, Any] | None:
    """Return the file with this ID; ``None`` if there is none."""
    row = meta.execute(f"{_SELECT} WHERE id = ?", (file_id,)).fetchone()
    return dict(zip(_COLUMNS, row, strict=True)) if row is not None else None


def list_files(
    meta: sqlite3.Connection, limit: int, owner: str | None = None
) -> list[dict[str, Any]]:
    """Return the last files, newest first; if *owner* is given, only those that it prepared."""
    rows = meta.execute(
        f"{_SELECT} WHERE ?1 IS NULL OR token_id = ?1 ORDER BY id DESC LIMIT ?2", (owner, limit)
    )
    return [dict(zip(_COLUMNS, row, strict=True)) for row in rows]


def note_file_import(meta: sqlite3.Connection, file_id: int, now: float) -> None:
    """Record the time when a file was imported."""
    meta.execute("UPDATE files SET imported_at = ? WHERE id = ?", (now, file_id))


def forget_old_files(meta: sqlite3.Connection, now: float) -> list[int]:
    """Forget expired files, except those that a job still has to read; return their IDs."""
    rows = meta.execute(
        "SELECT id FROM files WHERE (created_at < ? OR imported_at < ?) AND NOT permanent"
        " AND id NOT IN"
        " (SELECT file_id FROM jobs WHERE status IN ('waiting', 'processing')"
        "  AND file_id IS NOT NULL)",
        (now - KEPT_SECONDS, now - KEPT_AFTER_IMPORT_SECONDS),
    )
    ids = [row[0] for row in rows]
    forget_files(meta, ids)
    return ids


def forget_files(meta: sqlite3.Connection, ids: list[int]) -> None:
    """Remove files from the catalog."""
    meta.executemany("DELETE FROM files WHERE id = ?", [(id,) for id in ids])
