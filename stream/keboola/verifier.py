"""Token verification for many requests: remembered briefly, and asked once for concurrent ones."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from stream.keboola.client import StorageApi
from stream.keboola.token import Token
from stream.keboola.values import TokenInfo

__all__ = ["TokenVerifier"]

CACHE_SECONDS = 30.0
CACHE_ENTRIES = 10_000


class TokenVerifier:
    """Verifies tokens through the Storage API.

    Only positive answers are remembered, under the SHA-256 of the token. A token that is revoked
    is therefore refused within the cache's time.

    :param reactor: keeps time.
    :param api: asked for tokens that aren't remembered.
    :param seconds: how long an answer is good.
    :param entries: how many answers are kept; the oldest go first.
    """

    def __init__(
        self,
        reactor: Any,
        api: StorageApi,
        *,
        seconds: float = CACHE_SECONDS,
        entries: int = CACHE_ENTRIES,
    ) -> None:
        self._reactor = reactor
        self._api = api
        self._seconds = seconds
        self._entries = entries
        self._known: OrderedDict[bytes, tuple[float, TokenInfo]] = OrderedDict()
        self._waiting: dict[bytes, list[Deferred[TokenInfo]]] = {}

    async def verify(self, token: Token | str) -> TokenInfo:
        """Whose *token* is.

        :raises StorageApiError: it was refused, or the API can't be asked.
        """
        token = Token.of(token)
        key = token.fingerprint()
        known = self._known.get(key)
        if known is not None and known[0] > self._reactor.seconds():
            return known[1]
        waiter: Deferred[TokenInfo] = Deferred()
        if key in self._waiting:
            self._waiting[key].append(waiter)
        else:
            self._waiting[key] = [waiter]
            # Runs on its own: a caller that goes away must not take the answer from the others.
            asking = Deferred.fromCoroutine(self._api.verify_token(token))
            asking.addCallbacks(
                self._answered, self._refused, callbackArgs=(key,), errbackArgs=(key,)
            )
        return await waiter

    def _answered(self, info: TokenInfo, key: bytes) -> None:
        self._known.pop(key, None)
        self._known[key] = (self._reactor.seconds() + self._seconds, info)
        while len(self._known) > self._entries:
            self._known.popitem(last=False)
        for waiter in self._waiting.pop(key):
            waiter.callback(info)

    def _refused(self, failure: Failure, key: bytes) -> None:
        self._known.pop(key, None)
        for waiter in self._waiting.pop(key):
            waiter.errback(failure)
