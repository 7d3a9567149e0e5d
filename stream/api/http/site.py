"""Connections of the API, with size and time limits for heads, bodies and answers.

A request is handled as soon as its head is complete. Nothing more is read from the connection until
the handler asks for the body, and a handler does so only when the caller is known. So a request
without a token costs no more than its head of a few kilobytes, however much data follows.

Note [Unread bodies]: an answer that is sent before the body was read ends the connection. If the
connection were closed immediately, the client's operating system would discard the answer together
with the data that it hasn't sent yet. So the service closes only its own side and discards further
data, up to a time and size limit.

Note [Lasting answers]: a streaming answer is the last one on its connection. Data that the client
sends during the answer is read and discarded. If the connection weren't read, a disconnect would go
unnoticed, and the work for the client would continue.

Note [Requests sent ahead]: a pipelined request is sent before the previous one is answered. It
starts in a later iteration of the reactor, and all pipelined requests together get a small part of
each iteration. Twisted would start it in the iteration that finishes the previous answer, and fifty
such clients would block all others.

Note [Shares of callers]: at the limit of connections, the oldest one of the project with the most
is closed. At the limit of bytes, the largest incomplete body of the project with the most bytes is
refused. So a project below an equal share is never refused because of others.
"""

from __future__ import annotations

from collections import Counter, deque
from http import HTTPStatus
from io import BytesIO
from typing import Any
from weakref import WeakSet

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IHalfCloseableDescriptor
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel, datetimeToString
from twisted.web.http import Request as HttpRequest
from twisted.web.resource import IResource
from twisted.web.server import Request, Site

from stream.api.http.errors import ErrorAnswer, error_answer
from stream.errors import UserError
from stream.ops.logging.ids import request_id
from stream.ops.tracing.spans import Span

__all__ = [
    "BODY_SECONDS",
    "HEADERS_SECONDS",
    "MAX_BODY_BYTES",
    "MAX_CONNECTIONS",
    "MAX_HEADERS",
    "MAX_HEAD_BYTES",
    "ApiChannel",
    "ApiRequest",
    "ApiSite",
]

MAX_BODY_BYTES = 1024 * 1024
MAX_WAITING_BYTES = 32 * 1024 * 1024
"""Maximum size of the bodies of all requests that are being received or answered."""
MAX_HEAD_BYTES = 16 * 1024
MAX_HEADERS = 100
MAX_CONNECTIONS = 1000
"""Beyond this limit, the oldest connection without a verified token is closed for a new one.

If there is none, see Note [Shares of callers].
"""
HEADERS_SECONDS = 10
"""Time limit for receiving a request's head, and for waiting for the next request."""
BODY_SECONDS = 20
"""Time limit for receiving the body, counted from the first read."""
_SWEEP_SECONDS = 1
_AHEAD_SECONDS = 0.002
"""Time in each iteration of the reactor for starting pipelined requests."""
_CLOSE_SECONDS = 15
"""How long a connection that is being closed may still receive its answer."""
_READ_BYTES = 16 * 1024
"""Bytes per read of a connection; limits how much is read after a head before it is requested."""
_DISCARD_BYTES = 64 * 1024
"""Bytes per read of discarded data."""
MAX_DISCARDED_BYTES = 32 * 1024 * 1024
_MAX_DISCARDING = 100
"""Maximum number of connections whose unread bodies are discarded; others are closed."""
_MAX_LENGTH_DIGITS = 18


