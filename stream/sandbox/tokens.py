"""The index, branches and tokens, including the authentication of callers."""

from __future__ import annotations

import hmac
import sqlite3
from typing import Any

import attrs
import orjson

from stream.sandbox.auth import (
    Token,
    hash_token,
    new_sink_token,
    sink_token_id,
)
from stream.sandbox.body import Body, invalid
from stream.sandbox.http import Access, Call, Reply, Route, json_reply, not_found
from stream.sandbox.project import Project
from stream.sandbox.store import iso_time

__all__ = ["Tokens"]

MAX_DESCRIPTION_CHARS = 255


class Tokens:
    """The operations on tokens, and `authenticate` for the gate.

    Programmatic tokens are handled in `stream.sandbox.programs`.
    """

    def __init__(self, project: Project) -> None:
        self._project = project
        self._meta = project.store.meta

    def routes(self) -> list[Route]:
        """Return the routes of this part of the API."""
        return [
            Route("index", "GET", "/v2/storage/", self.index, Access.PUBLIC),
            Route("verifyToken", "GET", "/v2/storage/tokens/verify", self.verify),
            Route("createToken", "POST", "/v2/storage/tokens", self.create),
            Route("deleteToken", "DELETE", "/v2/storage/tokens/<token>", self.delete),
            Route("listBranches", "GET", "/v2/storage/dev-branches", self.list_branches),
            Route("getBranch", "GET", "/v2/storage/dev-branches/<branch>", self.get_branch),
        ]

    async def authenticate(self, text: str) -> Token | None:
        """Return the caller whose token is *text*; ``None`` if there is none."""
        fixed = self._project.fixed_tokens.find(text)
        if fixed is not None:
            return fixed
        token_id = sink_token_id(text, self._project.project_id)
        if token_id is None:
            return None
        row = await self._meta.read(_find, token_id)
        if row is None or not hmac.compare_digest(row[0], hash_token(text)):
            return None
        token = _caller(token_id, orjson.loads(row[1]))
        return None if self._is_expired(token) else token

    def _is_expired(self, token: Token) -> bool:
        return 0 < token.expires <= self._project.store.now()

    async def give(self, token: Token) -> tuple[Token, str]:
        """Store *token*; return it with its ID, and its secret. Expired tokens are removed."""
        project = self._project
        return await self._meta.write(_create, token, project.project_id, project.store.now())

    async def index(self, call: Call) -> Reply:
        """Return the index in the form of the Storage API."""
        reply = {
            "api": "storage",
            "version": "v2",
            "services": [],
            "features": [],
            "components": [],
        }
        return json_reply(reply)

    async def verify(self, call: Call) -> Reply:
        """Return the token of the request with its rights."""
        return json_reply(self.detail(call.token))

    async def create(self, call: Call) -> Reply:
        """Create a token with the rights that the body contains."""
        call.token.require_manage()
        body, creator = call.body(), call.token
        token = Token(
            id="",
            description=body.text("description", "", max_chars=MAX_DESCRIPTION_CHARS),
            bucket_permissions=_permissions(body),
            can_read_all_files=body.flag("canReadAllFileUploads"),
            can_purge_trash=body.flag("canPurgeTrash"),
            created=self._project.store.now_iso(),
        )
        token, secret = await self.give(token)
        creator_detail = {"id": creator.number, "description": creator.description}
        reply = self.detail(token) | {"token": secret, "creatorToken": creator_detail}
        return json_reply(reply, 201)

    async def delete(self, call: Call) -> Reply:
        """Delete a created token."""
        call.token.require_manage()
        token_id = call.id("token", "storage.tokens.notFound")
        if self._project.fixed_tokens.by_id(str(token_id)) is not None:
            raise invalid("a configured token can't be deleted")
        if not await self._meta.write(_delete, token_id):
            raise not_found(f'token "{token_id}" not found', "storage.tokens.notFound")
        return Reply(status=204)

    async def list_branches(self, call: Call) -> Reply:
        """List the branches of the project, of which there is one."""
        return json_reply([self._branch()])

    async def get_branch(self, call: Call) -> Reply:
        """Return the branch that the path names."""
        self._project.require_branch(call)
        return json_reply(self._branch())

    def _branch(self) -> dict[str, Any]:
        return {
            "id": self._project.branch_id,
            "name": "Main",
            "description": "",
            "created": self._project.started,
            "isDefault": True,
        }

    def detail(self, token: Token) -> dict[str, Any]:
        """Return *token* as the API shows it."""
        project = self._project
        detail: dict[str, Any] = {
            "id": token.id,
            "description": token.description,
            "created": token.created,
            "refreshed": token.created,
            "expires": iso_time(token.expires) if token.expires else None,
            "isExpired": self._is_expired(token),
            "isDisabled": False,
            "isMasterToken": token.is_master,
            "canManageBuckets": token.can_manage,
            "canManageTokens": token.can_manage,
            "canReadAllFileUploads": token.can_read_all_files,
            "canPurgeTrash": token.can_purge_trash,
            # An empty map is sent as an empty list, as in the original's answers.
            "bucketPermissions": dict(token.bucket_permissions) or [],
            "owner": {
                "id": project.project_id,
                "name": project.name,
                "features": [],
                "defaultBackend": "sqlite",
                "fileStorageProvider": "local",
            },
            "organization": {"id": "1"},
        }
        if token.admin is not None:
            detail["admin"] = dict(token.admin)
        return detail


def _permissions(body: Body) -> dict[str, str]:
    permissions = body.text_map("bucketPermissions")
    for access in permissions.values():
        if access not in ("read", "write"):
            raise invalid(f'"{access}" is neither "read" nor "write"')
    return permissions


def _find(meta: sqlite3.Connection, token_id: int) -> tuple[bytes, str] | None:
    row: tuple[bytes, str] | None = meta.execute(
        "SELECT hash, detail FROM tokens WHERE id = ?", (token_id,)
    ).fetchone()
    return row


def _create(
    meta: sqlite3.Connection, token: Token, project_id: int, now: float
) -> tuple[Token, str]:
    meta.execute(
        "DELETE FROM tokens WHERE json_extract(detail, '$.expires') > 0"
        " AND json_extract(detail, '$.expires') <= ?",
        (now,),
    )
    detail = orjson.dumps(attrs.asdict(token)).decode()
    # The ID is part of the token, so the hash is set in a second step of the transaction.
    token_id = meta.execute(
        "INSERT INTO tokens (hash, detail) VALUES (x'', ?)", (detail,)
    ).lastrowid
    assert token_id is not None
    secret = new_sink_token(project_id, token_id)
    meta.execute("UPDATE tokens SET hash = ? WHERE id = ?", (hash_token(secret), token_id))
    return attrs.evolve(token, id=str(token_id)), secret


def _delete(meta: sqlite3.Connection, token_id: int) -> bool:
    return meta.execute("DELETE FROM tokens WHERE id = ?", (token_id,)).rowcount > 0


def _caller(token_id: int, detail: dict[str, Any]) -> Token:
    return Token(**(detail | {"id": str(token_id)}))
