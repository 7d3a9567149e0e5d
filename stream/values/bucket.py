"""A limit of how often something may happen."""

from __future__ import annotations

__all__ = ["TokenBucket"]


class TokenBucket:
    """Lets *rate* things a second through in the long run, and up to *rate* of them at once.

    The caller passes the time in seconds; a clock that is set back costs at most a second.

    :param rate: at least 1.
    """

    __slots__ = ("_at", "_rate", "_tokens")

    def __init__(self, rate: int, now: float) -> None:
        self._rate = rate
        self._tokens = float(rate)
        self._at = now

    @property
    def due(self) -> float:
        """From when on one thing may pass."""
        return self._at + max(0.0, 1.0 - self._tokens) / self._rate

    def take(self, now: float, wanted: int = 1) -> int:
        """How many of *wanted* may pass."""
        tokens = self._tokens
        if now != self._at:
            tokens = min(self._rate, tokens + max(0.0, now - self._at) * self._rate)
            self._at = now
        granted = min(wanted, int(tokens))
        self._tokens = tokens - granted
        return granted