class ApiRequest(Request):
    """A request that is handled when its head is complete.

    :ivar id: id of the request in the answer and in the log.
    :ivar project_id: project of the caller, once it is known.
    :ivar branch_id: branch of the call, once it is known.
    :ivar span: tracing span of the request; `Front` starts and ends it.
    :ivar is_whole: whether the whole body has been received, or there is no body.
    :ivar size: bytes of the body that count towards the limit of all bodies.
    """

    channel: Any

    def __init__(self, channel: Any, *arguments: Any, **named: Any) -> None:
        super().__init__(channel, *arguments, **named)
        self.id = request_id()
        self.project_id: int | None = None
        self.branch_id: int | None = None
        self.span = Span(None)
        self.is_whole = False
        self._length: int | None = 0
        self.size = 0
        self._problem: UserError | None = None
        self._arrival: Deferred[None] | None = None
        self._site: ApiSite = channel.site
        self._site.expect(channel, HEADERS_SECONDS)

    def getRequestHostname(self) -> bytes:
        """Return a constant, because routes don't depend on the client's ``Host``."""
        return b"api"

    def gotLength(self, length: int | None) -> None:
        """Handle a complete head. Unlike the base class, never buffer the body in a file."""
        self._site.forget(self.channel)
        self.content = BytesIO()
        self._length = length
        if length != 0:
            self.channel.hold()
            self._begin(*self.channel.head)

    def _begin(self, command: bytes, path: bytes, version: bytes) -> None:
        self.args = {}
        self.method, self.uri, self.clientproto = command, path, version
        self.path = path.partition(b"?")[0]
        self.process()

    def handleContentChunk(self, data: bytes) -> None:
        if self._problem is not None or self.content is None:
            return
        if self.size + len(data) > MAX_BODY_BYTES:
            self.refuse_body(_too_large())
        elif not self._site.take(self, len(data)):
            self.refuse_body(_busy())
        else:
            self.size += len(data)
            self.content.write(data)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """Render the request once its body is complete.

        Unlike the base class, this method doesn't parse a form in the body, because it may be a
        record.
        """
        self.is_whole = True
        self._site.forget(self.channel)
        if self._length == 0:
            self._begin(command, path, version)
        else:
            self._arrived()

    def refuse_body(self, problem: UserError) -> None:
        """Fail all current and later waits for the body with *problem*."""
        self._problem = problem
        self._release_bytes()
        self._site.forget(self.channel)
        self._arrived()

    def _arrived(self) -> None:
        arrival, self._arrival = self._arrival, None
        if arrival is not None:
            arrival.callback(None)

    async def body(self) -> bytes:
        """Read the whole body on the first call.

        Raises UserError: the body is too large, or it doesn't arrive in time.
        """
        if self._length is not None and self._length > MAX_BODY_BYTES:
            self._problem = self._problem or _too_large()
        if not self.is_whole and self._problem is None:
            self._arrival = Deferred()
            self._site.expect(self.channel, BODY_SECONDS)
            self.channel.release()
            await self._arrival
        if self._problem is not None:
            raise self._problem
        assert isinstance(self.content, BytesIO)
        return self.content.getvalue()

    @property
    def waits_for_body(self) -> bool:
        """Return whether a handler waits for the body."""
        return self._arrival is not None

    def vouch(self) -> None:
        """Mark the caller as known, so that connections of unknown callers are closed first."""
        if self.channel is not None:
            self._site.vouch(self.channel, self.project_id)

    def write(self, data: bytes) -> None:
        """Send a part of the answer.

        If the request's body is incomplete, the connection ends after the answer.
        """
        if not self.startedWriting and not self.is_whole and self.channel is not None:
            self.setHeader(b"Connection", b"close")
            self.channel.end_after_answer()
        super().write(data)

    def begin_lasting(self) -> None:
        """Start a streaming answer of unlimited duration; see Note [Lasting answers]."""
        if self.channel is not None:
            self.setHeader(b"Connection", b"close")
            self.channel.begin_lasting()

    def _release_bytes(self) -> None:
        self._site.release(self)
        self.size = 0

    def finish(self) -> None:
        self._release_bytes()
        super().finish()

    def connectionLost(self, reason: Failure) -> None:
        self._release_bytes()
        super().connectionLost(reason)


def _too_large() -> UserError:
    return UserError(
        f"the body is larger than {MAX_BODY_BYTES} bytes",
        status=413,
        name="payloadTooLarge",
    )


def _busy() -> UserError:
    return UserError(
        "the service is busy, please try again in a moment", status=503, name="serviceUnavailable"
    )


