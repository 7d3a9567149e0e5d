"""Request handling: limits, authentication, faults, and the form of errors.

Resources are tables of `Route`, and the `Gate` processes all their requests. Only the gate converts
exceptions to statuses. It also tracks all calls in progress.
"""

from __future__ import annotations

import enum
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from ipaddress import ip_address
from typing import Any, BinaryIO, cast

import attrs
import orjson
from twisted.internet.defer import CancelledError, Deferred, DeferredList, ensureDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import server

from stream.concurrency.waiters import ended
from stream.errors import UserError
from stream.sandbox.auth import MAX_TOKEN_CHARS, Token, access_denied, token_invalid
from stream.sandbox.body import MAX_BODY_BYTES, Body, invalid
from stream.sandbox.faults import Fault, Faults

__all__ = ["Access", "BoundedRequest", "Call", "Gate", "Reply", "Route", "json_reply", "not_found"]

MAX_CALLS_IN_FLIGHT = 256
_MAX_ID = 2**63 - 1


class Access(enum.Enum):
    """The callers that may use a route."""

    PUBLIC = "anyone"
    TOKEN = "a caller with a valid token"
    PAGE = "a browser on this machine, or one that sends the master token as the password"
    LOCAL = "this machine, and only while no other machine can connect"


@attrs.frozen
class Reply:
    """The answer to a request."""

    content: bytes = b""
    status: int = 200
    content_type: str = "application/json"
    headers: Mapping[str, str] = attrs.field(factory=dict)


def _content(request: object) -> bytes:
    """Return the complete body of *request*."""
    content: BinaryIO | None = getattr(request, "content", None)
    return content.read() if content is not None else b""


def json_reply(value: Any, status: int = 200) -> Reply:
    """Return a reply that contains a value as JSON."""
    return Reply(orjson.dumps(value), status)


def not_found(message: str, code: str) -> UserError:
    """Return an error with status 404."""
    return UserError(message, status=404, name=code)


@attrs.frozen
class Call:
    """One request, after the checks that all routes share.

    :ivar content: the body, read immediately because the request's file is closed when the client
        disconnects.
    """

    request: server.Request
    args: Mapping[str, str]
    content: bytes = b""
    caller: Token | None = None
    fault: Fault | None = None

    @property
    def token(self) -> Token:
        """The caller; it always exists in routes that require a token."""
        if self.caller is None:
            raise token_invalid()
        return self.caller

    def body(self) -> Body:
        """The parsed body of the request."""
        return Body.parse(self.content)

    def query(self, name: str) -> str | None:
        """Return the last value of a query parameter."""
        values = self.request.args.get(name.encode())
        return values[-1].decode("utf-8", "replace") if values else None

    def query_flag(self, name: str) -> bool:
        """Return whether a flag of the query is set to ``1`` or ``true``."""
        return self.query(name) in ("1", "true")

    def query_number(self, name: str, default: int, *, least: int, most: int) -> int:
        """Return a number of the query; it must be between *least* and *most*."""
        text = self.query(name)
        if text is None:
            return default
        if not (text.isascii() and text.isdigit() and len(text) < 10) or not (
            least <= int(text) <= most
        ):
            raise invalid(f'"{name}" is not a whole number from {least} to {most}')
        return int(text)

    def id(self, name: str, code: str) -> int:
        """Return a numeric path segment; an invalid one raises 404 with *code*."""
        text = self.args[name]
        if not (text.isascii() and text.isdigit() and len(text) < 20) or int(text) > _MAX_ID:
            raise not_found(f'"{text}" not found', code)
        return int(text)


@attrs.frozen
class Route:
    """A method and path of the API.

    :param name: name of the route for fault injection.
    :param path: path after the host, with ``<segment>`` for a variable segment.
    """

    name: str
    method: str
    path: str
    handler: Callable[[Call], Awaitable[Reply]]
    access: Access = Access.TOKEN


class BoundedRequest(server.Request):
    """A request that drops data beyond `MAX_BODY_BYTES`, and whose answer has a certain type."""

    too_large = False
    _received = 0

    def process(self) -> None:
        """Forbid browsers to guess the content type, before any route can answer."""
        self.setHeader(b"X-Content-Type-Options", b"nosniff")
        super().process()

    def gotLength(self, length: int | None) -> None:
        if length is not None and length > MAX_BODY_BYTES:
            self.too_large, length = True, 0
        super().gotLength(length)

    def handleContentChunk(self, data: bytes) -> None:
        self._received += len(data)
        if self._received > MAX_BODY_BYTES:
            self.too_large = True
        if not self.too_large:
            super().handleContentChunk(data)


Authenticate = Callable[[str], Awaitable[Token | None]]


