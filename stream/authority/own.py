"""Projects of this service: tokens and branches in etcd.

Note [Revocation]: a token is revoked when its record is deleted, and every node must refuse it
within a second, even if its connections fail. So the mirror is used only while it is known to
contain all revocations; see Note [Current tokens] in `stream.authority.current`. If the mirror is
behind or doesn't have the token, the token's record is read from etcd. It is cached for
`REMEMBERED_SECONDS`, counted from the beginning of the read. While etcd can't be reached, calls are
refused with 503 after `stream.authority.current.TRUSTED_SECONDS`.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from stream.authority.current import CurrentTokens
from stream.authority.interface import Branch, ProjectToken, SourceChange, TokenInfo
from stream.authority.remembered import RememberedAnswers
from stream.authority.rights import BOOTSTRAP
from stream.authority.tokens import TokenRecord, Tokens, digest
from stream.definition import entity, errors, prefix
from stream.definition.entity import By
from stream.definition.key import BranchKey
from stream.definition.repository import Definitions
from stream.definition.stored import read_stored, readable
from stream.definition.transaction import Change
from stream.errors import UserError
from stream.etcd import AtomicTxn, EtcdClient, atomic
from stream.values.token import Token, is_sendable

__all__ = ["DEFAULT_BRANCH", "REMEMBERED_SECONDS", "OwnAuthority"]

_log = Logger(namespace="stream.authority")

REMEMBERED_SECONDS = 0.5
"""Validity of a token's record that was read from etcd; see Note [Revocation]."""

DEFAULT_BRANCH = Branch(1, "default", True)
"""The branch that every project has."""

MIN_BOOTSTRAP_CHARACTERS = 32
_MAX_BOOTSTRAP_BYTES = 1024


class OwnAuthority(Service):
    """A `stream.authority.ProjectAuthority` with tokens in etcd.

    The Deferred of startService fires when the tokens and the bootstrap token have been read. It
    fails with UserError if the bootstrap token is invalid.

    :param client: etcd client, already started.
    :param now: returns the current time in UTC.
    :param bootstrap_file: file with a token that may create tokens of the project
        *bootstrap_project*; empty if there is none.
    """

    challenge = 'Bearer realm="stream"'

    def __init__(
        self,
        reactor: Any,
        client: EtcdClient,
        now: Callable[[], datetime],
        *,
        bootstrap_file: str = "",
        bootstrap_project: int = 1,
    ) -> None:
        self._reactor = reactor
        self._client = client
        self._now = now
        self._bootstrap_file = bootstrap_file
        self._bootstrap = TokenInfo(
            BOOTSTRAP,
            "bootstrap token",
            False,
            bootstrap_project,
            str(bootstrap_project),
            rights=(BOOTSTRAP,),
        )
        self._bootstrap_digest = ""
        self.tokens = Tokens(client, now)
        self._current = CurrentTokens(reactor, client)
        self._answers: RememberedAnswers[TokenRecord] = RememberedAnswers(
            reactor, seconds=lambda _: REMEMBERED_SECONDS
        )

    async def startService(self) -> None:
        super().startService()
        await self._current.startService()
        if self._bootstrap_file:
            text: str = await deferToThreadPool(
                self._reactor, self._reactor.getThreadPool(), _bootstrap_token, self._bootstrap_file
            )
            self._bootstrap_digest = digest(text)
            _log.warn(
                "the bootstrap token is accepted for project {project}: remove the setting "
                '"auth.bootstrapTokenFile" when the first token is created',
                project=self._bootstrap.project_id,
            )

    async def stopService(self) -> None:
        super().stopService()
        await self._current.stopService()

    async def verify(self, token: Token) -> TokenInfo:
        """Return the project and rights of a token, from the bootstrap token or etcd."""
        if self._bootstrap_digest and hmac.compare_digest(
            self._bootstrap_digest, digest(token.value)
        ):
            return self._bootstrap
        record = await self._current.find(token.value)
        if record is None:
            record = await self._answers.get(token.fingerprint(), lambda: self._read(token))
        if record.has_expired(self._now()):
            raise UserError("the token has expired", status=401, name="tokenExpired")
        key = record.key
        return TokenInfo(
            key.token_id,
            record.name,
            False,
            key.project_id,
            str(key.project_id),
            rights=record.known_rights,
        )

    async def _read(self, token: Token) -> TokenRecord:
        record = await self.tokens.find(token.value)
        if record is None:
            raise UserError("the token is unknown or was revoked", status=401, name="tokenInvalid")
        return record

    async def exchange(self, token: str, project_id: int) -> ProjectToken:
        """Refuse every token, because this authority exchanges none."""
        raise UserError("the token is unknown or was revoked", status=401, name="tokenInvalid")

    async def branch(self, token: Token, branch_id: int) -> Branch:
        """Return a branch of the token's project, by its id."""
        for branch in await self.branches(token):
            if branch.id == branch_id:
                return branch
        info = await self.verify(token)
        raise errors.branch_not_found(BranchKey(info.project_id, branch_id))

    async def branches(self, token: Token) -> Sequence[Branch]:
        """Return the active branches of the token's project."""
        info = await self.verify(token)
        found = await self._client.range(f"{prefix.BRANCH_ACTIVE}{info.project_id}/")
        stored = [branch for _, branch in readable(entity.Branch, found.kvs)]
        others = [each for each in stored if each.key.branch_id != DEFAULT_BRANCH.id]
        others.sort(key=lambda each: each.key.branch_id)
        return [
            DEFAULT_BRANCH,
            *(Branch(each.key.branch_id, each.name, False) for each in others),
        ]

    async def create_branch(self, token: Token, name: str, by: By) -> Branch:
        """Create a branch in the token's project."""
        project = (await self.verify(token)).project_id

        async def body(txn: AtomicTxn) -> Branch:
            known = await txn.range(f"{prefix.BRANCH_ACTIVE}{project}/", track_deletes=False)
            stored = [read_stored(entity.Branch, each) for each in known]
            if name == DEFAULT_BRANCH.name or any(each.name == name for each in stored):
                raise errors.branch_exists(name)
            highest = max([DEFAULT_BRANCH.id, *(each.key.branch_id for each in stored)])
            key = BranchKey(project, highest + 1)
            change = Change(txn, self._now(), by)
            await Definitions().create_branch(change, key, is_default=False, name=name)
            return Branch(key.branch_id, name, False)

        return await atomic(self._client, body)

    def report(self, token: Token, change: SourceChange) -> None:
        """Do nothing: these projects have no event log."""


def _bootstrap_token(path: str) -> str:
    """Read the token from the file; this blocks. Raises UserError."""
    where = f'the file "{path}" of the setting "auth.bootstrapTokenFile"'
    try:
        with Path(path).open("rb") as file:
            text = file.read(_MAX_BOOTSTRAP_BYTES + 1).decode("ascii").strip()
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {where}: {type(error).__name__}") from None
    if not MIN_BOOTSTRAP_CHARACTERS <= len(text) <= _MAX_BOOTSTRAP_BYTES or not is_sendable(text):
        raise UserError(
            f"{where} must contain a token of {MIN_BOOTSTRAP_CHARACTERS} to {_MAX_BOOTSTRAP_BYTES} "
            "visible characters, for example the output of `openssl rand -hex 32`"
        )
    return text
