"""Writing a streaming answer at the pace of the client."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from stream.api.http.call import StreamingResponse

__all__ = ["STUCK_SECONDS", "ReaderIsStuck", "write_lasting"]

STUCK_SECONDS = 60.0
"""Seconds without progress after which a client is disconnected."""


class ReaderIsStuck(Exception):
    """The client of a streaming answer doesn't read it."""


async def write_lasting(reactor: Any, request: Any, answer: StreamingResponse) -> bytes:
    """Write the head and the body of *answer*; the caller has to finish the request.

    Raises ReaderIsStuck: the client doesn't read the answer.

    :param request: request of ``twisted.web``.
    :returns: the rest of the body, which is always empty.
    """
    request.setHeader(b"Content-Type", answer.content_type.encode())
    request.setHeader(b"Cache-Control", b"no-store")
    request.setHeader(b"X-Accel-Buffering", b"no")  # Without it, a proxy may buffer the answer.
    if request.method == b"HEAD":
        return b""
    pace = _Pace(reactor, request)
    request.registerProducer(pace, True)
    try:
        await answer.write(pace.send)
    finally:
        if request.channel is not None:  # The client has disconnected.
            request.unregisterProducer()
    return b""


@implementer(IPushProducer)
class _Pace:
    """Waits while the connection's buffer is full."""

    def __init__(self, reactor: Any, request: Any) -> None:
        self._reactor = reactor
        self._request = request
        self._paused: Deferred[None] | None = None

    async def send(self, data: bytes) -> None:
        """Write *data* and wait until more may be written."""
        self._request.write(data)
        if self._paused is None:
            return
        try:
            await self._paused.addTimeout(STUCK_SECONDS, self._reactor)
        except TimeoutError:
            self._paused = None
            raise ReaderIsStuck(f"the client has read nothing for {STUCK_SECONDS:g} s") from None

    def pauseProducing(self) -> None:
        if self._paused is None:
            self._paused = Deferred()

    def resumeProducing(self) -> None:
        paused, self._paused = self._paused, None
        if paused is not None and not paused.called:
            paused.callback(None)

    def stopProducing(self) -> None:
        """Cancel the writer: the client has disconnected."""
