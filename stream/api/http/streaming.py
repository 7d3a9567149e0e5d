"""Writing an answer that lasts: no faster than the client takes it."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from stream.api.http.call import StreamingResponse

__all__ = ["STUCK_SECONDS", "ReaderIsStuck", "write_lasting"]

STUCK_SECONDS = 60.0
"""A client that takes nothing for so long is cut off."""


class ReaderIsStuck(Exception):
    """The client of a lasting answer doesn't read it."""


async def write_lasting(reactor: Any, request: Any, answer: StreamingResponse) -> bytes:
    """Write head and body of *answer*; the request remains to be finished.

    :param request: of twisted.web.
    :returns: nothing more to be written.

    Raises `ReaderIsStuck`.
    """
    request.setHeader(b"Content-Type", answer.content_type.encode())
    request.setHeader(b"Cache-Control", b"no-store")
    request.setHeader(b"X-Accel-Buffering", b"no")  # a proxy that collects would hold it back
    if request.method == b"HEAD":
        return b""
    pace = _Pace(reactor, request)
    request.registerProducer(pace, True)
    try:
        await answer.write(pace.send)
    finally:
        if request.channel is not None:  # it is gone with the client
            request.unregisterProducer()
    return b""


@implementer(IPushProducer)
class _Pace:
    """Waits while the connection is full."""

    def __init__(self, reactor: Any, request: Any) -> None:
        self._reactor = reactor
        self._request = request
        self._paused: Deferred[None] | None = None

    async def send(self, data: bytes) -> None:
        """Write *data*, and wait until more may be written."""
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
        """The client has gone; whoever writes is cancelled."""
