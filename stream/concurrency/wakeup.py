"""Waiting for work with a heartbeat, used to write events to one caller."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred

__all__ = ["HEARTBEAT_SECONDS", "Wakeup"]

HEARTBEAT_SECONDS = 15.0
"""Seconds without events after which a comment keeps proxies from closing the connection."""


class Wakeup:
    """Wakes one waiter when there is work, and at each heartbeat.

    :param has_work: returns whether there is work.
    """

    def __init__(self, reactor: Any, has_work: Callable[[], bool]) -> None:
        self._reactor = reactor
        self._has_work = has_work
        self._awake: Deferred[None] | None = None

    def wake(self) -> None:
        """Wake the waiter, if there is one."""
        awake, self._awake = self._awake, None
        if awake is not None and not awake.called:
            awake.callback(None)

    async def wait(self) -> bool:
        """Wait for work; return whether there is any."""
        awake = self._awake = Deferred()
        heartbeat = self._reactor.callLater(HEARTBEAT_SECONDS, self.wake)
        try:
            await awake
        finally:
            self._awake = None
            if heartbeat.active():
                heartbeat.cancel()
        return self._has_work()
