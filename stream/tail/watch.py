"""One caller of a tail, on the API node that serves it.

The caller gets records as fast as it reads them; excess records are omitted and counted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from secrets import token_hex
from typing import Any

import orjson

from stream.concurrency.wakeup import Wakeup
from stream.definition.key import SourceKey

__all__ = ["MAX_WAITING_BYTES", "Send", "Watch", "event"]

MAX_WAITING_BYTES = 1024 * 1024
"""Maximum size of the records queued for a slow caller."""
NOTICE_SECONDS = 1.0
"""How often a caller that doesn't keep up is informed of the number of omitted records."""
_TOKEN_BYTES = 16
_ID_BYTES = 8

Send = Callable[[bytes], Awaitable[None]]
"""Writes a part of the answer; resumes when the caller accepts more."""


class Watch:
    """One caller that watches a source; a watch itself has no time limit.

    :param limit: maximum number of records; ``None`` for no limit.
    :param max_waiting: returns the maximum size of the queued records.
    """

    def __init__(
        self,
        reactor: Any,
        source: SourceKey,
        limit: int | None,
        max_waiting: Callable[[], int] = lambda: MAX_WAITING_BYTES,
    ) -> None:
        self.source = source
        self.id = token_hex(_ID_BYTES)
        self.token = token_hex(_TOKEN_BYTES)
        self._reactor = reactor
        self._limit = limit
        self._max_waiting = max_waiting
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._over_rate = 0
        self._overflow = 0
        self._reason = ""
        self._wakeup = Wakeup(reactor, self._has_work)

    def put(self, records: list[bytes], over_rate: int, overflow: int) -> None:
        """Queue a source node's records (JSON objects), and count those that it has omitted."""
        most = self._max_waiting()
        for record in records:
            if self._bytes + len(record) > most:
                overflow += 1
            else:
                self._waiting.append(record)
                self._bytes += len(record)
        self._over_rate += over_rate
        self._overflow += overflow
        self._wakeup.wake()

    def end(self, reason: str) -> None:
        """End the stream after a final event, which contains the first *reason* given."""
        self._reason = self._reason or reason
        self._wakeup.wake()

    async def write(self, send: Send) -> None:
        """Write events until the stream ends."""
        shown = 0
        noticed_at = self._reactor.seconds()
        while True:
            while self._waiting:
                record = self._waiting.popleft()
                self._bytes -= len(record)
                await send(event("record", record))
                shown += 1
                if shown == self._limit:
                    self.end("limit")
                    self._waiting.clear()
                # On a busy source, there may always be a next record.
                if self._reactor.seconds() - noticed_at >= NOTICE_SECONDS:
                    noticed_at = await self._notice(send)
            noticed_at = await self._notice(send)
            if self._reason:
                await send(event("end", orjson.dumps({"reason": self._reason, "records": shown})))
                return
            if not self._waiting and not await self._wakeup.wait():
                await send(b": nothing new\n\n")

    async def _notice(self, send: Send) -> float:
        """Write how many records were omitted, if any; return the current time."""
        if self._over_rate or self._overflow:
            left_out = {"overRate": self._over_rate, "overflow": self._overflow}
            self._over_rate = self._overflow = 0
            await send(event("dropped", orjson.dumps(left_out)))
        now: float = self._reactor.seconds()
        return now

    def _has_work(self) -> bool:
        return bool(self._waiting or self._over_rate or self._overflow or self._reason)


def event(name: str, data: bytes) -> bytes:
    """Return a server-sent event.

    :param data: JSON text on one line.
    """
    return b"event: %s\ndata: %s\n\n" % (name.encode(), data)
