"""Servers for comparison with the service: they read the body and discard it.

python -m benchmarks.baselines aiohttp 8100
python -m benchmarks.baselines uvicorn 8100
python -m benchmarks.baselines "bare Twisted" 8100

The last one is the upper bound for the service: a Twisted protocol that only finds the end of a
request, and answers it, on the service's reactor.
"""

from __future__ import annotations

import re
import sys
from typing import Any

from twisted.internet.protocol import Protocol, ServerFactory

from stream.ops.process.reactor import install

__all__ = ["BASELINES"]

BASELINES = ("aiohttp", "uvicorn", "bare Twisted")


def _aiohttp(port: int) -> None:
    from aiohttp import web

    async def discard(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(text="OK")

    app = web.Application()
    app.router.add_post("/{path:.*}", discard)
    web.run_app(app, host="127.0.0.1", port=port, access_log=None, print=None)


async def _discard(scope: Any, receive: Any, send: Any) -> None:
    """An ASGI application."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"OK"})


def _uvicorn(port: int) -> None:
    import uvicorn

    uvicorn.run(
        _discard,
        host="127.0.0.1",
        port=port,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
        lifespan="off",
    )


_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
_OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nOK"


class _Bare(Protocol):
    """Finds the end of each request, and answers it."""

    def __init__(self) -> None:
        self._data = b""

    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)  # type: ignore[union-attr]

    def dataReceived(self, data: bytes) -> None:
        data = self._data + data if self._data else data
        while (end := data.find(b"\r\n\r\n")) >= 0:
            length = _LENGTH.search(data, 0, end)
            size = end + 4 + (int(length[1]) if length is not None else 0)
            if len(data) < size:
                break
            data = data[size:]
            self.transport.write(_OK)  # type: ignore[union-attr]
        self._data = data


def _twisted(port: int) -> None:
    install()
    from twisted.internet import reactor as running

    reactor: Any = running
    factory = ServerFactory()
    factory.protocol = _Bare
    reactor.listenTCP(port, factory, backlog=4096, interface="127.0.0.1")
    reactor.run()


if __name__ == "__main__":
    run = {"aiohttp": _aiohttp, "uvicorn": _uvicorn, "bare Twisted": _twisted}
    run[sys.argv[1]](int(sys.argv[2]))