class ApiChannel(HTTPChannel):
    """A connection that reads a body only on request."""

    site: ApiSite
    transport: Any
    _networkProducer: Any
    maxHeaders = MAX_HEADERS
    totalHeadersSize = MAX_HEAD_BYTES
    MAX_LENGTH = MAX_HEAD_BYTES
    _command: bytes
    _path: bytes
    _version: bytes

    def __init__(self) -> None:
        super().__init__()
        self._held = False
        self._owes_continue = False
        self._is_refused = False
        self._has_unread = False
        self._is_discarding = False
        self._discarded = 0
        self._is_lasting = False
        self._is_lost = False

    @property
    def head(self) -> tuple[bytes, bytes, bytes]:
        """Return method, target and version of the request whose head is complete."""
        return self._command, self._path, self._version

    # Reading.

    def connectionMade(self) -> None:
        super().connectionMade()
        if hasattr(self.transport, "bufferSize"):
            self.transport.bufferSize = _READ_BYTES
        self.site.connected(self)

    def dataReceived(self, data: bytes) -> None:
        if self._abortingCall is not None or self._is_lasting:
            self._discarded += len(data)
            if self._discarded > MAX_DISCARDED_BYTES:
                self.forceAbortClient()
            return
        if not self.requests:
            self.site.expect(self, HEADERS_SECONDS)
        super().dataReceived(data)

    def lineReceived(self, line: bytes) -> None:
        if not self._is_refused:
            super().lineReceived(line)

    def rawDataReceived(self, data: bytes) -> None:
        if self.requests and not self._is_refused:
            super().rawDataReceived(data)

    def allContentReceived(self) -> None:
        # The last part of a body may be the one because of which the request was refused.
        if self.requests:
            super().allContentReceived()

    def hold(self) -> None:
        """Pause reading until `release`."""
        self._held = True
        # The base class suspends the timeout only after the whole body has been received.
        self._savedTimeOut = self.setTimeout(None) or self._savedTimeOut
        self._networkProducer.pauseProducing()

    def release(self) -> None:
        """Resume reading; send ``100 Continue`` if the client expects it."""
        if self._owes_continue:
            self._owes_continue = False
            super()._send100Continue()
        self._held = False
        self._networkProducer.resumeProducing()

    def _send100Continue(self) -> None:
        self._owes_continue = True

    def resumeProducing(self) -> None:
        super().resumeProducing()
        if self._held:
            self._networkProducer.pauseProducing()

    # Refusing.

    def _maybeChooseTransferDecoder(self, header: bytes, data: bytes) -> bool:
        # The base class would convert any number of digits.
        if header == b"Content-Length" and data.isdigit() and len(data) > _MAX_LENGTH_DIGITS:
            self._refuse(_too_large())
            return False
        chosen: bool = super()._maybeChooseTransferDecoder(header, data)
        return chosen

    def lineLengthExceeded(self, line: bytes) -> None:
        self._refuse(_head_too_large())

    def _respondToBadRequestAndDisconnect(self) -> None:
        if (
            self._receivedHeaderSize > self.totalHeadersSize
            or self._receivedHeaderCount > self.maxHeaders
        ):
            self._refuse(_head_too_large())
        else:
            self._refuse(UserError("the request is not valid HTTP"))

    def _refuse(self, problem: UserError) -> None:
        """Answer a malformed request and close the connection."""
        if self._is_refused:
            return
        self._is_refused = self._has_unread = True
        self.site.forget(self)
        if any(request.startedWriting for request in self.requests):
            self.forceAbortClient()
            return
        identifier = self.requests[-1].id if self.requests else request_id()
        self.transport.write(_raw_answer(error_answer(problem, identifier), identifier))
        self.loseConnection()

    def expired(self) -> None:
        """Close the connection, because the deadline has passed."""
        request = self.requests[-1] if self.requests else None
        if isinstance(request, ApiRequest) and request.waits_for_body:
            request.refuse_body(_too_slow(f"the body did not arrive within {BODY_SECONDS} s"))
        else:
            self._refuse(_too_slow(f"the head did not arrive within {HEADERS_SECONDS} s"))

    # Closing.

    def end_after_answer(self) -> None:
        """End the connection after the answer, since the body won't be read."""
        self.persistent = False
        self._has_unread = True

    def begin_lasting(self) -> None:
        """Start a streaming answer; see Note [Lasting answers]."""
        self._is_lasting = self._has_unread = True
        self.persistent = False
        self._dataBuffer = []
        self._networkProducer.resumeProducing()

    def requestDone(self, request: HttpRequest) -> None:
        self._held = self._owes_continue = False
        if self._waitingForTransport and (self._buffer or self._dataBuffer):
            # A client that doesn't read its answers gets no further answers.
            self.persistent = False
        if self._buffer:  # answered immediately, before all received data was parsed
            self._dataBuffer.append(self._buffer)
            self._buffer = b""
        if self.persistent and any(self._dataBuffer):
            self.site.start_later(self, request)  # see Note [Requests sent ahead]
        else:
            self.go_on(request)

    def go_on(self, request: HttpRequest) -> None:
        """Start the pipelined request that follows the answered *request*."""
        if self._is_lost:
            return
        super().requestDone(request)
        if self.requests or not self.persistent:
            return
        if self._waitingForTransport:
            self._networkProducer.pauseProducing()
        if self._buffer:
            self.site.expect(self, HEADERS_SECONDS)

    def loseConnection(self) -> None:
        """Close the connection when all is sent or time is up; see Note [Unread bodies]."""
        self.setTimeout(None)
        if self._abortingCall is None:
            self._abortingCall = self.callLater(_CLOSE_SECONDS, self.forceAbortClient)
        may_discard = self._has_unread and IHalfCloseableDescriptor.providedBy(self.transport)
        if may_discard and not self._is_discarding and self.site.may_discard(self):
            self._is_discarding = True
            self._networkProducer.unregisterProducer()
            self.transport.bufferSize = _DISCARD_BYTES
            self.transport.loseWriteConnection()
            self.transport.resumeProducing()
            return
        super().loseConnection()

    def timeoutConnection(self) -> None:
        """Close a connection on which no data was received in time."""
        if self in self.site.deadlines:
            self.expired()
        else:
            self.loseConnection()

    def forceAbortClient(self) -> None:
        if self._abortingCall is not None and self._abortingCall.active():
            self._abortingCall.cancel()
        self._abortingCall = None
        self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._is_lost = True
        self.site.disconnected(self)
        super().connectionLost(reason)


