"""A short-lived cache of answers about tokens, in which concurrent requests share one query."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.python.failure import Failure

from stream.concurrency.waiters import Waiters
from stream.errors import UserError

__all__ = ["CACHE_ENTRIES", "MAX_ASKED", "MAX_QUEUED", "REFUSED_SECONDS", "RememberedAnswers"]

T = TypeVar("T")
E = TypeVar("E")

CACHE_ENTRIES = 10_000
REFUSED_SECONDS = 5.0
"""How long a refused token is refused without another query."""
MAX_ASKED = 16
"""Maximum number of concurrent queries about tokens that were never accepted."""
MAX_QUEUED = 256
"""Maximum number of such tokens in the queue; further ones get 503."""
_REFUSALS = frozenset({401, 403})


class RememberedAnswers(Generic[T]):
    """Cached answers about tokens, by a digest of the token.

    While an answer is cached, a token that has since been revoked is still accepted, and a refused
    token is still refused. So answers are cached only briefly.

    Anyone can send any number of wrong tokens. So tokens that were never accepted share a queue and
    a small number of concurrent queries; tokens that were accepted before don't wait behind them.

    :param reactor: clock.
    :param seconds: how long an answer is valid.
    :param entries: maximum number of answers of each kind; the oldest are removed first.
    """

    def __init__(
        self, reactor: Any, *, seconds: Callable[[T], float], entries: int = CACHE_ENTRIES
    ) -> None:
        self._reactor = reactor
        self._seconds = seconds
        self._entries = entries
        self._known: OrderedDict[bytes, tuple[float, T]] = OrderedDict()
        self._wrong: OrderedDict[bytes, tuple[float, UserError]] = OrderedDict()
        self._waiting: dict[bytes, Waiters[T]] = {}
        self._asked = 0
        self._queue: deque[tuple[bytes, Callable[[], Awaitable[T]]]] = deque()

    async def get(self, key: bytes, ask: Callable[[], Awaitable[T]]) -> T:
        """Return the cached answer, or the one that *ask* returns.

        Raises UserError: the error of *ask*, cached if it was a refusal (401, 403); 503 if too many
        unknown tokens are being verified.

        :param key: a digest of the token and of everything else that the answer depends on.
        """
        now = self._reactor.seconds()
        known = self._known.get(key)
        if known is not None and known[0] > now:
            return known[1]
        wrong = self._wrong.get(key)
        if wrong is not None and wrong[0] > now:
            raise wrong[1].copy()
        waiting = self._waiting.get(key)
        if waiting is not None:
            return await waiting.wait()
        if known is None and len(self._queue) >= MAX_QUEUED:
            raise UserError(
                "too many tokens are being verified, please try again in a moment",
                status=503,
                name="serviceUnavailable",
            )
        waiting = self._waiting[key] = Waiters()
        waiter = waiting.wait()
        if known is not None:
            self._ask(key, ask)
        else:
            self._queue.append((key, ask))
            self._ask_next()
        return await waiter

    def _ask(self, key: bytes, ask: Callable[[], Awaitable[T]]) -> Deferred[None]:
        # The query runs independently, because a caller that disconnects must not cancel it for the
        # others.
        asking = ensureDeferred(_awaited(ask))
        # The age of an answer is counted from the beginning of the query.
        asked_at = self._reactor.seconds()
        return asking.addCallbacks(
            self._answered, self._refused, callbackArgs=(key, asked_at), errbackArgs=(key, asked_at)
        )

    def _ask_next(self) -> None:
        while self._queue and self._asked < MAX_ASKED:
            key, ask = self._queue.popleft()
            if not self._waiting[key]:
                del self._waiting[key]  # All callers have disconnected.
                continue
            self._asked += 1
            self._ask(key, ask).addBoth(self._turn_is_over)

    def _turn_is_over(self, result: object) -> object:
        self._asked -= 1
        self._ask_next()
        return result

    def _answered(self, answer: T, key: bytes, asked_at: float) -> None:
        self._wrong.pop(key, None)
        self._remember(self._known, key, asked_at + self._seconds(answer), answer)
        self._waiting.pop(key).fire(answer)

    def _refused(self, failure: Failure, key: bytes, asked_at: float) -> None:
        error = failure.value
        if isinstance(error, UserError) and not error.unreachable and error.status in _REFUSALS:
            self._known.pop(key, None)
            self._remember(self._wrong, key, asked_at + REFUSED_SECONDS, error.copy())
        self._waiting.pop(key).fail(failure)

    def _remember(
        self, cache: OrderedDict[bytes, tuple[float, E]], key: bytes, until: float, value: E
    ) -> None:
        cache.pop(key, None)
        cache[key] = (until, value)
        while len(cache) > self._entries:
            cache.popitem(last=False)


async def _awaited(ask: Callable[[], Awaitable[T]]) -> T:
    return await ask()
