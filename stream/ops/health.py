"""The answer to "are you there"; being able to give it is all it says."""

from __future__ import annotations

from twisted.web.resource import Resource
from twisted.web.server import Request

__all__ = ["HealthCheck"]


class HealthCheck(Resource):
    """Answers a fixed text, whatever host the request names."""

    isLeaf = True

    def __init__(self, text: bytes) -> None:
        super().__init__()
        self._text = text

    def render_GET(self, request: Request) -> bytes:
        request.setHeader(b"Content-Type", b"text/plain")
        return self._text
