"""The API's HTTP front: request ids, CORS, early refusals, the access log.

It treats all requests alike; `stream.api.http.app` selects the operation of each.
"""

from __future__ import annotations

import posixpath
from typing import Any
from urllib.parse import unquote_to_bytes

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import IResource, Resource
from twisted.web.server import Request

from stream.api.http.call import Answer
from stream.api.http.errors import ErrorAnswer, error_answer
from stream.api.http.site import ApiRequest
from stream.errors import UserError
from stream.ops.tracing.spans import received
from stream.values.duration import Duration
from stream.values.redaction import shown_url

__all__ = [
    "CONSOLE",
    "DOCUMENTATION",
    "MAX_TARGET_BYTES",
    "Front",
    "clean_path",
    "error_body",
    "put",
]

_log = Logger(namespace="stream.api.http.server")

MAX_IN_FLIGHT = 1000
"""Maximum number of requests in progress; further ones are refused immediately."""
MAX_TARGET_BYTES = 8 * 1024
"""Maximum length of the path and query of a request."""

_METHODS = "GET, POST, PATCH, DELETE"
_HEADERS = "Content-Type, X-StorageApi-Token, X-KBC-ProjectId"
CONSOLE = "/console"
DOCUMENTATION = "/v1/documentation"
_HEALTH_CHECK = b"/health-check"


def clean_path(path: str) -> str:
    """Return *path* in the form in which routes are registered."""
    clean = posixpath.normpath("/" + path.lstrip("/"))
    return clean + "/" if clean in (CONSOLE, DOCUMENTATION) else clean


def error_body(error: ErrorAnswer) -> Answer:
    """Return an error as JSON."""
    headers = (("Retry-After", str(error.retry_after)),) if error.retry_after else ()
    return Answer(
        status=error.status, body=error.body(), content_type="application/json", headers=headers
    )


def put(request: Request, answer: Answer) -> bytes:
    """Set the status and the headers; return the body, which the caller has to write."""
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
    """The resource in front of the routes.

    :param routes: the resource that answers all requests.
    """

    isLeaf = True

    def __init__(self, reactor: IReactorTime, routes: IResource) -> None:
        super().__init__()
        self._reactor = reactor
        self._routes = routes
        self._in_flight: dict[ApiRequest, Deferred[None]] = {}

    @property
    def in_flight(self) -> list[Deferred[None]]:
        """Deferreds that fire when the requests in progress are done."""
        return list(self._in_flight.values())

    def render(self, request: Any) -> Any:
        """Return the answer to a request, or ``NOT_DONE_YET``, within the request's span."""
        self._follow(request)
        with request.span.active():
            return self._render(request)

    def _render(self, request: Any) -> Any:
        request.setHeader(b"X-Request-Id", request.id.encode())
        request.setHeader(b"X-Content-Type-Options", b"nosniff")
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
        if len(request.uri) > MAX_TARGET_BYTES:
            return UserError(
                f"the path and the query are longer than {MAX_TARGET_BYTES} bytes",
                status=414,
                name="targetTooLong",
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
