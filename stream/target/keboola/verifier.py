"""Token verification whose results are shared by many requests."""

from __future__ import annotations

from typing import Any

from stream.authority import TokenInfo
from stream.authority.remembered import CACHE_ENTRIES, RememberedAnswers
from stream.target.keboola.client import StorageApi
from stream.values.token import Token

__all__ = ["CACHE_SECONDS", "TokenVerifier"]

CACHE_SECONDS = 30.0


class TokenVerifier:
    """Verifies tokens through the Storage API; see `RememberedAnswers`.

    :param reactor: provides the time.
    :param api: client that verifies tokens that aren't cached.
    :param seconds: how long an answer is valid.
    :param entries: maximum number of answers of each kind; the oldest are removed first.
    """

    def __init__(
        self,
        reactor: Any,
        api: StorageApi,
        *,
        seconds: float = CACHE_SECONDS,
        entries: int = CACHE_ENTRIES,
    ) -> None:
        self._api = api
        self._answers: RememberedAnswers[TokenInfo] = RememberedAnswers(
            reactor, seconds=lambda _: seconds, entries=entries
        )

    async def verify(self, token: Token | str) -> TokenInfo:
        """Return the owner and rights of *token*.

        Raises StorageApiError: the token was refused, or the API is unavailable. Raises UserError:
        503 if too many unknown tokens are being verified.
        """
        token = Token.of(token)
        return await self._answers.get(token.fingerprint(), lambda: self._api.verify_token(token))
