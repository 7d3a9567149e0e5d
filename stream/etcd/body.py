"""Request and response bodies as bytes."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IConsumer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.iweb import IBodyProducer, IResponse
from zope.interface import implementer

__all__ = ["BytesBody", "abort", "read_body"]


@implementer(IBodyProducer)
class BytesBody:
    """A body producer that writes all its bytes at once."""

    def __init__(self, data: bytes) -> None:
        self.length = len(data)
        self._data = data

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        consumer.write(self._data)
        return succeed(None)

    def pauseProducing(self) -> None:
        """Do nothing, because everything is already written."""

    def resumeProducing(self) -> None:
        """Do nothing, because everything is already written."""

    def stopProducing(self) -> None:
        """Do nothing, because everything is already written."""


def abort(transport: Any) -> None:
    """Close the connection of a response without waiting for the other side.

    Over TLS, a normal close waits for an answer, which may never come. Twisted gives the reader of
    a body a proxy of the connection, which can only close it normally.
    """
    connection = getattr(transport, "_producer", None)
    getattr(connection, "abortConnection", transport.loseConnection)()


def read_body(response: IResponse) -> Deferred[bytes]:
    """Return the whole body of a response; cancelling the Deferred closes the connection."""
    collector = _Collector()
    response.deliverBody(collector)
    return collector.body


class _Collector(Protocol):
    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self.body: Deferred[bytes] = Deferred(self._cancelled)

    def _cancelled(self, _: Deferred[bytes]) -> None:
        if self.transport is not None:
            abort(self.transport)

    def dataReceived(self, data: bytes) -> None:
        self._pieces.append(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.body.called:
            return
        if reason.check(ResponseDone, PotentialDataLoss):
            self.body.callback(b"".join(self._pieces))
        else:
            self.body.errback(reason)
