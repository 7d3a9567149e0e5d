"""Delays that double within limits, and are reset after a success."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from stream.values.backoff import Backoff


def test_delays_double_up_to_the_maximum() -> None:
    """After a reset the first delay is used again."""
    backoff = Backoff(0.5, 3.0)
    assert [backoff.next() for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    backoff.reset()
    assert backoff.next() == 0.5


@given(st.integers(0, 1000), st.floats(0.01, 0.5))
def test_the_range_of_the_jitter(seed: int, jitter: float) -> None:
    """Each delay differs from the plain one by at most the given share."""
    plain, varied = Backoff(1.0, 9.0), Backoff(1.0, 9.0, jitter=jitter, random=random.Random(seed))
    for _ in range(6):
        delay = plain.next()
        assert delay * (1 - jitter) <= varied.next() <= delay * (1 + jitter)


def test_jitter_varies() -> None:
    """Two clients that failed at the same time retry at different times."""
    delays = {Backoff(1.0, 9.0, jitter=0.2).next() for _ in range(20)}
    assert len(delays) > 1
