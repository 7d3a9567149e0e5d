"""The Storage API as the authority of its projects."""

from __future__ import annotations

from collections.abc import Sequence

from stream.authority import Branch, ProjectToken, SourceChange, TokenInfo
from stream.definition.entity import By
from stream.errors import UserError
from stream.target.keboola.client import StorageApi
from stream.target.keboola.events import EventSender
from stream.target.keboola.exchange import TokenExchange
from stream.target.keboola.verifier import TokenVerifier
from stream.values.token import Token

__all__ = ["KeboolaAuthority"]


class KeboolaAuthority:
    """A `stream.authority.ProjectAuthority` that uses the Storage API.

    The Storage API verifies tokens and receives events.

    :param exchange: exchanges programmatic tokens; ``None`` if it isn't configured.
    """

    challenge = ""
    tokens = None

    def __init__(
        self,
        api: StorageApi,
        verifier: TokenVerifier,
        events: EventSender,
        exchange: TokenExchange | None = None,
    ) -> None:
        self._api = api
        self._verifier = verifier
        self._events = events
        self._exchange = exchange

    async def verify(self, token: Token) -> TokenInfo:
        """Return the project and the rights of a token, which Keboola verifies."""
        return await self._verifier.verify(token)

    async def exchange(self, token: str, project_id: int) -> ProjectToken:
        """Exchange a programmatic token for a token of the project at Keboola."""
        if self._exchange is None:
            raise UserError(
                "programmatic token exchange is not configured (no service account token path)",
                name="internalError",
            )
        return await self._exchange.exchange(token, project_id)

    async def branch(self, token: Token, branch_id: int) -> Branch:
        """Return the branch of the token's project that has this ID."""
        return await self._api.branch(token, branch_id)

    async def branches(self, token: Token) -> Sequence[Branch]:
        """Return the branches of the token's project."""
        return await self._api.branches(token)

    async def create_branch(self, token: Token, name: str, by: By) -> Branch:
        """Refuse the request, since branches of such a project are created in Keboola."""
        raise UserError(
            "branches of this project are created in Keboola, not here",
            status=404,
            name="madeElsewhere",
        )

    def report(self, token: Token, change: SourceChange) -> None:
        """Report the change of a source to Keboola as an event."""
        self._events.send_source_change(token, change)