def _raw_answer(error: ErrorAnswer, identifier: str) -> bytes:
    """Return the answer to a malformed request, after which the connection is closed."""
    body = error.body()
    head = (
        f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\n"
        f"Date: {datetimeToString().decode()}\r\n"
        "Content-Type: application/json\r\n"
        "X-Content-Type-Options: nosniff\r\n"
        f"X-Request-Id: {identifier}\r\n"
        f"Content-Length: {len(body)}\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + body


def _head_too_large() -> UserError:
    return UserError(
        f"the head of the request is larger than {MAX_HEAD_BYTES} bytes or {MAX_HEADERS} headers",
        status=431,
        name="headTooLarge",
    )


def _too_slow(message: str) -> UserError:
    return UserError(message, status=408, name="requestTimeout")


class ApiSite(Site):
    """A site whose connections are `ApiChannel`s and that leaves logging to `Front`.

    :ivar connections: the open connections.
    :ivar deadlines: times by which the expected part of a request must arrive, by connection.
    """

    noisy = False
    protocol = ApiChannel  # type: ignore[assignment]
    requestFactory = ApiRequest
    displayTracebacks = False

    def __init__(self, root: IResource, reactor: Any) -> None:
        super().__init__(root, reactor=reactor, timeout=HEADERS_SECONDS)
        # Connections of unknown and of known callers, each with the oldest first.
        self._strangers: dict[ApiChannel, None] = {}
        self._vouched: dict[ApiChannel, int | None] = {}  # with the project
        self._discarding: WeakSet[ApiChannel] = WeakSet()
        self._waiting_bytes = 0
        self._bodies: dict[ApiRequest, None] = {}
        self.deadlines: dict[ApiChannel, float] = {}
        self._sweeping: IDelayedCall | None = None
        # Channels with a pipelined request, each with the answered request before it.
        self._ahead: deque[tuple[ApiChannel, HttpRequest]] = deque()
        self._turning: IDelayedCall | None = None

    @property
    def connections(self) -> list[ApiChannel]:
        """All open connections."""
        return [*self._strangers, *self._vouched]

    # Connections.

    def connected(self, channel: ApiChannel) -> None:
        """Add a new connection. Above the limit, close an old one, of unknown callers first.

        See Note [Shares of callers].
        """
        self._strangers[channel] = None
        if len(self._strangers) + len(self._vouched) > MAX_CONNECTIONS:
            oldest = next(iter(self._strangers))
            if oldest is channel and self._vouched:
                [(heaviest, _)] = Counter(self._vouched.values()).most_common(1)
                oldest = next(each for each, of in self._vouched.items() if of == heaviest)
            oldest.forceAbortClient()

    def vouch(self, channel: ApiChannel, project: int | None) -> None:
        """Mark the caller of *channel* as known, with the project of its token."""
        if channel in self._strangers or channel in self._vouched:
            self._strangers.pop(channel, None)
            self._vouched[channel] = project

    def disconnected(self, channel: ApiChannel) -> None:
        """Remove a connection that has ended."""
        self._strangers.pop(channel, None)
        self._vouched.pop(channel, None)
        self._discarding.discard(channel)
        self.forget(channel)

    def may_discard(self, channel: ApiChannel) -> bool:
        """Return whether further data of *channel* may be read and discarded."""
        if len(self._discarding) >= _MAX_DISCARDING:
            return False
        self._discarding.add(channel)
        return True

    # Bytes.

    def take(self, request: ApiRequest, size: int) -> bool:
        """Count *size* more bytes of a body; return whether they may be kept.

        Bodies of others may be refused for it; see Note [Shares of callers].
        """
        while self._waiting_bytes + size > MAX_WAITING_BYTES:
            largest = self._larger_body(request.project_id)
            if largest is None:
                return False
            largest.refuse_body(_busy())
        self._waiting_bytes += size
        self._bodies[request] = None
        return True

    def _larger_body(self, project: int | None) -> ApiRequest | None:
        """Return the largest incomplete body of the projects that have more bytes than *project*.

        The one of the project with the most bytes comes first.
        """
        sizes: Counter[int | None] = Counter()
        for request in self._bodies:
            sizes[request.project_id] += request.size
        return max(
            (
                request
                for request in self._bodies
                if request.waits_for_body and sizes[request.project_id] > sizes[project]
            ),
            key=lambda each: (sizes[each.project_id], each.size),
            default=None,
        )

    def release(self, request: ApiRequest) -> None:
        """Stop counting the bytes of a body."""
        self._waiting_bytes -= request.size
        self._bodies.pop(request, None)

    # Time.

    def expect(self, channel: ApiChannel, seconds: float) -> None:
        """Set the deadline of the next part of a request, in seconds.

        An existing deadline is kept. One timer serves all connections, because most parts arrive
        before it fires.
        """
        self.deadlines.setdefault(channel, self.reactor.seconds() + seconds)
        if self._sweeping is None:
            self._sweeping = self.reactor.callLater(_SWEEP_SECONDS, self._sweep)

    def forget(self, channel: ApiChannel) -> None:
        """Cancel the deadline, because the expected part has been received."""
        self.deadlines.pop(channel, None)

    def _sweep(self) -> None:
        self._sweeping = None
        now = self.reactor.seconds()
        for channel, deadline in list(self.deadlines.items()):
            if deadline <= now and channel in self.deadlines:
                del self.deadlines[channel]
                channel.expired()
        if self.deadlines and self._sweeping is None:
            self._sweeping = self.reactor.callLater(_SWEEP_SECONDS, self._sweep)

    def start_later(self, channel: ApiChannel, answered: HttpRequest) -> None:
        """Continue *channel* after *answered*, but later; see Note [Requests sent ahead]."""
        self._ahead.append((channel, answered))
        if self._turning is None:
            self._turning = self.reactor.callLater(0, self._start_some)

    def _start_some(self) -> None:
        end = self.reactor.seconds() + _AHEAD_SECONDS
        while self._ahead:
            channel, answered = self._ahead.popleft()
            channel.go_on(answered)
            if self.reactor.seconds() >= end:
                break
        self._turning = self.reactor.callLater(0, self._start_some) if self._ahead else None

    def hang_up(self) -> None:
        """Close the connections after their pending data has been sent."""
        for connection in self.connections:
            connection.loseConnection()
        self._ahead.clear()
        if self._turning is not None:
            self._turning.cancel()
            self._turning = None
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None

    def log(self, request: Any) -> None:
        """Do nothing, because `Front` writes the access log."""
