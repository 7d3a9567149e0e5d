"""HTTP around the API: requests with a bounded body, ids, CORS, the access log.

What a request is about is decided in `stream.api.app`; everything here is the same for all of them.
"""

from __future__ import annotations

import posixpath
from io import BytesIO
from typing import Any
from urllib.parse import unquote_to_bytes
from weakref import WeakSet

import orjson
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import IResource, Resource
from twisted.web.server import Request, Site

from stream.api.call import Answer
from stream.api.errors import ErrorAnswer, error_answer
from stream.errors import UserError
from stream.ops.ids import request_id
from stream.ops.tracing import Span, received
from stream.values.duration import Duration
from stream.values.redaction import shown_url

__all__ = [
    "DOCUMENTATION",
    "MAX_BODY_BYTES",
    "ApiRequest",
    "ApiSite",
    "Front",
    "clean_path",
    "error_body",
    "put",
]

_log = Logger(namespace="stream.api.http")

MAX_BODY_BYTES = 16 * 1024 * 1024
MAX_IN_FLIGHT = 1000
"""Requests that are being answered; more are refused at once."""
HEADERS_SECONDS = 10
"""For the head of a request, and for waiting for the next one."""
BODY_SECONDS = 30
"""For the body."""
_SWEEP_SECONDS = 1

_METHODS = "GET, POST, PATCH, DELETE"
_HEADERS = "Content-Type, X-StorageApi-Token, X-KBC-ProjectId"
DOCUMENTATION = "/v1/documentation"
_HEALTH_CHECK = b"/health-check"


class ApiRequest(Request):
    """A request whose head and body must come within a time, and whose body is bounded.

    :ivar id: told to the client, and in the log.
    :ivar project_id: of the caller, once it is known.
    :ivar branch_id: of the call, once it is known.
    :ivar span: of the request; its end is cared for.
    :ivar is_too_big: a part of the body was dropped.
    """

    def __init__(self, channel: Any, *arguments: Any, **named: Any) -> None:
        super().__init__(channel, *arguments, **named)
        self.id = request_id()
        self.project_id: int | None = None
        self.branch_id: int | None = None
        self.span = Span(None)
        self.is_too_big = False
        self._bytes = 0
        self._site: ApiSite = channel.site
        self._site.connections.add(channel)
        self._site.expect(self, HEADERS_SECONDS)

    def gotLength(self, length: int | None) -> None:
        """The head is complete. Unlike the base class, never use a file on disk."""
        self.content = BytesIO()
        self._site.expect(self, BODY_SECONDS)

    def handleContentChunk(self, data: bytes) -> None:
        self._bytes += len(data)
        self.is_too_big = self._bytes > MAX_BODY_BYTES
        if not self.is_too_big and self.content is not None:
            self.content.write(data)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """Unlike the base class, leave a form in the body alone: it may be a record."""
        self._site.deadlines.pop(self, None)
        assert self.content is not None
        self.content.seek(0, 0)
        self.args = {}
        self.method, self.uri, self.clientproto = command, path, version
        self.path = path.partition(b"?")[0]
        self.process()

    def connectionLost(self, reason: Failure) -> None:
        self._site.deadlines.pop(self, None)
        super().connectionLost(reason)


class ApiSite(Site):
    """A site whose requests are `ApiRequest`s and that leaves the log to `Front`.

    :ivar connections: those that have sent a request.
    :ivar deadlines: of requests that haven't been received as a whole.
    """

    noisy = False
    requestFactory = ApiRequest
    displayTracebacks = False

    def __init__(self, root: IResource, reactor: Any) -> None:
        super().__init__(root, reactor=reactor, timeout=HEADERS_SECONDS)
        self.connections: WeakSet[Any] = WeakSet()
        self.deadlines: dict[ApiRequest, float] = {}
        self._sweeping: IDelayedCall | None = None

    def expect(self, request: ApiRequest, seconds: float) -> None:
        """Hang up unless the next part of *request* has come within so many seconds.

        One timer looks after all requests: most of them are complete before it could fire.
        """
        self.deadlines[request] = self.reactor.seconds() + seconds
        if self._sweeping is None:
            self._sweeping = self.reactor.callLater(_SWEEP_SECONDS, self._sweep)

    def _sweep(self) -> None:
        self._sweeping = None
        now = self.reactor.seconds()
        for request, deadline in list(self.deadlines.items()):
            if deadline <= now and request.channel is not None:
                del self.deadlines[request]
                request.channel.loseConnection()
        if self.deadlines:
            self._sweeping = self.reactor.callLater(_SWEEP_SECONDS, self._sweep)

    def hang_up(self) -> None:
        """Close the connections, after what was written to them is sent."""
        for connection in list(self.connections):
            connection.loseConnection()
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None

    def log(self, request: Any) -> None:
        """Nothing here."""


