"""Decisions about retries of calls."""

from __future__ import annotations

import itertools

import pytest

from stream.target.keboola.retry import Outcome, call_backoff, job_poll_delays, may_retry


def test_delays_double() -> None:
    """The delays start at 100 ms, double, and are limited to 3 s."""
    backoff = call_backoff()
    assert [backoff.next() for _ in range(7)] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.0, 3.0]


def test_poll_delays_double() -> None:
    """The delays between polls of a job start at 50 ms, double, and are limited to 3 s."""
    delays = list(itertools.islice(job_poll_delays(), 9))
    assert delays == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.0, 3.0, 3.0]


@pytest.mark.parametrize("status", [408, 409, 423, 429, 500, 502, 503, 504])
def test_temporary_statuses_are_retried(status: int) -> None:
    """An idempotent call is retried after a temporary status, and other calls only after 429."""
    assert may_retry(status, idempotent=True)
    assert may_retry(status, idempotent=False) == (status == 429)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422, 501])
def test_permanent_statuses_are_not_retried(status: int) -> None:
    """No call is repeated after a final refusal."""
    assert not may_retry(status, idempotent=True)


def test_unsent_calls_are_retried() -> None:
    """A call that wasn't sent is retried; one without an answer only if it is idempotent."""
    assert may_retry(Outcome.NOT_SENT, idempotent=False)
    assert may_retry(Outcome.LOST, idempotent=True)
    assert not may_retry(Outcome.LOST, idempotent=False)
    assert not may_retry(Outcome.UNKNOWN_HOST, idempotent=True)
    assert not may_retry(Outcome.UNUSABLE, idempotent=True)
