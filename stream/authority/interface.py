"""The interface of the project authority, as used by the API."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

import attrs

from stream.authority.rights import Right
from stream.authority.tokens import Tokens
from stream.definition.entity import By
from stream.definition.key import SourceKey
from stream.values.token import Token

__all__ = ["Admin", "Branch", "ProjectAuthority", "ProjectToken", "SourceChange", "TokenInfo"]


@attrs.frozen
class Admin:
    """The owner of a master token. *role* is ``admin`` for users who may write."""

    id: int
    name: str
    role: str


@attrs.frozen
class TokenInfo:
    """The owner and the rights of a token.

    :param admin: the user who owns the token; ``None`` if it belongs to no person.
    :param rights: rights of the token; ``None`` if the role of *admin* decides.
    """

    id: str
    description: str
    is_master: bool
    project_id: int
    project_name: str
    admin: Admin | None = None
    rights: tuple[Right, ...] | None = None


@attrs.frozen
class ProjectToken:
    """A token of a project, issued for a program.

    :param expires_at: time in UTC; ``None`` if the token doesn't expire.
    """

    token: Token
    info: TokenInfo
    expires_at: datetime | None = None


@attrs.frozen
class Branch:
    """A development branch of a project."""

    id: int
    name: str
    is_default: bool


@attrs.frozen(kw_only=True)
class SourceChange:
    """A change of a source, for the event log of its project.

    :ivar name: name of the source.
    :ivar verb: the kind of change, for example ``create``.
    :ivar seconds: duration of the change.
    :ivar error: why it failed; ``None`` after success.
    """

    key: SourceKey
    name: str
    verb: str
    seconds: float
    error: Exception | None


class ProjectAuthority(Protocol):
    """Verifies tokens and lists the branches of projects.

    :ivar challenge: the value of ``WWW-Authenticate`` in a 401, including that for a call without a
        token. If it is empty, there is no such header, and a missing token is a missing parameter
        (400).
    :ivar tokens: tokens of projects, if this service makes them; ``None`` if they come from
        elsewhere.
    """

    @property
    def challenge(self) -> str:
        """The value of ``WWW-Authenticate`` in a 401; empty if there is no such header."""

    @property
    def tokens(self) -> Tokens | None:
        """The tokens of projects; ``None`` if another service makes them."""

    async def verify(self, token: Token) -> TokenInfo:
        """Return the owner and rights of *token*.

        Raises UserError: the token was refused, or can't be verified now.
        """

    async def exchange(self, token: str, project_id: int) -> ProjectToken:
        """Exchange a program's *token* for a token of a project.

        Raises UserError: the token was refused, it can't be exchanged now, or this authority
        exchanges no tokens.
        """

    async def branch(self, token: Token, branch_id: int) -> Branch:
        """Return the branch with this id. Raises UserError."""

    async def branches(self, token: Token) -> Sequence[Branch]:
        """Return all branches of the token's project. Raises UserError."""

    async def create_branch(self, token: Token, name: str, by: By) -> Branch:
        """Create a branch of the token's project.

        Raises UserError: the branch can't be created, or this authority doesn't support it.
        """

    def report(self, token: Token, change: SourceChange) -> None:
        """Send *change* to the project's event log in the background; failures are only logged."""
