"""A page that is slow to render, rendered once for all waiting requests, with pauses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from stream.concurrency.waiters import Waiters

__all__ = ["MIN_PAUSE_SECONDS", "SharedPage"]

MIN_PAUSE_SECONDS = 1.0
"""Minimum pause between two renderings; at least as long as the last rendering took.

So rendering uses at most half of a CPU, regardless of the number of requests.
"""


class SharedPage:
    """Renders the page. Each request gets a page whose rendering began after the request.

    :param reactor: source of the time.
    :param make: renders the page, e.g. in a thread.
    """

    def __init__(self, reactor: Any, make: Callable[[], Deferred[bytes]]) -> None:
        self._reactor = reactor
        self._make = make
        self._waiting = Waiters[bytes]()
        self._is_making = False
        self._not_before = 0.0
        self._next: IDelayedCall | None = None
        self._drained = Waiters[None]()

    @property
    def waiting(self) -> int:
        """The number of requests that wait for a page whose rendering hasn't begun."""
        return len(self._waiting)

    def get(self) -> Deferred[bytes]:
        """Return a Deferred of the page, which may be cancelled; it fails if rendering fails."""
        page = self._waiting.wait()
        self._begin()
        return page

    def drained(self) -> Deferred[None]:
        """Return a Deferred that fires when no page is being rendered or waited for."""
        if self._next is not None:
            self._next.cancel()
            self._start()
        if not self._is_making:
            return succeed(None)
        return self._drained.wait()

    def _begin(self) -> None:
        """Render the page now or after the pause if a request is waiting for it."""
        if self._is_making or self._next is not None or not self._waiting:
            return
        pause = self._not_before - self._reactor.seconds()
        if pause > 0 and not self._drained:
            self._next = self._reactor.callLater(pause, self._start)
        else:
            self._start()

    def _start(self) -> None:
        self._next = None
        self._is_making = True
        waiting, self._waiting = self._waiting, Waiters[bytes]()
        self._make().addBoth(self._made, waiting, self._reactor.seconds())

    def _made(self, page: bytes | Failure, waiting: Waiters[bytes], started: float) -> None:
        self._is_making = False
        now = self._reactor.seconds()
        self._not_before = now + max(MIN_PAUSE_SECONDS, now - started)
        if isinstance(page, Failure):
            waiting.fail(page)
        else:
            waiting.fire(page)
        self._begin()
        if not self._is_making:
            self._drained.fire(None)
