"""Authorization: checks of the token, the branch and the role, in this order."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

from stream.api.http.call import Identity
from stream.authority import ProjectAuthority
from stream.authority.rights import Right
from stream.definition import prefix
from stream.definition.key import BranchKey
from stream.definition.live import LiveDefinitions
from stream.definition.repository import Definitions
from stream.definition.transaction import Change
from stream.errors import UserError
from stream.etcd import AtomicTxn, EtcdClient, atomic
from stream.ops.clock import wall_clock
from stream.values.number import whole_number
from stream.values.token import Token
from stream.values.utctime import from_timestamp

__all__ = ["Branches", "authenticate", "check_right", "token_of"]

_BRANCH_NUMBER = re.compile(r"[+-]?[0-9]{1,18}")
_PROGRAMMATIC = ("kbc_at_", "kbc_pat_")
"""Prefix of programmatic tokens."""


def token_of(header: str, authorization: str) -> tuple[str, bool]:
    """Return the token and whether it came as a bearer token.

    :param header: the value of ``X-StorageApi-Token``.
    :param authorization: the value of ``Authorization``.
    """
    promoted = False
    if not header:
        scheme, _, credentials = authorization.strip().partition(" ")
        if scheme.lower() == "bearer":
            header, promoted = credentials.strip(), True
    _, blank, rest = header.partition(" ")
    return (rest if blank else header), promoted


async def authenticate(authority: ProjectAuthority, token: str, project: str) -> Identity:
    """Verify *token* and return its project.

    Raises UserError: the token is refused, or it is neither a master token nor a token with rights.

    :param project: the value of ``X-KBC-ProjectId``.
    """
    if authority.tokens is None and token.startswith(_PROGRAMMATIC):
        exchanged = await authority.exchange(token, _project(project))
        identity = Identity(exchanged.token, exchanged.info)
    else:
        wrapped = Token(token)
        identity = Identity(wrapped, await authority.verify(wrapped))
    if identity.info.rights is None and not identity.info.is_master:
        raise UserError(
            "please provide a master token of a project administrator",
            status=401,
            name="masterTokenRequired",
        )
    return identity


def _project(text: str) -> int:
    """Return the project that a programmatic token request names. Raises UserError."""
    project_id = whole_number(text, least=1)
    if project_id is None:
        raise UserError(
            "programmatic token request missing valid X-KBC-ProjectId header", name="internalError"
        )
    return project_id


def check_right(identity: Identity, right: Right) -> None:
    """Check that the caller has the *right*. Raises UserError."""
    if identity.may(right):
        return
    rights = identity.info.rights
    if rights is None:
        message = "only admin token can do write operations on streams"
    else:
        message = (
            f'the token "{identity.info.description}" lacks the right "{right}", '
            f"it has: {', '.join(rights) or 'none'}"
        )
    raise UserError(message, status=403, name="forbidden")


class Branches:
    """Resolves the branch in a path to its key; looks up and records an unknown branch.

    :param client: etcd client, already started.
    """

    def __init__(
        self, reactor: Any, client: EtcdClient, live: LiveDefinitions, authority: ProjectAuthority
    ) -> None:
        self._reactor = reactor
        self._client = client
        self._live = live
        self._authority = authority

    async def resolve(self, identity: Identity, text: str) -> BranchKey:
        """Return the branch that the path of a request names.

        :param text: ``default`` or a number.

        Raises UserError: *text* is neither of these, the branch is not the default branch, or there
        are too many branches.
        """
        project = identity.info.project_id
        if text == "default":
            return self._live.default_branch(project) or await self._ask_default(identity)
        if _BRANCH_NUMBER.fullmatch(text) is None:
            raise UserError(f'invalid branch: expected "default" or <int>, given "{text}"')
        key = BranchKey(project, int(text))
        if not self._live.has_branch(key) and not await self._is_recorded(key):
            branch = await self._authority.branch(identity.token, key.branch_id)
            if not branch.is_default:
                raise UserError(
                    "currently only default branch is supported, "
                    f'branch "{key.branch_id}" is not default'
                )
            await self._record(identity, key)
        return key

    async def _is_recorded(self, key: BranchKey) -> bool:
        return await self._client.get(f"{prefix.BRANCH_ACTIVE}{key}") is not None

    async def _ask_default(self, identity: Identity) -> BranchKey:
        for branch in await self._authority.branches(identity.token):
            if branch.is_default:
                key = BranchKey(identity.info.project_id, branch.id)
                if not await self._is_recorded(key):
                    await self._record(identity, key)
                return key
        raise UserError("no default branch found", status=404, name="branchNotFound")

    async def _record(self, identity: Identity, key: BranchKey) -> None:
        now: datetime = from_timestamp(wall_clock(self._reactor)())

        async def body(txn: AtomicTxn) -> None:
            change = Change(txn, now, identity.by)
            await Definitions().create_branch(change, key, is_default=True)

        await atomic(self._client, body)