class Gate:
    """Passes calls to their handlers, and waits for unfinished calls when it is drained.

    :ivar loopback: whether only this machine can connect; set when the port is known.
    :ivar hosts: allowed host names of the pages.
    """

    _log = Logger()

    def __init__(self, reactor: IReactorTime, authenticate: Authenticate, faults: Faults) -> None:
        self.loopback = False
        self.hosts: Sequence[str] = ()
        self._reactor = reactor
        self._authenticate = authenticate
        self._faults = faults
        self._calls: set[Deferred[Reply]] = set()
        self._delays: set[Deferred[None]] = set()
        self._stopping = False

    def serve(
        self, route: Route, request: server.Request, args: Mapping[str, str]
    ) -> Deferred[Any]:
        """Answer *request*. The work continues if the client disconnects."""
        if self._stopping:
            request.setHeader(b"connection", b"close")
            return ensureDeferred(self._refuse(request, "the sandbox is stopping"))
        if len(self._calls) >= MAX_CALLS_IN_FLIGHT:
            return ensureDeferred(self._refuse(request, "too many calls at once"))
        work = ensureDeferred(
            self._answer(route, Call(cast(Any, request), args, _content(request)))
        )
        self._calls.add(work)
        # When the client disconnects, the router cancels its Deferred. It gets this Deferred and
        # not that of the work.
        answer: Deferred[bytes] = Deferred()

        def done(reply: Reply) -> None:
            self._calls.discard(work)
            if not answer.called:
                answer.callback(_send(request, reply))

        def broken(failure: Failure) -> None:
            self._calls.discard(work)
            self._log.failure("cannot answer {route}", failure, route=route.name)
            if not answer.called:
                answer.errback(failure)

        work.addCallbacks(done, broken)
        return answer

    def error_reply(self, error: BaseException, route: str = "") -> Reply:
        """Return the body of an error, with three members; internal errors are only logged."""
        exception_id = f"sandbox-{uuid.uuid4().hex}"
        if isinstance(error, CancelledError):  # `drain` has interrupted a delay
            error = UserError("the sandbox is stopping", status=503, name="storage.unavailable")
        if isinstance(error, UserError):
            status, code, message = error.status, error.name, error.message
        else:
            status, code, message = 500, "storage.internalError", "Internal error"
            self._log.failure(
                "{route} failed ({exception_id})",
                Failure(error),
                route=route,
                exception_id=exception_id,
            )
        body = {"error": message, "code": code, "exceptionId": exception_id}
        return attrs.evolve(
            json_reply(body, status), headers={"retry-after": "1"} if status == 503 else {}
        )

    async def drain(self) -> None:
        """Refuse new calls, and wait until the accepted ones are answered."""
        self._stopping = True
        for delay in list(self._delays):
            delay.cancel()
        await DeferredList([ended(call) for call in self._calls])

    async def _answer(self, route: Route, call: Call) -> Reply:
        try:
            if getattr(call.request, "too_large", False):
                raise UserError(
                    f"the body is larger than {MAX_BODY_BYTES} bytes",
                    status=413,
                    name="storage.bodyTooLarge",
                )
            if route.access in (Access.PAGE, Access.LOCAL):
                await self._admit(route, call.request)
                return await route.handler(call)
            return await self._through_faults(route, call)
        except Exception as error:
            return self.error_reply(error, route.name)

    async def _through_faults(self, route: Route, call: Call) -> Reply:
        fault = self._faults.take(route.name)
        if fault is not None and fault.delay:
            await self._wait(fault.delay)
        if fault is not None and fault.status and not fault.after_effect:
            raise fault.error()
        caller = None if route.access is Access.PUBLIC else await self._caller(call.request)
        reply = await route.handler(attrs.evolve(call, caller=caller, fault=fault))
        if fault is not None and fault.status:
            raise fault.error()
        return reply

    async def _caller(self, request: server.Request) -> Token:
        text = request.getHeader("x-storageapi-token") or ""
        if not text:
            scheme, _, credentials = (request.getHeader("authorization") or "").partition(" ")
            text = credentials if scheme.lower() == "bearer" else ""
        caller = await self._authenticate(text) if 0 < len(text) <= MAX_TOKEN_CHARS else None
        if caller is None:
            raise token_invalid()
        return caller

    async def _admit(self, route: Route, request: server.Request) -> None:
        if not self.loopback:
            if route.access is Access.LOCAL:
                raise not_found("only a sandbox that listens on loopback provides this", "notFound")
            password = request.getPassword().decode("utf-8", "replace")
            caller = await self._authenticate(password[:MAX_TOKEN_CHARS])
            if caller is None or not caller.is_master:
                request.setHeader(b"www-authenticate", b'Basic realm="sandbox", charset="UTF-8"')
                raise token_invalid()
            return
        # Any website can make a browser on this machine call a loopback port. If the website
        # controls its DNS, it can do so under its own host name. Such calls have that name or an
        # origin.
        host = request.getRequestHostname().decode("ascii", "replace").lower()
        origin = request.getHeader("origin")
        if not (host in self.hosts or host == "localhost" or _is_loopback(host)):
            raise access_denied("the host name does not belong to this sandbox")
        if origin is not None and origin.partition("://")[2] != request.getHeader("host"):
            raise access_denied("the call comes from another website")

    async def _wait(self, seconds: float) -> None:
        delay: Deferred[None] = deferLater(self._reactor, seconds)
        self._delays.add(delay)
        try:
            await delay
        finally:
            self._delays.discard(delay)

    async def _refuse(self, request: server.Request, message: str) -> bytes:
        error = UserError(message, status=503, name="storage.unavailable")
        return _send(request, self.error_reply(error))


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _send(request: server.Request, reply: Reply) -> bytes:
    request.setResponseCode(reply.status)
    if reply.content:
        request.setHeader(b"content-type", reply.content_type.encode("ascii"))
    for name, value in reply.headers.items():
        request.setHeader(name.encode("ascii"), value.encode("ascii"))
    return reply.content
