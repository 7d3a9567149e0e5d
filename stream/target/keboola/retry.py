"""The retry policy of Storage API calls: whether and when to retry. Pure."""

from __future__ import annotations

import enum
from collections.abc import Iterator

from stream.values.backoff import Backoff

__all__ = [
    "CALL_BUDGET",
    "MAX_RETRIES",
    "RETRIED_STATUSES",
    "Outcome",
    "call_backoff",
    "job_poll_delays",
    "may_retry",
]

#: Maximum duration of one call in seconds, including its retries and delays.
CALL_BUDGET = 30.0
MAX_RETRIES = 5
RETRIED_STATUSES = frozenset({408, 409, 423, 429, 500, 502, 503, 504})

_FIRST_DELAY = 0.1
_MAX_DELAY = 3.0
_FIRST_POLL_DELAY = 0.05
_MAX_POLL_DELAY = 3.0


class Outcome(enum.Enum):
    """The outcome of an attempt that failed without a usable answer."""

    NOT_SENT = "not sent"  # nothing was sent: a retry is always safe
    UNKNOWN_HOST = "unknown host"  # nothing was sent either, but an early retry doesn't help
    LOST = "lost"  # at least a part of the request was sent, but not answered
    UNUSABLE = "unusable"  # the answer is unreadable


def call_backoff() -> Backoff:
    """Return the delays before the retries of one call."""
    return Backoff(_FIRST_DELAY, _MAX_DELAY)


def may_retry(outcome: Outcome | int, *, idempotent: bool) -> bool:
    """Return whether a call that ended with *outcome* may be retried.

    *outcome* is an `Outcome` or an HTTP status. A call that isn't *idempotent* is retried only if
    it certainly had no effect: nothing was sent, or the API refused it because of its rate (429).
    The API may return any 5xx status after the work is done.
    """
    if isinstance(outcome, Outcome):
        return outcome is Outcome.NOT_SENT or (idempotent and outcome is Outcome.LOST)
    if idempotent:
        return outcome in RETRIED_STATUSES
    return outcome == 429


def job_poll_delays() -> Iterator[float]:
    """Yield the seconds between checks of a running job without end; they double up to 3 s."""
    backoff = Backoff(_FIRST_POLL_DELAY, _MAX_POLL_DELAY)
    while True:
        yield backoff.next()
