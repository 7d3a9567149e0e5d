"""When a failed operation on a file or a slice is tried again."""

from __future__ import annotations

import math
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
"""Characters of a reason that are stored: it is written with every further step of a record."""


def backoff(attempt: int, failed_at: datetime, *, jitter: float = _JITTER) -> timedelta:
    """The delay after the *attempt*-th failure: 2 min × 4 each time, at most 3 h, ± *jitter*.

    The jitter follows from the time of the failure, so equal input gives an equal delay.
    """
    delay = min(_FIRST * int(_FACTOR ** min(attempt - 1, 10)), _MAXIMUM)
    factor = random.Random(to_nanoseconds(failed_at)).uniform(1 - jitter, 1 + jitter)
    return delay * factor if jitter else delay


@attrs.frozen
class Retry:
    """Failed attempts since the last change of state; all fields are empty when there were none."""

    retry_attempt: int = field(default=0, omit_empty=True)
    retry_reason: str = field(default="", omit_empty=True)
    first_failed_at: datetime | None = None
    last_failed_at: datetime | None = None
    retry_after: datetime | None = None

    def failed(self, now: datetime, reason: str, *, delay: timedelta | None = None) -> Self:
        """One more failure.

        :param delay: a fixed delay for errors that an early retry can't fix; else `backoff`.
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
        """Whether the operation may be tried; also if the clock was set back since it failed."""
        return (
            self.retry_attempt == 0
            or (self.retry_after is not None and self.retry_after < now)
            or (self.last_failed_at is not None and is_ahead(self.last_failed_at, now))
        )

    def wait(self, now: datetime) -> float:
        """Seconds until `allows` says yes; 0 if it does."""
        if self.allows(now):
            return 0.0
        if self.retry_after is None:
            return math.inf
        # not zero at the very moment, which is still too early
        return max((self.retry_after - now).total_seconds(), _SHORTEST_WAIT_SECONDS)


def _bounded(reason: str) -> str:
    """*reason* without its middle if it is too long: its beginning and its end say most."""
    if len(reason) <= _MAX_REASON:
        return reason
    half = _MAX_REASON // 2
    return f"{reason[:half]} … {reason[-half:]}"


NO_RETRY = Retry()
