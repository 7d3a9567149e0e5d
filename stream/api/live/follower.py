"""One caller that follows a branch, with its queue of events."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import orjson

from stream.concurrency.wakeup import Wakeup

__all__ = ["END_REASONS", "MAX_WAITING_BYTES", "EndReason", "Follower", "Send", "sse"]

MAX_WAITING_BYTES = 4 * 1024 * 1024
"""Maximum size of the events queued for a slow caller. Followers of a branch share the events."""

EndReason = Literal["slow", "token", "duration", "stopping"]
END_REASONS: tuple[EndReason, ...] = ("slow", "token", "duration", "stopping")
"""Reasons for ending a caller's stream."""

Send = Callable[[bytes], Awaitable[None]]
"""Writes a part of the answer; resumes when the caller accepts more."""


def sse(name: str, data: Any, id: int | None = None) -> bytes:
    """Return a server-sent event.

    :param data: a plain value.
    :param id: the id that the caller sends in ``Last-Event-ID`` to resume after the event.
    """
    head = b"" if id is None else b"id: %d\n" % id
    return b"%bevent: %b\ndata: %b\n\n" % (head, name.encode(), orjson.dumps(data))


class Follower:
    """Writes events to one caller until its stream ends; ends the stream of a slow caller."""

    def __init__(self, reactor: Any, max_waiting: int = MAX_WAITING_BYTES) -> None:
        self._reactor = reactor
        self._max_waiting = max_waiting
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._reason: EndReason | None = None
        self._wakeup = Wakeup(reactor, self._has_work)

    @property
    def reason(self) -> EndReason | None:
        """Why the stream was ended; ``None`` if it wasn't."""
        return self._reason

    @property
    def is_ended(self) -> bool:
        """Whether nothing but the final event will be written to the caller."""
        return bool(self._reason)

    def put(self, event: bytes, *, always: bool = False) -> None:
        """Queue *event* for the caller.

        :param always: ignore the size limit; used for the first event.
        """
        if self._reason:
            return
        if not always and self._bytes + len(event) > self._max_waiting:
            self._waiting.clear()
            self._bytes = 0
            self.end("slow")
            return
        self._waiting.append(event)
        self._bytes += 0 if always else len(event)
        self._wakeup.wake()

    def end(self, reason: EndReason) -> None:
        """End the stream after a final event. The first reason counts."""
        self._reason = self._reason or reason
        self._wakeup.wake()

    async def write(self, send: Send) -> None:
        """Write events until the end."""
        while True:
            while self._waiting:
                # All events go into one write, because a write costs more than its content.
                events = b"".join(self._waiting)
                self._waiting.clear()
                self._bytes = 0
                await send(events)
            if self._reason:
                await send(sse("end", {"reason": self._reason}))
                return
            if not await self._wakeup.wait():
                await send(b": nothing new\n\n")

    def _has_work(self) -> bool:
        return bool(self._waiting or self._reason)
