"""UTC time with millisecond precision, in the one text form that keys, JSON and logs use.

The form has a fixed width (``2006-01-02T15:04:05.000Z``), so the byte order of keys is time order.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

__all__ = ["format_time", "from_milliseconds", "from_timestamp", "parse_time", "to_nanoseconds"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def from_timestamp(seconds: float) -> datetime:
    """The UTC time *seconds* after the epoch, cut to whole milliseconds."""
    return from_milliseconds(int(seconds * 1000))


def from_milliseconds(milliseconds: int) -> datetime:
    """The UTC time *milliseconds* after the epoch."""
    return _EPOCH + timedelta(milliseconds=milliseconds)


def format_time(moment: datetime) -> str:
    """*moment* in UTC with exactly three fraction digits (cut, not rounded) and a literal ``Z``."""
    if moment.tzinfo is None:
        raise ValueError("a time without a zone is ambiguous")
    utc = moment.astimezone(UTC)
    return f"{utc:%Y-%m-%dT%H:%M:%S}.{utc.microsecond // 1000:03d}Z"


def parse_time(text: str) -> datetime:
    """Read what `format_time` wrote. Raises ValueError for any other form."""
    if len(text) != 24 or not text.endswith("Z"):
        raise ValueError(f'invalid time "{text}": expected 2006-01-02T15:04:05.000Z')
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)


def to_nanoseconds(moment: datetime) -> int:
    """Nanoseconds since the epoch; exact, unlike ``timestamp()``."""
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1000
