"""Token verification for many requests: remembered briefly, and asked once for concurrent ones."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from stream.authority import TokenInfo
from stream.errors import UserError
from stream.target.keboola.client import StorageApi
from stream.target.keboola.errors import StorageApiError
from stream.values.token import Token

__all__ = ["TokenVerifier"]

E = TypeVar("E")

CACHE_SECONDS = 30.0
CACHE_ENTRIES = 10_000
REFUSED_SECONDS = 5.0
"""How long a token that was refused is refused without asking."""
MAX_ASKED = 16
"""Verifications of tokens that were never good, at the same time."""
MAX_QUEUED = 256
"""Such tokens that wait for their turn; more are told to come back."""
_REFUSALS = frozenset({401, 403})


class TokenVerifier:
    """Verifies tokens through the Storage API.

    Answers are remembered briefly, under the SHA-256 of the token: a token that is revoked is still
    taken, and one that was refused is still refused, for the time of the cache.

    Anybody may send any number of wrong tokens. So those that were never good share a few calls to
    the Storage API, and a queue; the ones that were good before don't wait behind them.

    :param reactor: keeps time.
    :param api: asked for tokens that aren't remembered.
    :param seconds: how long an answer is good.
    :param entries: how many answers of each kind are kept; the oldest go first.
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
        self._wrong: OrderedDict[bytes, tuple[float, StorageApiError]] = OrderedDict()
        self._waiting: dict[bytes, list[Deferred[TokenInfo]]] = {}
        self._asked = 0
        self._queue: deque[tuple[bytes, Token]] = deque()

    async def verify(self, token: Token | str) -> TokenInfo:
        """Whose *token* is.

        :raises StorageApiError: it was refused, or the API can't be asked.
        :raises UserError: 503, too many unknown tokens are being verified.
        """
        token = Token.of(token)
        key = token.fingerprint()
        now = self._reactor.seconds()
        known = self._known.get(key)
        if known is not None and known[0] > now:
            return known[1]
        wrong = self._wrong.get(key)
        if wrong is not None and wrong[0] > now:
            raise wrong[1].copy()
        waiter: Deferred[TokenInfo] = Deferred()
        if key in self._waiting:
            self._waiting[key].append(waiter)
        elif known is not None:
            self._waiting[key] = [waiter]
            self._ask(key, token)
        else:
            if len(self._queue) >= MAX_QUEUED:
                raise UserError(
                    "too many tokens are being verified, please try again in a moment",
                    status=503,
                    name="serviceUnavailable",
                )
            self._waiting[key] = [waiter]
            self._queue.append((key, token))
            self._ask_next()
        return await waiter

    def _ask(self, key: bytes, token: Token) -> Deferred[None]:
        # Runs on its own: a caller that goes away must not take the answer from the others.
        asking = Deferred.fromCoroutine(self._api.verify_token(token))
        return asking.addCallbacks(
            self._answered, self._refused, callbackArgs=(key,), errbackArgs=(key,)
        )

    def _ask_next(self) -> None:
        while self._queue and self._asked < MAX_ASKED:
            key, token = self._queue.popleft()
            if all(waiter.called for waiter in self._waiting[key]):
                del self._waiting[key]  # everybody has gone
                continue
            self._asked += 1
            self._ask(key, token).addBoth(self._turn_is_over)

    def _turn_is_over(self, result: object) -> object:
        self._asked -= 1
        self._ask_next()
        return result

    def _answered(self, info: TokenInfo, key: bytes) -> None:
        self._wrong.pop(key, None)
        self._remember(self._known, key, self._seconds, info)
        for waiter in self._waiting.pop(key):
            waiter.callback(info)

    def _refused(self, failure: Failure, key: bytes) -> None:
        error = failure.value
        if isinstance(error, StorageApiError) and error.answered and error.status in _REFUSALS:
            self._known.pop(key, None)
            self._remember(self._wrong, key, REFUSED_SECONDS, error.copy())
        for waiter in self._waiting.pop(key):
            waiter.errback(failure)

    def _remember(
        self, cache: OrderedDict[bytes, tuple[float, E]], key: bytes, seconds: float, value: E
    ) -> None:
        cache.pop(key, None)
        cache[key] = (self._reactor.seconds() + seconds, value)
        while len(cache) > self._entries:
            cache.popitem(last=False)
