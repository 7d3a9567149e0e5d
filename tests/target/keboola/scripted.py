"""A web server on a free port that answers from a script and records requests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import orjson
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.protocols.policies import WrappingFactory
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

reactor: Any = _reactor


@attrs.frozen
class Asked:
    method: str
    uri: str
    headers: dict[str, str]
    body: Any


@attrs.frozen
class Say:
    """A scripted answer.

    :param drop: close the connection instead of answering.
    :param hang: never answer.
    :param wire: the raw answer, if it isn't HTTP.
    """

    status: int = 200
    json: Any = None
    content_type: str = "application/json"
    raw: bytes | None = None
    drop: bool = False
    hang: bool = False
    headers: dict[str, str] = attrs.field(factory=dict)
    wire: bytes = b""


def refuse(status: int, code: str = "", error: str = "no", exception_id: str = "x-1") -> Say:
    """Return an error answer in the API's form."""
    return Say(status, {"error": error, "code": code, "exceptionId": exception_id})


class ScriptedServer(Resource):
    """Answers each request with the next `Say`; the last one is repeated."""

    isLeaf = True

    def __init__(self, script: list[Say]) -> None:
        super().__init__()
        self.script = script
        self.asked: list[Asked] = []
        self.on_request: Callable[[], None] = lambda: None
        self._connections = WrappingFactory(Site(self))
        self._port = reactor.listenTCP(0, self._connections, interface="127.0.0.1")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port.getHost().port}"

    def render(self, request: Request) -> Any:
        data = request.content.read() if request.content is not None else b""
        self.asked.append(
            Asked(
                request.method.decode(),
                request.uri.decode(),
                {
                    name.decode().lower(): values[0].decode()
                    for name, values in request.requestHeaders.getAllRawHeaders()
                },
                orjson.loads(data) if data else None,
            )
        )
        say = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        self.on_request()
        if say.hang:
            return NOT_DONE_YET
        if say.drop:
            assert request.channel is not None
            request.channel.forceAbortClient()
            return NOT_DONE_YET
        if say.wire:
            assert request.channel is not None
            assert request.channel.transport is not None
            request.channel.transport.write(say.wire)
            request.channel.loseConnection()
            return NOT_DONE_YET
        request.setResponseCode(say.status)
        if say.status == 204:
            return b""
        request.setHeader("Content-Type", say.content_type)
        for name, value in say.headers.items():
            request.setHeader(name, value)
        return orjson.dumps(say.json) if say.raw is None else say.raw

    def stop(self) -> Deferred[None]:
        for connection in list(self._connections.protocols):
            connection.transport.abortConnection()
        stopped: Deferred[None] = self._port.stopListening()
        return stopped