def clean_path(path: str) -> str:
    """The form in which *path* would be registered."""
    clean = posixpath.normpath("/" + path.lstrip("/"))
    return clean + "/" if clean == DOCUMENTATION else clean


def error_body(error: ErrorAnswer) -> Answer:
    """An error as JSON."""
    body = orjson.dumps(error.plain(), option=orjson.OPT_INDENT_2) + b"\n"
    headers = (("Retry-After", str(error.retry_after)),) if error.retry_after else ()
    return Answer(status=error.status, body=body, content_type="application/json", headers=headers)


def put(request: Request, answer: Answer) -> bytes:
    """Set status and headers; the body, which remains to be written."""
    request.setResponseCode(answer.status)
    for name, value in answer.headers:
        request.responseHeaders.addRawHeader(name.encode(), value.encode())
    if answer.content_type:
        request.setHeader(b"Content-Type", answer.content_type.encode())
    else:
        request.defaultContentType = None
    if answer.status not in (204, 304):
        request.setHeader(b"Content-Length", str(len(answer.body)).encode())
    return answer.body


class Front(Resource):
    """Stands before the routes.

    :param routes: the resource that answers everything.
    """

    isLeaf = True

    def __init__(self, reactor: IReactorTime, routes: IResource) -> None:
        super().__init__()
        self._reactor = reactor
        self._routes = routes
        self._in_flight: dict[ApiRequest, Deferred[None]] = {}

    @property
    def in_flight(self) -> list[Deferred[None]]:
        """Deferreds that fire when the requests that are being answered are done."""
        return list(self._in_flight.values())

    def render(self, request: Any) -> Any:
        self._follow(request)
        with request.span.active():
            return self._render(request)

    def _render(self, request: Any) -> Any:
        request.setHeader(b"X-Request-Id", request.id.encode())
        origin = request.getHeader(b"origin")
        if origin:
            request.setHeader(b"Access-Control-Allow-Origin", origin)
            request.setHeader(b"Vary", b"Origin")
            if request.getHeader(b"access-control-request-method"):
                return put(request, _PREFLIGHT)
        refused = self._refusal(request)
        if refused is not None:
            return put(request, error_body(error_answer(refused, request.id)))
        return self._routes.render(request)

    def _refusal(self, request: ApiRequest) -> UserError | None:
        if len(self._in_flight) > MAX_IN_FLIGHT:
            return UserError(
                "the service is busy, please try again in a moment",
                status=503,
                name="serviceUnavailable",
            )
        if request.is_too_big:
            return UserError(
                f"the body is larger than {MAX_BODY_BYTES} bytes",
                status=413,
                name="payloadTooLarge",
            )
        try:
            unquote_to_bytes(request.path).decode()
        except UnicodeDecodeError:
            return UserError("the path is not valid UTF-8")
        return None

    def _follow(self, request: ApiRequest) -> None:
        done: Deferred[None] = Deferred()
        self._in_flight[request] = done
        started = self._reactor.seconds()
        if request.path != _HEALTH_CHECK:
            request.span = received(
                "http.server.request",
                {"http.method": request.method.decode("latin-1"), "http.request_id": request.id},
                traceparent=request.getHeader("traceparent") or "",
                tracestate=request.getHeader("tracestate") or "",
            )

        def ended(result: Any) -> None:
            del self._in_flight[request]
            status = 499 if isinstance(result, Failure) else request.code
            traced = request.span
            with traced.active():
                self._access(request, started, status)
            traced.set("http.target", shown_url(request.path.decode("utf-8", "replace")))
            traced.set("http.status_code", status)
            traced.end("failed" if status >= 500 else "")
            done.callback(None)

        request.notifyFinish().addBoth(ended)

    def _access(self, request: ApiRequest, started: float, status: int) -> None:
        if request.path == _HEALTH_CHECK:
            return
        fields: dict[str, Any] = {
            "request_id": request.id,
            "http_status": status,
            "http_bytes": request.sentLength,
            "http_time": str(Duration.of_seconds(self._reactor.seconds() - started)),
            "client_ip": getattr(request.getClientAddress(), "host", ""),
            "user_agent": (request.getHeader(b"user-agent") or b"").decode("utf-8", "replace"),
        }
        if request.project_id is not None:
            fields["stream.projectId"] = request.project_id
        if request.branch_id is not None:
            fields["stream.branch.id"] = request.branch_id
        _log.info(
            "req {http_status} {url}",
            url=shown_url(request.uri.decode("utf-8", "replace")),
            **fields,
        )


_PREFLIGHT = Answer(
    status=204,
    headers=(
        ("Access-Control-Allow-Methods", _METHODS),
        ("Access-Control-Allow-Headers", _HEADERS),
    ),
)
