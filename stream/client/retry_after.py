"""The header ``Retry-After``. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

__all__ = ["LONGEST_SECONDS", "retry_after_seconds"]

LONGEST_SECONDS = 300.0
"""Maximum delay, even if the service requests more."""


def retry_after_seconds(text: str | None, now: datetime) -> float | None:
    """Return the delay in seconds; ``None`` if the header is absent or invalid.

    :param text: value of the header: seconds, or an HTTP date.
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
    if not seconds >= 0.0:  # also rejects NaN
        return 0.0 if seconds < 0.0 else None
    return min(seconds, LONGEST_SECONDS)
