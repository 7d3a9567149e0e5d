"""The delay before a failed operation on a file or a slice is retried."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from typing import Self

import attrs

from stream.values.codec import field
from stream.values.utctime import is_ahead, to_nanoseconds

__all__ = ["NO_RETRY", "Retry", "backoff"]

_FIRST = timedelta(minutes=2)
_FACTOR = 4
_MAXIMUM = timedelta(hours=3)
_JITTER = 0.1
_SHORTEST_WAIT_SECONDS = 0.001
_MAX_REASON = 2000
"""Maximum length of a stored reason, which is written again with every change of the record."""


def backoff(attempt: int, failed_at: datetime, *, jitter: float = _JITTER) -> timedelta:
    """Return the delay after the *attempt*-th failure.

    The delay starts at 2 min, is multiplied by 4 after each failure, up to 3 h, and varies by ±
    *jitter*.

    The jitter is derived from the time of the failure, so equal input gives an equal delay.
    """
    delay = min(_FIRST * int(_FACTOR ** min(attempt - 1, 10)), _MAXIMUM)
    factor = random.Random(to_nanoseconds(failed_at)).uniform(1 - jitter, 1 + jitter)
    return delay * factor if jitter else delay


@attrs.frozen
class Retry:
    """The failed attempts since the last change of state; without any, all fields are empty."""

    retry_attempt: int = field(default=0, omit_empty=True)
    retry_reason: str = field(default="", omit_empty=True)
    first_failed_at: datetime | None = None
    last_failed_at: datetime | None = None
    retry_after: datetime | None = None

    def failed(self, now: datetime, reason: str, *, delay: timedelta | None = None) -> Self:
        """Return a copy with one more failed attempt.

        :param delay: a fixed delay for errors that an early retry can't fix; by default `backoff`.
        """
        attempt = self.retry_attempt + 1
        return attrs.evolve(
            self,
            retry_attempt=attempt,
            retry_reason=_bounded(reason),
            first_failed_at=self.first_failed_at or now,
            last_failed_at=now,
            retry_after=now + (backoff(attempt, now) if delay is None else delay),
        )

    def allows(self, now: datetime) -> bool:
        """Return whether the operation may be retried.

        It also may if the clock was set back since the failure, or if the record contains no time.
        """
        return (
            self.retry_attempt == 0
            or self.retry_after is None
            or self.retry_after < now
            or (self.last_failed_at is not None and is_ahead(self.last_failed_at, now))
        )

    def wait(self, now: datetime) -> float:
        """Return the seconds until `allows` returns true; 0 if it already does."""
        if self.allows(now):
            return 0.0
        assert self.retry_after is not None
        # Never zero: at exactly that time, a retry is still too early.
        return max((self.retry_after - now).total_seconds(), _SHORTEST_WAIT_SECONDS)


def _bounded(reason: str) -> str:
    """Return *reason* shortened in the middle; its beginning and its end are the most useful."""
    if len(reason) <= _MAX_REASON:
        return reason
    half = _MAX_REASON // 2
    return f"{reason[:half]} … {reason[-half:]}"


NO_RETRY = Retry()
