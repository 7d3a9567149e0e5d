"""The arithmetic of statistics."""

from __future__ import annotations

from datetime import datetime, timedelta
from random import Random

import attrs
from hypothesis import given
from hypothesis import strategies as st

from stream.storage.model.state import Level
from stream.storage.model.statistics import EMPTY, Aggregated, Statistics, total
from stream.values.bytesize import ByteSize
from stream.values.codec import decode, encode
from tests.storage.samples import OPENED_AT

_counts = st.integers(0, 10**12)
_sizes = _counts.map(ByteSize)
_times = st.none() | st.integers(0, 10**9).map(lambda ms: OPENED_AT + timedelta(milliseconds=ms))
_statistics = st.builds(
    Statistics,
    slices_count=_counts,
    first_record_at=_times,
    last_record_at=_times,
    records_count=_counts,
    uncompressed_size=_sizes,
    compressed_size=_sizes,
    staging_size=_sizes,
)


def at(seconds: int) -> datetime:
    return OPENED_AT + timedelta(seconds=seconds)


def test_a_sum_adds_counters_and_keeps_first_and_last_times() -> None:
    """Counters are added; the first and the last time remain."""
    one = Statistics(1, at(5), at(6), 10, ByteSize(100), ByteSize(50), ByteSize(7))
    other = Statistics(2, at(3), at(4), 20, ByteSize(200), ByteSize(60), ByteSize(8))
    assert one + other == Statistics(
        3, at(3), at(6), 30, ByteSize(300), ByteSize(110), ByteSize(15)
    )


@given(st.lists(_statistics, max_size=5), st.randoms())
def test_sum_in_any_order(values: list[Statistics], shuffler: Random) -> None:
    """The order of the values doesn't matter."""
    expected = total(values)
    shuffler.shuffle(values)
    assert total(values) == expected


@given(_statistics)
def test_nothing_added(value: Statistics) -> None:
    """Adding nothing changes nothing."""
    assert value + EMPTY == value == EMPTY + value


@given(_statistics, _statistics)
def test_a_difference_is_never_below_zero(value: Statistics, other: Statistics) -> None:
    """Subtraction undoes addition, and no value is negative."""
    back = (value + other) - other
    assert (back.records_count, back.slices_count) == (value.records_count, value.slices_count)
    less = value - (value + other)
    assert less.records_count == less.slices_count == 0
    assert less.uncompressed_size == less.compressed_size == less.staging_size == 0
    assert less.first_record_at == value.first_record_at


@given(st.lists(_statistics, max_size=4), _statistics, st.integers(0, 4))
def test_a_reset_takes_away_what_was_counted_before(
    values: list[Statistics], more: Statistics, position: int
) -> None:
    """A reset takes away what was counted up to then, wherever it stands among the values."""
    reset = attrs.evolve(total(values), reset_at=OPENED_AT)
    after = [*values, more]
    after.insert(min(position, len(values)), reset)
    assert total(after).records_count == more.records_count
    assert total(after).staging_size == more.staging_size
    assert total(after).reset_at is None


@given(_statistics)
def test_statistics_are_read_back_unchanged(value: Statistics) -> None:
    """Statistics are stored and read back unchanged."""
    assert decode(Statistics, encode(value)) == value
    reset = attrs.evolve(value, reset_at=OPENED_AT)
    assert decode(Statistics, encode(reset)) == reset


def test_by_level() -> None:
    """Values are summed level by level, a reset at its level alone."""
    found = Aggregated.of(
        [
            (Level.LOCAL, Statistics(records_count=1)),
            (Level.TARGET, Statistics(records_count=50)),
            (Level.LOCAL, Statistics(records_count=2)),
            (Level.TARGET, Statistics(records_count=10, reset_at=OPENED_AT)),
            (Level.STAGING, Statistics(records_count=100)),
        ]
    )
    assert found.local.records_count == 3
    assert found.staging.records_count == 100
    assert found.target.records_count == 40
    assert found.total.records_count == 143
