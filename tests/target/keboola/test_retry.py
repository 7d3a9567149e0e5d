"""Decisions about repeating calls."""

from __future__ import annotations

import itertools

import pytest

from stream.target.keboola.retry import Outcome, call_backoff, job_poll_delays, may_retry


def test_delays_double_from_100_ms() -> None:
    """The waits between attempts double from 100 ms and stop growing at 3 s."""
    backoff = call_backoff()
    assert [backoff.next() for _ in range(7)] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.0, 3.0]


def test_poll_delays_double_up_to_three_seconds() -> None:
    """Looks at a job start 50 ms apart and are never more than 3 s apart."""
    delays = list(itertools.islice(job_poll_delays(), 9))
    assert delays == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.0, 3.0, 3.0]


@pytest.mark.parametrize("status", [408, 409, 423, 429, 500, 502, 503, 504])
def test_temporary_statuses_are_repeated(status: int) -> None:
    """An idempotent call is repeated after a temporary status, another only after 429."""
    assert may_retry(status, idempotent=True)
    assert may_retry(status, idempotent=False) == (status == 429)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422, 501])
def test_final_statuses_are_not_repeated(status: int) -> None:
    """No call is repeated after a final refusal."""
    assert not may_retry(status, idempotent=True)


def test_what_was_not_sent_may_always_be_repeated() -> None:
    """A call that never left may be repeated, one that got lost only if it is idempotent."""
    assert may_retry(Outcome.NOT_SENT, idempotent=False)
    assert may_retry(Outcome.LOST, idempotent=True)
    assert not may_retry(Outcome.LOST, idempotent=False)
    assert not may_retry(Outcome.UNKNOWN_HOST, idempotent=True)
    assert not may_retry(Outcome.UNUSABLE, idempotent=True)
