"""Throttled logging of the connections that the writer refuses."""

from __future__ import annotations

from collections.abc import Callable

from twisted.logger import Logger

__all__ = ["RefusalLog"]

_log = Logger()

QUIET_SECONDS = 10.0


class RefusalLog:
    """Logs the first refusal immediately, and the number of further ones every `QUIET_SECONDS`.

    :param seconds: returns the monotonic time in seconds.
    """

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._quiet_until = -1.0
        self._unwritten = 0

    def refused(self, peer: str, reason: str) -> None:
        """Log a refused connection, throttled.

        :param peer: address of the other end.
        :param reason: must not contain the proof that the other end sent.
        """
        now = self._seconds()
        if now < self._quiet_until:
            self._unwritten += 1
            return
        self._quiet_until = now + QUIET_SECONDS
        _log.warn(
            "refused a connection from {peer}: {reason}",
            peer=peer,
            reason=reason,
            more=self._unwritten,
        )
        self._unwritten = 0
