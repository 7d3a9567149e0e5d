"""Log of connections that the writer didn't let in, however many there are."""

from __future__ import annotations

from collections.abc import Callable

from twisted.logger import Logger

__all__ = ["RefusalLog"]

_log = Logger()

QUIET_SECONDS = 10.0


class RefusalLog:
    """Writes the first refusal at once, the next ones as a number at most each `QUIET_SECONDS`.

    :param seconds: the monotonic time.
    """

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._quiet_until = -1.0
        self._unwritten = 0

    def refused(self, peer: str, reason: str) -> None:
        """Log a refused connection, at most once in an interval.

        :param peer: address of the other end.
        :param reason: without anything that the other end sent as its proof.
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
