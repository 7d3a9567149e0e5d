"""The routes: each operation with its handler, and the answers to unknown routes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote

import attrs
from klein import Klein
from klein.interfaces import IKleinRequest
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure
from werkzeug.exceptions import HTTPException, MethodNotAllowed
from werkzeug.routing import Map, RequestRedirect, Rule, RuleFactory

from stream.api.http.call import (
    Answer,
    Call,
    Handler,
    Identity,
    StartedTask,
    StreamingResponse,
    json_answer,
    json_body,
)
from stream.api.http.errors import error_answer, is_our_fault
from stream.api.http.guard import Guard, Incoming
from stream.api.http.server import clean_path, error_body, put
from stream.api.http.site import ApiRequest
from stream.api.http.streaming import ReaderIsStuck, write_lasting
from stream.api.spec.operation import Operation
from stream.errors import UserError, shortened
from stream.values.url import quoted_path

__all__ = ["REQUEST_SECONDS", "build_app"]

REQUEST_SECONDS = 30.0
"""Time limit of a request, in addition to the time that it waits for a task."""

Awaited = Callable[[Call, StartedTask], Awaitable[Answer | None]]
"""Waits for a task as long as the caller asked for; ``None`` if it can't wait."""

_log = Logger(namespace="stream.api")


def build_app(
    reactor: Any,
    guard: Guard,
    operations: Mapping[str, Operation],
    handlers: Mapping[str, Handler],
    *,
    awaited: Awaited,
    documentation: str = "",
) -> Klein:
    """Build an application that serves all *operations*.

    :param handlers: handlers by operation ID.
    :param awaited: builds the answers for callers that wait for a task.
    :param documentation: the URL of the documentation's page.

    Raises ValueError: an operation doesn't have exactly one handler.
    """
    if set(operations) != set(handlers):
        odd = ", ".join(sorted(set(operations) ^ set(handlers)))
        raise ValueError(f"operations and handlers don't match: {odd}")
    app = Klein()
    app._url_map = _Routes()
    for operation in operations.values():
        route = operation.path.replace("{*", "<path:").replace("{", "<").replace("}", ">")
        doc_url = f"{documentation}#{operation.id}" if operation.published else ""
        handler = handlers[operation.id]
        endpoint = _Endpoint(reactor, guard, operation, handler, awaited, doc_url)
        app.route(route, methods=[operation.method], endpoint=operation.id)(endpoint.serve)
    app.handle_errors(HTTPException)(_no_route)
    return app


class _MatchedRule(Rule):
    """A route that requests are matched with; no URLs are built from it.

    For each route, Werkzeug would compile code that builds URLs. That takes a tenth of the startup
    time.
    """

    def _compile_builder(self, append_unknown: bool = True) -> Callable[..., tuple[str, str]]:
        return _not_built


def _not_built(*_: object, **parts: object) -> tuple[str, str]:
    raise NotImplementedError("no URLs are built from routes")


class _Routes(Map):
    """The routes of an application, each a `_MatchedRule`."""

    def add(self, rulefactory: RuleFactory) -> None:
        for rule in rulefactory.get_rules(self):
            super().add(_MatchedRule(rule.rule, methods=rule.methods, endpoint=rule.endpoint))


