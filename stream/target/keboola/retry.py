"""When a Storage API call is worth repeating, and how long to wait first. Pure decisions."""

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

#: Seconds one call may take in all, repetitions and waits included.
CALL_BUDGET = 30.0
MAX_RETRIES = 5
RETRIED_STATUSES = frozenset({408, 409, 423, 429, 500, 502, 503, 504})

_FIRST_DELAY = 0.1
_MAX_DELAY = 3.0
_FIRST_POLL_DELAY = 0.05
_MAX_POLL_DELAY = 3.0


class Outcome(enum.Enum):
    """What is known after a failed attempt that got no answer."""

    NOT_SENT = "not sent"  # nothing left this machine: a repetition is always safe
    UNKNOWN_HOST = "unknown host"  # nothing left either, but trying again soon won't help
    LOST = "lost"  # the request, or a part of it, was sent and no answer came
    UNUSABLE = "unusable"  # an answer came that can't be read


def call_backoff() -> Backoff:
    """The waits before the repetitions of one call."""
    return Backoff(_FIRST_DELAY, _MAX_DELAY)


def may_retry(outcome: Outcome | int, *, idempotent: bool) -> bool:
    """Whether a call that ended with *outcome* (an `Outcome`, or a status) may be made again.

    A call that is not *idempotent* is repeated only when it certainly had no effect: nothing was
    sent, or the API refused it for its rate (429). Any 5xx may come after the work was done.
    """
    if isinstance(outcome, Outcome):
        return outcome is Outcome.NOT_SENT or (idempotent and outcome is Outcome.LOST)
    if idempotent:
        return outcome in RETRIED_STATUSES
    return outcome == 429


def job_poll_delays() -> Iterator[float]:
    """Seconds to wait between two looks at a running job, doubling up to 3 s, without end."""
    backoff = Backoff(_FIRST_POLL_DELAY, _MAX_POLL_DELAY)
    while True:
        yield backoff.next()
