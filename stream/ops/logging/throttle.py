"""Throttling of the log: one line per object and interval, with a count of those left out. Pure."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["LogThrottle"]

MAX_KEYS = 10_000
"""Objects that are remembered; above this number all are forgotten."""


class LogThrottle:
    """The throttle of a message that many objects could log again and again.

    :param seconds: interval in which an object is logged at most once.
    :param clock: seconds.
    """

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self._seconds = seconds
        self._clock = clock
        self._known: dict[str, tuple[float, int]] = {}

    def due(self, key: str) -> int | None:
        """``None`` if it isn't time, else how often it wasn't since the last time that it was."""
        now = self._clock()
        until, left_out = self._known.get(key, (now, 0))
        if now < until:
            self._known[key] = until, left_out + 1
            return None
        if len(self._known) >= MAX_KEYS:
            self._known.clear()
        self._known[key] = now + self._seconds, 0
        return left_out
