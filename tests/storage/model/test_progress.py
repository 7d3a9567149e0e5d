"""The displayed progress of triggers agrees with the decisions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from stream.storage.model.entity import ImportConfig, ImportTrigger, UploadConfig, UploadTrigger
from stream.storage.model.progress import Condition, file_progress, slice_progress
from stream.storage.model.statistics import Statistics
from stream.storage.model.triggers import file_rotation, slice_rotation
from stream.values.bytesize import ByteSize
from stream.values.duration import Duration

_NOW = datetime(2024, 1, 1, 12, tzinfo=UTC)
_UPLOAD = UploadConfig(
    Duration.parse("10s"), UploadTrigger(100, ByteSize(1000), Duration.parse("30s"))
)
_IMPORT = ImportConfig(
    50,
    Duration.parse("60s"),
    ImportTrigger(100, ByteSize(1000), Duration.parse("5m"), 20, Duration.parse("30m")),
)
_statistics = st.builds(
    lambda records, size, slices: Statistics(
        records_count=records, compressed_size=ByteSize(size), slices_count=slices
    ),
    st.integers(0, 200),
    st.integers(0, 2000),
    st.integers(0, 30),
)


def _is_met(conditions: list[Condition]) -> bool:
    return any(condition.progress == 1 for condition in conditions)


@given(st.integers(10, 60), _statistics)
def test_a_slice_is_closed_when_a_condition_is_met(age: int, statistics: Statistics) -> None:
    """A slice is closed after the minimum interval, and stays open without records."""
    opened = _NOW - timedelta(seconds=age)
    shown = list(slice_progress(_UPLOAD, opened, statistics, _NOW))
    decision = slice_rotation(_UPLOAD, opened, statistics, _NOW)
    assert decision.rotate == (statistics.records_count > 0 and _is_met(shown))
    if decision.rotate:
        assert decision.condition in {each.name for each in shown if each.progress == 1}
    assert sorted(shown, key=lambda each: -each.progress) == shown


@given(st.integers(60, 600), _statistics, st.none() | st.integers(0, 4000))
def test_a_file_is_closed_when_a_condition_is_met(
    age: int, statistics: Statistics, life: int | None
) -> None:
    """A file without records is closed only because of its credentials or its slices."""
    opened = _NOW - timedelta(seconds=age)
    expiration = None if life is None else _NOW + timedelta(seconds=life)
    shown = list(file_progress(_IMPORT, opened, expiration, statistics, _NOW))
    decision = file_rotation(_IMPORT, opened, expiration, statistics, _NOW)
    if not statistics.records_count:
        shown = [each for each in shown if each.name in ("sliceCount", "expiration")]
    assert decision.rotate == _is_met(shown)
    if decision.rotate:
        assert decision.condition in {each.name for each in shown if each.progress == 1}


def test_which_triggers_have_a_time() -> None:
    """The age has a time; records, bytes and slices have none."""
    opened = _NOW - timedelta(seconds=15)
    statistics = Statistics(records_count=1, compressed_size=ByteSize(100), slices_count=1)
    assert list(slice_progress(_UPLOAD, opened, statistics, _NOW)) == [
        Condition("time", 15, 30, opened + timedelta(seconds=30)),
        Condition("size", 100, 1000),
        Condition("recordCount", 1, 100),
    ]
    assert [each.name for each in slice_progress(_UPLOAD, opened, Statistics(), _NOW)] == [
        "recordCount",
        "size",
    ]


def test_a_limit_of_zero_is_met() -> None:
    assert Condition("size", 0, 0).progress == 1
    assert Condition("time", -1, 10).progress == 0
