"""UTC time with millisecond precision, in the text form of keys, JSON and logs.

The text form has a fixed width (``2006-01-02T15:04:05.000Z``), so keys are sorted by time.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

__all__ = [
    "CLOCK_TOLERANCE",
    "NO_TIME",
    "age",
    "format_time",
    "from_milliseconds",
    "from_timestamp",
    "is_ahead",
    "parse_any_time",
    "parse_time",
    "to_nanoseconds",
]

_FORM = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z", re.ASCII)
_ANY_FORM = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?"
    r"(Z|[+-][0-9]{2}:?[0-9]{2})",
    re.ASCII,
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

NO_TIME = datetime.min.replace(tzinfo=UTC)
"""Stands for a missing time in a record; earlier than all other times."""

CLOCK_TOLERANCE = timedelta(minutes=1)
"""Tolerated difference between the clocks of two machines."""


def is_ahead(moment: datetime, now: datetime) -> bool:
    """Return whether *moment*, a past time, is in the future because the clock was set back."""
    return moment - now > CLOCK_TOLERANCE


def age(moment: datetime, now: datetime) -> timedelta:
    """Return the time since *moment*; the maximum if *moment* `is_ahead`.

    So a delayed action is due immediately if the clock was set back.
    """
    return timedelta.max if is_ahead(moment, now) else now - moment


def from_timestamp(seconds: float) -> datetime:
    """Return the UTC time *seconds* after the epoch, truncated to milliseconds."""
    return from_milliseconds(int(seconds * 1000))


def from_milliseconds(milliseconds: int) -> datetime:
    """Return the UTC time *milliseconds* after the epoch."""
    return _EPOCH + timedelta(milliseconds=milliseconds)


def format_time(moment: datetime) -> str:
    """Format *moment* in UTC with exactly three fraction digits (truncated) and a literal ``Z``.

    `NO_TIME` is formatted as an empty string.
    """
    if moment.tzinfo is None:
        raise ValueError("a time without a zone is ambiguous")
    if moment == NO_TIME:
        return ""
    utc = moment if moment.tzinfo is UTC else moment.astimezone(UTC)
    return f"{utc.replace(tzinfo=None).isoformat(timespec='milliseconds')}Z"


def parse_time(text: str) -> datetime:
    """Parse the result of `format_time`.

    Raises ValueError: the text has a different format.
    """
    if _FORM.fullmatch(text) is None:
        raise ValueError(f'invalid time "{text}": expected 2006-01-02T15:04:05.000Z')
    return datetime.fromisoformat(text)


def parse_any_time(text: str) -> datetime:
    """Parse a time with any fraction of a second and any zone, truncated to milliseconds.

    Raises ValueError: the text has a different format, or the time is out of range.
    """
    if _FORM.fullmatch(text) is not None:
        return datetime.fromisoformat(text)
    if _ANY_FORM.fullmatch(text) is None:
        return parse_time(text)
    try:
        moment = datetime.fromisoformat(text).astimezone(UTC)
    except OverflowError as error:
        raise ValueError(f'time "{text}" is out of range') from error
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def to_nanoseconds(moment: datetime) -> int:
    """Return the nanoseconds since the epoch, exactly, unlike ``timestamp()``."""
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1000
