"""The header ``Retry-After``: when a service asks to be called again. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

__all__ = ["LONGEST_SECONDS", "retry_after_seconds"]

LONGEST_SECONDS = 300.0
"""A service that asks for more is asked again after these."""


def retry_after_seconds(text: str | None, now: datetime) -> float | None:
    """The seconds that the header asks to wait, ``None`` if it is absent or can't be read.

    :param text: its value: seconds, or a date of HTTP.
    """
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            moment = parsedate_to_datetime(text)
        except ValueError:
            return None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        seconds = (moment - now).total_seconds()
    if not seconds >= 0.0:  # also NaN
        return 0.0 if seconds < 0.0 else None
    return min(seconds, LONGEST_SECONDS)
