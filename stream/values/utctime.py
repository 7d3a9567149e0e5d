"""UTC time with millisecond precision, in the one text form that keys, JSON and logs use.

The form has a fixed width (``2006-01-02T15:04:05.000Z``), so the byte order of keys is time order.
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
    "parse_time",
    "to_nanoseconds",
]

_FORM = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

NO_TIME = datetime.min.replace(tzinfo=UTC)
"""Stands for a time that a record ought to have and hasn't; earlier than every other one."""

CLOCK_TOLERANCE = timedelta(minutes=1)
"""By how much the clocks of machines may differ without anything being wrong."""


def is_ahead(moment: datetime, now: datetime) -> bool:
    """Whether *moment*, which lies in the past, seems to come: the clock was set back since."""
    return moment - now > CLOCK_TOLERANCE


def age(moment: datetime, now: datetime) -> timedelta:
    """How long ago *moment* was; the longest time there is if it `is_ahead`.

    So what is due after some time is due at once, rather than when the clock has caught up.
    """
    return timedelta.max if is_ahead(moment, now) else now - moment


def from_timestamp(seconds: float) -> datetime:
    """The UTC time *seconds* after the epoch, cut to whole milliseconds."""
    return from_milliseconds(int(seconds * 1000))


def from_milliseconds(milliseconds: int) -> datetime:
    """The UTC time *milliseconds* after the epoch."""
    return _EPOCH + timedelta(milliseconds=milliseconds)


def format_time(moment: datetime) -> str:
    """*moment* in UTC with exactly three fraction digits (cut, not rounded) and a literal ``Z``.

    `NO_TIME` is an empty text.
    """
    if moment.tzinfo is None:
        raise ValueError("a time without a zone is ambiguous")
    if moment == NO_TIME:
        return ""
    utc = moment if moment.tzinfo is UTC else moment.astimezone(UTC)
    return f"{utc.replace(tzinfo=None).isoformat(timespec='milliseconds')}Z"


def parse_time(text: str) -> datetime:
    """Read what `format_time` wrote. Raises ValueError for any other form."""
    if _FORM.fullmatch(text) is None:
        raise ValueError(f'invalid time "{text}": expected 2006-01-02T15:04:05.000Z')
    return datetime.fromisoformat(text)


def to_nanoseconds(moment: datetime) -> int:
    """Nanoseconds since the epoch; exact, unlike ``timestamp()``."""
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1000
