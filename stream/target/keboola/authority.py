"""The Storage API as the authority of its projects."""

from __future__ import annotations

from collections.abc import Sequence

from stream.authority import Branch, SourceChange, TokenInfo
from stream.target.keboola.client import StorageApi
from stream.target.keboola.events import EventSender
from stream.target.keboola.verifier import TokenVerifier
from stream.values.token import Token

__all__ = ["KeboolaAuthority"]


class KeboolaAuthority:
    """A `stream.authority.ProjectAuthority`: the Storage API verifies tokens and takes events."""

    def __init__(self, api: StorageApi, verifier: TokenVerifier, events: EventSender) -> None:
        self._api = api
        self._verifier = verifier
        self._events = events

    async def verify(self, token: Token) -> TokenInfo:
        return await self._verifier.verify(token)

    async def branch(self, token: Token, branch_id: int) -> Branch:
        return await self._api.branch(token, branch_id)

    async def branches(self, token: Token) -> Sequence[Branch]:
        return await self._api.branches(token)

    def report(self, token: Token, change: SourceChange) -> None:
        self._events.send_source_change(token, change)
