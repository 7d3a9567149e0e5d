"""Child processes: signals that may come too late, and an end for which many may wait."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, cast

from twisted.internet.defer import Deferred, TimeoutError, succeed
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from stream.concurrency.waiters import Waiters

__all__ = ["Child"]


class Child(ProcessProtocol):
    """The protocol of a child process, base of those that know what it says.

    It may be spawned again after its end.
    """

    def __init__(self) -> None:
        self._is_running = False
        self._ended = Waiters[None]()

    @property
    def is_running(self) -> bool:
        """Whether the process was started and has not ended yet."""
        return self._is_running

    def connectionMade(self) -> None:
        self._is_running = True

    def processEnded(self, reason: Failure) -> None:
        self._is_running = False
        self.end(reason)
        self._ended.fire(None)

    def end(self, reason: Failure) -> None:
        """Called when the process has ended, before those that `ended` made wait are fired.

        :param reason: holds ``ProcessDone`` or ``ProcessTerminated``.
        """

    def signal(self, name: str) -> None:
        """Send a signal, such as ``TERM``; a process that has ended gets none."""
        if self._is_running:
            with suppress(ProcessExitedAlready):  # `processEnded` comes soon
                cast(Any, self.transport).signalProcess(name)

    def ended(self) -> Deferred[None]:
        """Return a Deferred that fires when the process has ended, at once if none runs."""
        return self._ended.wait() if self._is_running else succeed(None)

    async def stop(self, reactor: Any, kill_after: float) -> bool:
        """Send SIGTERM, after *kill_after* seconds SIGKILL; fires when the process has ended.

        :returns: whether it ended without SIGKILL.
        """
        self.signal("TERM")
        try:
            await self.ended().addTimeout(kill_after, reactor)
        except TimeoutError:
            self.signal("KILL")
            await self.ended()
            return False
        return True