class _Endpoint:
    """One operation on its route."""

    def __init__(
        self,
        reactor: Any,
        guard: Guard,
        operation: Operation,
        handler: Handler,
        awaited: Awaited,
        doc_url: str,
    ) -> None:
        self._reactor = reactor
        self._guard = guard
        self._operation = operation
        self._handler = handler
        self._awaited = awaited
        self._doc_url = doc_url

    # Klein names routes after their functions.
    __name__ = "endpoint"

    async def _result(self, request: ApiRequest, path: Mapping[str, str]) -> tuple[Call, Any]:
        def known(identity: Identity) -> None:
            request.project_id = identity.info.project_id
            request.span.set("project.id", request.project_id)
            request.vouch()

        request.span.set("http.route", self._operation.path)
        call = await self._guard.admit(self._operation, _incoming(request, path), known)
        if call.in_branch:
            request.branch_id = call.branch.branch_id
        return call, await self._handler(call)

    async def _answer(self, call: Call, result: Any) -> Answer | StreamingResponse:
        if isinstance(result, Answer):
            return result
        if isinstance(result, StreamingResponse):
            return result if self._operation.public else self._guard.lasting(call, result)
        if isinstance(result, StartedTask):
            awaited = await self._awaited(call, result) if call.wait else None
            if awaited is not None:
                return awaited
            result = result.view
        if call.unknown:
            result = result | call.warnings
        return json_answer(json_body(result), self._operation.status)

    def serve(self, request: Any, **path: str) -> Deferred[bytes]:
        """Write the answer. The Deferred fails only when it is cancelled."""
        if request.path.startswith(b"//"):
            # The router drops all leading slashes, so a path with several of them matches as well.
            return succeed(_redirect(request, unquote(request.path.decode("latin-1"))))
        answering: Deferred[Any] = Deferred.fromCoroutine(self._result(request, path))
        if not answering.called:
            answering.addTimeout(REQUEST_SECONDS, self._reactor)
        answering.addCallback(lambda found: Deferred.fromCoroutine(self._answer(*found)))
        answering.addErrback(self._failed, request)
        return answering.addCallback(self._put, request)

    def _put(
        self, answer: Answer | StreamingResponse, request: ApiRequest
    ) -> bytes | Deferred[bytes]:
        """Set the head of the answer; return the part of the body that remains to be written."""
        if isinstance(answer, Answer):
            return put(request, answer)
        request.begin_lasting()
        writing = Deferred.fromCoroutine(write_lasting(self._reactor, request, answer))
        return writing.addErrback(self._broke_off, request)

    def _broke_off(self, failure: Failure, request: ApiRequest) -> bytes:
        """Abort the connection, so that the client notices that the answer is incomplete."""
        if failure.check(CancelledError) is None:
            if failure.check(ReaderIsStuck):
                _log.info(
                    "response aborted: {error}",
                    error=str(failure.value),
                    request_id=request.id,
                )
            else:
                _log.failure("response aborted", failure, request_id=request.id)
            if request.channel is not None:
                request.channel.forceAbortClient()
        return b""

    def _failed(self, failure: Failure, request: ApiRequest) -> Answer:
        problem = failure.value
        assert problem is not None
        if isinstance(problem, CancelledError):
            failure.raiseException()  # the client has disconnected
        error = error_answer(problem, request.id, doc_url=self._doc_url)
        fields: dict[str, Any] = {
            "request_id": request.id,
            "operation": self._operation.id,
            "error_name": error.name,
        }
        if error.exception_id is not None:
            fields["exception_id"] = error.exception_id
        if request.project_id is not None:
            fields["stream.projectId"] = request.project_id
        if is_our_fault(problem):
            _log.failure("request failed", failure, **fields)
        else:
            level = LogLevel.error if error.status >= 500 else LogLevel.info
            _log.emit(level, "request failed: {error}", error=str(problem), **fields)
        answer = error_body(error)
        if error.status == 401 and self._guard.challenge:
            challenge = ("WWW-Authenticate", self._guard.challenge)
            answer = attrs.evolve(answer, headers=(*answer.headers, challenge))
        return answer


def _incoming(request: ApiRequest, path: Mapping[str, str]) -> Incoming:
    headers = request.requestHeaders

    def header(name: bytes) -> str:
        values = headers.getRawHeaders(name)
        return values[0].decode("utf-8", "replace") if values else ""

    return Incoming(
        path=path,
        query=_query(request.uri),
        header=header,
        headers=lambda: tuple(
            (name, value) for name, values in headers.getAllRawHeaders() for value in values
        ),
        body=request.body,
        client_ip=getattr(request.getClientAddress(), "host", ""),
        request_id=request.id,
    )


def _query(uri: bytes) -> dict[str, str]:
    """Return the first value of each query parameter."""
    _, _, text = uri.partition(b"?")
    query: dict[str, str] = {}
    if text:
        for name, value in parse_qsl(text.decode("utf-8", "replace"), keep_blank_values=True):
            query.setdefault(name, value)
    return query


def _redirect(request: Any, path: str) -> bytes:
    """Redirect to *path* in the form in which its route is registered; keep the query."""
    query = request.uri.partition(b"?")[1:]
    location = quoted_path(clean_path(path)) + b"".join(query).decode("ascii", "replace")
    return put(request, Answer(status=301, headers=(("Location", location),)))


def _no_route(request: Any, failure: Failure) -> bytes:
    """Answer a request whose path is unknown or misspelled, or doesn't support the method."""
    path = "/" + "/".join(part.decode() for part in request.postpath)
    known = IKleinRequest(request).mapper.allowed_methods(clean_path(path))
    if known and (clean_path(path) != path or isinstance(failure.value, RequestRedirect)):
        return _redirect(request, path)
    if isinstance(failure.value, MethodNotAllowed):
        if request.method == b"OPTIONS":
            return put(request, Answer(status=204))
        methods = sorted(set(failure.value.valid_methods or ()) - {"HEAD"})
        answer = error_body(
            error_answer(
                UserError(
                    f"the method {shortened(request.method.decode('latin-1'))} is not allowed "
                    f"here, only {', '.join(methods)}",
                    status=405,
                    name="methodNotAllowed",
                ),
                request.id,
            )
        )
        headers = tuple(("Allow", method) for method in methods)
        return put(request, attrs.evolve(answer, headers=headers))
    error = error_answer(
        UserError(
            f'no endpoint found for path "{shortened(path)}"', status=404, name="endpointNotFound"
        ),
        request.id,
    )
    return put(request, error_body(error))
