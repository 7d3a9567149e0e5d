"""Servers for comparison with the service: they read the body and discard it.

python -m benchmarks.baselines aiohttp 8100
python -m benchmarks.baselines uvicorn 8100
python -m benchmarks.baselines "bare Twisted" 8100
python -m benchmarks.baselines "receives only" 8100

The last two are upper bounds for the service. One is a Twisted protocol on the service's reactor
that only finds the end of a request and answers it. The other is a loop that receives into one
buffer, counts the bytes, and answers: the most that the kernel can deliver to one core.
"""

from __future__ import annotations

import re
import select
import socket
import sys
from typing import Any

from twisted.internet.protocol import Protocol, ServerFactory

from stream.ops.process.reactor import install

__all__ = ["BARE", "BASELINES", "RECEIVES_ONLY"]

BARE = "bare Twisted"
RECEIVES_ONLY = "receives only"
BASELINES = ("aiohttp", "uvicorn", BARE)

_BUFFER_BYTES = 256 * 1024


def _aiohttp(port: int) -> None:
    from aiohttp import web

    async def discard(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(text="OK")

    app = web.Application()
    app.router.add_post("/{path:.*}", discard)
    web.run_app(app, host="127.0.0.1", port=port, access_log=None, print=None)


async def _discard(scope: Any, receive: Any, send: Any) -> None:
    """Answer 200 to every request: an ASGI application."""
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
        self._left = 0  # missing bytes of the body

    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)  # type: ignore[union-attr]

    def dataReceived(self, data: bytes) -> None:
        if self._left:
            if len(data) < self._left:
                self._left -= len(data)
                return
            data = data[self._left :]
            self._left = 0
            self.transport.write(_OK)  # type: ignore[union-attr]
        elif self._data:
            data = self._data + data
        self._data = b""
        while (end := data.find(b"\r\n\r\n")) >= 0:
            size = end + 4 + _length(data, end)
            if len(data) < size:
                self._left = size - len(data)
                return
            data = data[size:]
            self.transport.write(_OK)  # type: ignore[union-attr]
        self._data = data


def _length(data: bytes | bytearray, end: int) -> int:
    length = _LENGTH.search(data, 0, end)
    return int(length[1]) if length is not None else 0


def _twisted(port: int) -> None:
    install()
    from twisted.internet import reactor as running

    reactor: Any = running
    factory = ServerFactory()
    factory.protocol = _Bare
    reactor.listenTCP(port, factory, backlog=4096, interface="127.0.0.1")
    reactor.run()


def _receive(port: int) -> None:
    """Answer requests whose heads arrive complete, one at a time on each connection."""
    listener = socket.create_server(("127.0.0.1", port), backlog=4096)
    poller = select.epoll()
    poller.register(listener, select.EPOLLIN)
    connections: dict[int, socket.socket] = {}
    left: dict[int, int] = {}
    buffer = bytearray(_BUFFER_BYTES)
    while True:
        for descriptor, _ in poller.poll():
            if descriptor == listener.fileno():
                connection, _ = listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connections[connection.fileno()] = connection
                poller.register(connection, select.EPOLLIN)
                continue
            connection = connections[descriptor]
            try:
                size = connection.recv_into(buffer)
            except ConnectionError:
                size = 0
            if not size:
                poller.unregister(connection)
                connection.close()
                left.pop(descriptor, None)
                continue
            expected = left.get(descriptor, 0)
            if not expected:
                end = buffer.find(b"\r\n\r\n", 0, size)
                expected = end + 4 + _length(buffer, end)
            left[descriptor] = expected - size
            if expected == size:
                connection.send(_OK)


if __name__ == "__main__":
    run = {"aiohttp": _aiohttp, "uvicorn": _uvicorn, BARE: _twisted, RECEIVES_ONLY: _receive}
    run[sys.argv[1]](int(sys.argv[2]))
