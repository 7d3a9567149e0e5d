"""Log throttling: one line per object and interval, with a count of suppressed lines. Pure."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["LogThrottle"]

MAX_KEYS = 10_000
"""Maximum number of remembered objects; when it is exceeded, all are forgotten."""


class LogThrottle:
    """The throttle of a message that may be logged for many objects.

    :param seconds: interval in which an object is logged at most once.
    :param clock: returns the time in seconds.
    """

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self._seconds = seconds
        self._clock = clock
        self._known: dict[str, tuple[float, int]] = {}

    def due(self, key: str) -> int | None:
        """Return ``None`` to suppress a line, otherwise the number of lines suppressed before."""
        now = self._clock()
        until, left_out = self._known.get(key, (now, 0))
        if now < until:
            self._known[key] = until, left_out + 1
            return None
        if len(self._known) >= MAX_KEYS:
            self._known.clear()
        self._known[key] = now + self._seconds, 0
        return left_out
