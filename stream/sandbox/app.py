"""The routes of all resources as one Klein application, and its site."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from klein import Klein
from twisted.internet.defer import Deferred
from twisted.protocols.policies import WrappingFactory
from twisted.python.failure import Failure
from twisted.web.iweb import IRequest
from twisted.web.server import Site
from werkzeug.exceptions import HTTPException

from stream.errors import UserError
from stream.ops.quiet_site import QuietChannel
from stream.sandbox.http import Access, BoundedRequest, Call, Gate, Reply, Route, json_reply

__all__ = ["SandboxSite", "build_app", "health_route"]


async def _healthy(call: Call) -> Reply:
    return json_reply({"status": "ok"})


def health_route() -> Route:
    """Return the route ``GET /health-check``."""
    return Route("healthCheck", "GET", "/health-check", _healthy, Access.PUBLIC)


def build_app(gate: Gate, routes: Iterable[Route]) -> Klein:
    """Build an application in which *gate* answers each of *routes*.

    Answers to requests without a route have the same form.
    """
    app = Klein()
    for route in routes:
        app.route(route.path, methods=[route.method], endpoint=route.name)(_endpoint(gate, route))

    def miss(request: IRequest, failure: Failure) -> bytes:
        error = failure.value
        assert isinstance(error, HTTPException)
        reply = gate.error_reply(
            UserError(error.description or error.name, status=error.code or 404, name="notFound")
        )
        request.setResponseCode(reply.status)
        request.setHeader(b"content-type", b"application/json")
        return reply.content

    app.handle_errors(HTTPException)(miss)
    return app


def _endpoint(gate: Gate, route: Route) -> Any:
    def endpoint(request: Any, **args: str) -> Deferred[Any]:
        return gate.serve(route, request, args)

    return endpoint


class _QuietSite(Site):
    """A site without an access log, because important events are logged where they occur."""

    noisy = False
    protocol = QuietChannel  # type: ignore[assignment]

    def log(self, request: Any) -> None:
        """Do nothing."""


class SandboxSite(WrappingFactory):
    """Serves an application, and can disconnect idle clients."""

    noisy = False

    def __init__(self, app: Klein) -> None:
        site = _QuietSite(app.resource(), requestFactory=BoundedRequest)
        super().__init__(site)

    def hang_up(self) -> None:
        """Close all connections after their pending data is sent."""
        for connection in list(self.protocols):
            connection.loseConnection()
