"""Delays double, stay within their bounds, and begin again after a success."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from stream.values.backoff import Backoff


def test_delays_double_up_to_the_longest() -> None:
    """A reset begins with the first one."""
    backoff = Backoff(0.5, 3.0)
    assert [backoff.next() for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    backoff.reset()
    assert backoff.next() == 0.5


@given(st.integers(0, 1000), st.floats(0.01, 0.5))
def test_jitter_is_within_its_share(seed: int, jitter: float) -> None:
    """Each delay is the plain one, more or less a share of it."""
    plain, varied = Backoff(1.0, 9.0), Backoff(1.0, 9.0, jitter=jitter, random=random.Random(seed))
    for _ in range(6):
        delay = plain.next()
        assert delay * (1 - jitter) <= varied.next() <= delay * (1 + jitter)


def test_jitter_varies() -> None:
    """Two clients that failed together come back at different times."""
    delays = {Backoff(1.0, 9.0, jitter=0.2).next() for _ in range(20)}
    assert len(delays) > 1
