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


def test_sums() -> None:
    """Counters are added, and the first and the last time are kept."""
    one = Statistics(1, at(5), at(6), 10, ByteSize(100), ByteSize(50), ByteSize(7))
    other = Statistics(2, at(3), at(4), 20, ByteSize(200), ByteSize(60), ByteSize(8))
    assert one + other == Statistics(
        3, at(3), at(6), 30, ByteSize(300), ByteSize(110), ByteSize(15)
    )


@given(st.lists(_statistics, max_size=5), st.randoms())
def test_the_order_of_a_sum(values: list[Statistics], shuffler: Random) -> None:
    """The order of the values has no effect."""
    expected = total(values)
    shuffler.shuffle(values)
    assert total(values) == expected


@given(_statistics)
def test_the_neutral_element(value: Statistics) -> None:
    """Adding nothing changes nothing."""
    assert value + EMPTY == value == EMPTY + value


@given(_statistics, _statistics)
def test_differences(value: Statistics, other: Statistics) -> None:
    """Subtraction reverts addition, and no value is negative."""
    back = (value + other) - other
    assert (back.records_count, back.slices_count) == (value.records_count, value.slices_count)
    less = value - (value + other)
    assert less.records_count == less.slices_count == 0
    assert less.uncompressed_size == less.compressed_size == less.staging_size == 0
    assert less.first_record_at == value.first_record_at


@given(st.lists(_statistics, max_size=4), _statistics, st.integers(0, 4))
def test_a_reset(values: list[Statistics], more: Statistics, position: int) -> None:
    """A reset subtracts the values counted before it, at any position among the values."""
    reset = attrs.evolve(total(values), reset_at=OPENED_AT)
    after = [*values, more]
    after.insert(min(position, len(values)), reset)
    assert total(after).records_count == more.records_count
    assert total(after).staging_size == more.staging_size
    assert total(after).reset_at is None


@given(_statistics)
def test_statistics_are_stored(value: Statistics) -> None:
    """Stored statistics are parsed to the same values."""
    assert decode(Statistics, encode(value)) == value
    reset = attrs.evolve(value, reset_at=OPENED_AT)
    assert decode(Statistics, encode(reset)) == reset


def test_sums_by_level() -> None:
    """Values are summed by level, and a reset applies to its level only."""
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
