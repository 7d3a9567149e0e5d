"""Programmatic tokens, with ``resolve-storage-token`` of the platform's auth bridge.

A service sends the token of a program together with the token of its own service account, and gets
a token of the project for the program. This is a short-lived master token.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from datetime import timedelta

import attrs

from stream.errors import UserError
from stream.sandbox.auth import Token, access_denied, hash_token, token_invalid
from stream.sandbox.http import Access, Call, Reply, Route, json_reply
from stream.sandbox.project import Project
from stream.sandbox.store import iso_time
from stream.sandbox.tokens import Tokens

__all__ = ["DEFAULT_PROGRAM_LIFE", "Program", "Programs"]

DEFAULT_PROGRAM_LIFE = timedelta(hours=1)
_PATH = "/manage/internal/auth-bridge/resolve-storage-token"
_BEARER = "Bearer "


@attrs.frozen
class Program:
    """A program that is known to the platform.

    :param token: token of the program, ``kbc_at_…`` or ``kbc_pat_…``.
    :param role: role of the program in the project.
    """

    token: str = attrs.field(repr=False, validator=attrs.validators.min_len(1))
    description: str = "Local program"
    role: str = "admin"
    admin_id: int = 2
    admin_name: str = "Local Program"


class Programs:
    """Exchanges programmatic tokens for tokens of the project.

    :param service_account: token of the only service that may exchange tokens; ``""`` for none.
    :param life: lifetime of the issued tokens.
    """

    def __init__(
        self,
        project: Project,
        tokens: Tokens,
        programs: Iterable[Program],
        service_account: str,
        life: timedelta = DEFAULT_PROGRAM_LIFE,
    ) -> None:
        self._project = project
        self._tokens = tokens
        self._programs = [(hash_token(program.token), program) for program in programs]
        self._service_account = service_account
        self._life = life.total_seconds()

    def routes(self) -> list[Route]:
        """Return the routes of this part of the API."""
        return [Route("resolveProgramToken", "POST", _PATH, self.resolve, Access.PUBLIC)]

    async def resolve(self, call: Call) -> Reply:
        """Exchange a programmatic token for a token of the project."""
        account = _bearer(call, "X-Kubernetes-Authorization")
        if not self._service_account or not hmac.compare_digest(
            hash_token(account), hash_token(self._service_account)
        ):
            raise access_denied("only the service account of a service can exchange tokens")
        program = self._find(_bearer(call, "X-Subject-Token"))
        if program is None:
            raise token_invalid()
        if call.body().integer("projectId") != self._project.project_id:
            raise access_denied("the program has no access to the project")
        store = self._project.store
        expires = store.now() + self._life
        admin = {"id": program.admin_id, "name": program.admin_name, "role": program.role}
        token, secret = await self._tokens.give(
            Token(
                id="",
                description=program.description,
                is_master=True,
                admin=admin,
                can_read_all_files=program.role == "admin",
                can_purge_trash=program.role == "admin",
                created=store.now_iso(),
                expires=expires,
            )
        )
        reply = {
            "storageToken": secret,
            "projectId": self._project.project_id,
            "tokenId": token.id,
            "userId": program.admin_id,
            "expiresAt": iso_time(expires),
            "tokenDetail": self._tokens.detail(token),
        }
        return json_reply(reply)

    def _find(self, text: str) -> Program | None:
        """Return the program with the token; all tokens are compared in constant time."""
        digest, found = hash_token(text), None
        for expected, program in self._programs:
            if hmac.compare_digest(digest, expected):
                found = program
        return found


def _bearer(call: Call, name: str) -> str:
    """Return the bearer token. Raises UserError: 400, the header is missing."""
    value = call.request.getHeader(name) or ""
    if not value.startswith(_BEARER):
        raise UserError(f'"{name}" is missing from header', name="authBridge.missingHeader")
    return value.removeprefix(_BEARER)
