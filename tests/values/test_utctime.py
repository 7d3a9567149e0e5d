"""UTC times in their only text format."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.values.utctime import (
    format_time,
    from_milliseconds,
    parse_any_time,
    parse_time,
    to_nanoseconds,
)


def test_fractions_are_truncated() -> None:
    """A time is never later than the moment that it describes."""
    assert format_time(datetime(2024, 5, 1, 10, 0, 0, 123999, UTC)) == "2024-05-01T10:00:00.123Z"


def test_other_zones_become_utc() -> None:
    """The text is always UTC."""
    zone = timezone(timedelta(hours=2))
    assert format_time(datetime(2024, 5, 1, 10, tzinfo=zone)) == "2024-05-01T08:00:00.000Z"


def test_a_time_without_a_zone_is_refused() -> None:
    """A naive time is an error of the caller."""
    with pytest.raises(ValueError, match="zone"):
        format_time(datetime(2024, 5, 1))


@pytest.mark.parametrize("text", ["", "2024-05-01T10:00:00Z", "2024-05-01T10:00:00.123", "x" * 24])
def test_other_formats_are_refused(text: str) -> None:
    """Only the fixed-width format is accepted."""
    with pytest.raises(ValueError):
        parse_time(text)


@given(st.integers(min_value=0, max_value=4_000_000_000_000))
def test_texts_sort_by_time(milliseconds: int) -> None:
    """Keys sort by time, and parsing a text returns the time."""
    moment = from_milliseconds(milliseconds)
    assert parse_time(format_time(moment)) == moment
    assert format_time(moment) < format_time(from_milliseconds(milliseconds + 1))
    assert to_nanoseconds(moment) == milliseconds * 1_000_000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-05-01T10:00:00Z", "2024-05-01T10:00:00.000Z"),
        ("2024-05-01T10:00:00.1239999Z", "2024-05-01T10:00:00.123Z"),
        ("2024-05-01T10:00:00.123999999+02:00", "2024-05-01T08:00:00.123Z"),
        ("2024-05-01 00:30:00-0130", "2024-05-01T02:00:00.000Z"),
        ("0001-01-01T00:00:00Z", ""),
    ],
)
def test_other_forms_of_a_time(text: str, expected: str) -> None:
    """Any fraction and any zone is read; keys have only the one form."""
    assert format_time(parse_any_time(text)) == expected
    with pytest.raises(ValueError):
        parse_time(text)


@pytest.mark.parametrize(
    "text", ["", "2024-05-01", "2024-05-01T10:00:00", "2024-13-01T10:00:00Z", "20240501T100000Z"]
)
def test_texts_that_are_no_time(text: str) -> None:
    """A time without a zone or with parts missing is refused."""
    with pytest.raises(ValueError):
        parse_any_time(text)
