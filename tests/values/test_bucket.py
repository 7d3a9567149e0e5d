"""A token bucket that limits a rate."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stream.values.bucket import TokenBucket


def test_a_burst_then_the_rate() -> None:
    """A full bucket allows as many events as the rate at once, then one per interval."""
    bucket = TokenBucket(10, 100.0)
    assert [bucket.take(100.0, 7), bucket.take(100.0, 7), bucket.take(100.0)] == [7, 3, 0]
    assert [bucket.take(100.09), bucket.take(100.11), bucket.take(100.11)] == [0, 1, 0]
    assert bucket.take(1000.0, 99) == 10


@given(
    st.integers(1, 50),
    st.lists(st.tuples(st.floats(0, 2), st.integers(0, 100)), max_size=50),
)
def test_the_rate_is_a_limit(rate: int, asked: list[tuple[float, int]]) -> None:
    """In any period, at most a burst and the rate's share of the period are allowed."""
    bucket, now, granted = TokenBucket(rate, 0.0), 0.0, 0
    for passed, wanted in asked:
        now += passed
        given_now = bucket.take(now, wanted)
        assert 0 <= given_now <= wanted
        granted += given_now
    assert granted <= rate + now * rate + 1e-6


def test_a_clock_set_back() -> None:
    """The bucket continues from the earlier time."""
    bucket = TokenBucket(1, 100.0)
    assert bucket.take(100.0) == 1
    assert bucket.take(50.0) == 0
    assert bucket.take(51.0) == 1
