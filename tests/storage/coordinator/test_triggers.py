"""Triggers at, below and above each threshold, and their order."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.storage.model.entity import ImportConfig, ImportTrigger, UploadConfig, UploadTrigger
from stream.storage.model.statistics import Statistics
from stream.storage.model.triggers import Decision, file_rotation, slice_rotation
from stream.values.bytesize import ByteSize
from stream.values.duration import Duration
from stream.values.utctime import CLOCK_TOLERANCE

_NOW = datetime(2024, 1, 1, 12, tzinfo=UTC)
_UPLOAD = UploadConfig(
    Duration.parse("10s"), UploadTrigger(100, ByteSize(1000), Duration.parse("30s"))
)
_IMPORT = ImportConfig(
    50,
    Duration.parse("60s"),
    ImportTrigger(100, ByteSize(1000), Duration.parse("5m"), 20, Duration.parse("30m")),
)


def _statistics(records: int, size: int = 0, slices: int = 1) -> Statistics:
    return Statistics(records_count=records, compressed_size=ByteSize(size), slices_count=slices)


def _ago(seconds: float) -> datetime:
    return _NOW - timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("age", "statistics", "condition", "cause"),
    [
        (9.9, _statistics(1000), "none", "min interval between uploads is not met"),
        (10, _statistics(0, 5000), "none", "no record"),
        (10, _statistics(99, 999), "none", "no condition met"),
        (
            10,
            _statistics(100),
            "recordCount",
            "count threshold met, records count: 100, threshold: 100",
        ),
        (
            10,
            _statistics(100, 1000),
            "recordCount",
            "count threshold met, records count: 100, threshold: 100",
        ),
        (
            10,
            _statistics(99, 1000),
            "size",
            "size threshold met, compressed size: 1000B, threshold: 1000B",
        ),
        (29.9, _statistics(1), "none", "no condition met"),
        (
            30,
            _statistics(1),
            "time",
            "time threshold met, opened at: 2024-01-01T11:59:30.000Z, passed: 30s threshold: 30s",
        ),
    ],
)
def test_slice_rotation(age: float, statistics: Statistics, condition: str, cause: str) -> None:
    """The first condition that is met determines the result and its reason."""
    decision = slice_rotation(_UPLOAD, _ago(age), statistics, _NOW)
    assert (decision.condition, decision.cause) == (condition, cause)
    assert decision.rotate is (condition != "none")


@pytest.mark.parametrize(
    ("age", "expires_in", "statistics", "condition"),
    [
        (1, 3600, _statistics(0, slices=50), "maxSlices"),
        (59.9, 60, _statistics(1000, 9999, slices=49), "none"),
        (60, 1800, _statistics(0), "expiration"),
        (60, 1801, _statistics(0), "none"),
        (60, None, _statistics(0), "none"),
        (60, 3600, _statistics(0, slices=20), "sliceCount"),
        (60, 3600, _statistics(0, slices=19), "none"),
        (60, 3600, _statistics(100), "recordCount"),
        (60, 3600, _statistics(99, 1000), "size"),
        (60, 3600, _statistics(99, 999), "none"),
        (299.9, 3600, _statistics(1), "none"),
        (300, 3600, _statistics(1), "time"),
        (300, 3600, _statistics(0), "none"),
    ],
)
def test_file_rotation(
    age: float, expires_in: int | None, statistics: Statistics, condition: str
) -> None:
    """The first condition that is met counts: too many slices override even the minimum
    interval.
    """
    expiration = None if expires_in is None else _NOW + timedelta(seconds=expires_in)
    decision = file_rotation(_IMPORT, _ago(age), expiration, statistics, _NOW)
    assert decision.condition == condition
    assert decision.rotate is (condition != "none")


def test_an_idle_file_is_rotated_before_its_credentials_expire() -> None:
    """A file without records still needs new credentials in time."""
    decision = file_rotation(_IMPORT, _ago(9999), _NOW, attrs.evolve(_statistics(0)), _NOW)
    assert decision.rotate
    assert decision.cause == (
        "expiration threshold met, expiration: 2024-01-01T12:00:00.000Z, remains: 0s, "
        "threshold: 30m0s"
    )


@given(
    elapsed=st.floats(0, 4000),
    records=st.integers(0, 5),
    min_interval=st.integers(0, 60),
    interval=st.integers(1, 3000),
)
def test_the_time_of_the_next_check(
    elapsed: float, records: int, min_interval: int, interval: int
) -> None:
    """Before the returned time, the decision doesn't change by itself.

    At that time the decision changes or a new time is returned. Without a time, a slice is never
    rotated by time alone.
    """
    config = UploadConfig(
        Duration.of_seconds(min_interval),
        UploadTrigger(100, ByteSize(10**9), Duration.of_seconds(interval)),
    )
    statistics = Statistics(records_count=records)

    def decide(at: float) -> Decision:
        return slice_rotation(config, _NOW, statistics, _NOW + timedelta(seconds=at))

    decision = decide(elapsed)
    if decision.rotate:
        return
    if decision.wait is None:
        assert not decide(elapsed + 10_000).rotate
        return
    assert decision.wait > 0
    assert not decide(elapsed + max(decision.wait - 0.01, 0)).rotate
    later = decide(elapsed + decision.wait + 0.001)
    assert later.rotate or later.cause != decision.cause


_BACK = st.timedeltas(CLOCK_TOLERANCE + timedelta(milliseconds=1), timedelta(days=3650))


@given(_BACK, st.integers(1, 99))
def test_openings_in_the_future(back: timedelta, records: int) -> None:
    """After the clock is set back, nothing waits until it has caught up; empty objects
    stay open.
    """
    now = _NOW - back
    for count, is_due in ((records, True), (0, False)):
        statistics = _statistics(count)
        for decision in (
            slice_rotation(_UPLOAD, _NOW, statistics, now),
            file_rotation(_IMPORT, _NOW, None, statistics, now),
        ):
            assert decision.rotate is is_due
            assert decision.condition == ("time" if is_due else "none")
            assert ("the clock was set back" in decision.cause) is is_due


@given(st.timedeltas(timedelta(0), CLOCK_TOLERANCE))
def test_a_small_difference_of_clocks(ahead: timedelta) -> None:
    """An object opened by a machine whose clock is ahead waits as long as one of this machine."""
    decision = slice_rotation(_UPLOAD, _NOW + ahead, _statistics(1), _NOW)
    assert not decision.rotate and decision.wait is not None and decision.wait > 0
