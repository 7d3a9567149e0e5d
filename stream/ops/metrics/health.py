"""Liveness and readiness checks."""

from __future__ import annotations

from collections.abc import Callable

from twisted.web.resource import Resource
from twisted.web.server import Request

__all__ = ["HealthCheck", "Readiness"]


class HealthCheck(Resource):
    """Answers every request with a fixed text, which shows that the process is alive."""

    isLeaf = True

    def __init__(self, text: bytes) -> None:
        super().__init__()
        self._text = text

    def render_GET(self, request: Request) -> bytes:
        request.setHeader(b"Content-Type", b"text/plain")
        return self._text


class Readiness(Resource):
    """Answers 200 while all components are ready, and 503 while they start or stop.

    :param is_ready: returns whether they are ready.
    """

    isLeaf = True

    def __init__(self, is_ready: Callable[[], bool]) -> None:
        super().__init__()
        self._is_ready = is_ready

    def render_GET(self, request: Request) -> bytes:
        request.setHeader(b"Content-Type", b"text/plain")
        if self._is_ready():
            return b"OK"
        request.setResponseCode(503)
        return b"not ready"
