"""Delays between failed attempts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.storage.model.retry import NO_RETRY, Retry, backoff
from stream.values.utctime import CLOCK_TOLERANCE

_NOW = datetime(2024, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("attempt", "minutes"), [(1, 2), (2, 8), (3, 32), (4, 128), (5, 180), (6, 180), (99, 180)]
)
def test_delays_without_jitter(attempt: int, minutes: int) -> None:
    """The delay is two minutes, four times as long after each attempt, and at most three hours."""
    assert backoff(attempt, _NOW, jitter=0) == timedelta(minutes=minutes)


def test_jitter_is_limited_and_repeatable() -> None:
    """The delay differs from the plain one by at most a tenth, and is derived from the time."""
    for second in range(200):
        moment = _NOW + timedelta(seconds=second)
        delay = backoff(1, moment)
        assert timedelta(seconds=108) <= delay <= timedelta(seconds=132)
        assert delay == backoff(1, moment)
    assert len({backoff(1, _NOW + timedelta(seconds=s)) for s in range(20)}) > 1


def test_a_failure_is_recorded() -> None:
    """Attempts are counted; the time is that of the first failure, and the reason that of
    the last.
    """
    later = _NOW + timedelta(hours=1)
    retry = NO_RETRY.failed(_NOW, "first").failed(later, "second")
    assert retry.retry_attempt == 2
    assert retry.retry_reason == "second"
    assert (retry.first_failed_at, retry.last_failed_at) == (_NOW, later)


def test_a_retry_follows_the_delay() -> None:
    """There is no retry at the exact moment or before."""
    retry = NO_RETRY.failed(_NOW, "reason", delay=timedelta(hours=2))
    assert NO_RETRY.allows(_NOW)
    assert not retry.allows(_NOW + timedelta(hours=2))
    assert retry.allows(_NOW + timedelta(hours=2, milliseconds=1))


def test_a_record_that_does_not_say_when() -> None:
    """A failed attempt of another service without its delay is retried at once, not never."""
    retry = Retry(retry_attempt=3, retry_reason="reason", last_failed_at=_NOW)
    assert retry.allows(_NOW) and retry.wait(_NOW) == 0


def test_a_clock_that_was_set_back() -> None:
    """A failure in the future is retried immediately."""
    retry = NO_RETRY.failed(_NOW, "reason", delay=timedelta(hours=2))
    assert not retry.allows(_NOW - CLOCK_TOLERANCE)
    assert retry.allows(_NOW - CLOCK_TOLERANCE - timedelta(seconds=1))
    assert retry.wait(_NOW - timedelta(days=1)) == 0


@given(st.text(max_size=10), st.integers(0, 5000))
def test_a_long_reason_is_shortened(text: str, count: int) -> None:
    """A short reason is unchanged; of a long one, the beginning and the end are kept."""
    reason = text * count
    stored = NO_RETRY.failed(_NOW, reason).retry_reason
    if len(reason) <= 2000:
        assert stored == reason
    else:
        assert len(stored) == 2003
        assert stored.startswith(reason[:1000]) and stored.endswith(reason[-1000:])
