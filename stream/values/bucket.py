"""A rate limit."""

from __future__ import annotations

__all__ = ["TokenBucket"]


class TokenBucket:
    """Allows *rate* events per second on average, and up to *rate* events at once.

    The caller passes the time in seconds. If the clock is set back, events are delayed by at most
    one second.

    :param rate: events per second, at least 1.
    """

    __slots__ = ("_at", "_rate", "_tokens")

    def __init__(self, rate: int, now: float) -> None:
        self._rate = rate
        self._tokens = float(rate)
        self._at = now

    @property
    def due(self) -> float:
        """Return the time from which the next event is allowed."""
        return self._at + max(0.0, 1.0 - self._tokens) / self._rate

    def take(self, now: float, wanted: int = 1) -> int:
        """Return how many of *wanted* events are allowed now."""
        tokens = self._tokens
        if now != self._at:
            tokens = min(self._rate, tokens + max(0.0, now - self._at) * self._rate)
            self._at = now
        granted = min(wanted, int(tokens))
        self._tokens = tokens - granted
        return granted
