"""Two ways of sharing an address among processes, and the resulting distribution of connections.

Each process answers requests like the source, on the same reactor, without processing them.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from stream.ops.process.reactor import install
from stream.source.http.service import BACKLOG

__all__ = ["WAYS", "spread"]

REUSEPORT, INHERITED = "SO_REUSEPORT", "one inherited socket"
WAYS = (REUSEPORT, INHERITED)

_ROOT = Path(__file__).parents[1]
_REQUEST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1024\r\n\r\n" + bytes(1024)
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
_REQUESTS = 20
_TIMEOUT_SECONDS = 30.0


def spread(way: str, processes: int, connections: int) -> list[int]:
    """Return the number of connections of each of *processes*, all opened at once."""
    with ExitStack() as stack:
        first = stack.enter_context(_listening(("127.0.0.1", 0), way))
        address = first.getsockname()
        others = [
            stack.enter_context(_listening(address, way))
            for _ in range(processes - 1 if way == REUSEPORT else 0)
        ]
        sockets = [first, *others] if way == REUSEPORT else [first] * processes
        servers = [stack.enter_context(_server(each)) for each in sockets]
        for each in {first, *others}:
            each.close()  # the processes have their own
        _use(stack, address, connections)
        return [_count(server) for server in servers]


@contextmanager
def _listening(address: tuple[str, int], way: str) -> Iterator[socket.socket]:
    with socket.socket() as listening:
        if way == REUSEPORT:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listening.bind(address)
        listening.listen(BACKLOG)
        listening.setblocking(False)
        yield listening


@contextmanager
def _server(listening: socket.socket) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "benchmarks.accepting", str(listening.fileno())]
    with subprocess.Popen(
        command,
        cwd=_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=[listening.fileno()],
    ) as process:
        try:
            assert process.stdout is not None
            if process.stdout.readline() != b"ready\n":
                raise RuntimeError("a server did not start")
            yield process
        finally:
            process.kill()


def _count(server: subprocess.Popen[bytes]) -> int:
    """Run the server until its standard input ends, then print the count."""
    output, _ = server.communicate(timeout=_TIMEOUT_SECONDS)
    count: int = json.loads(output)
    return count


def _use(stack: ExitStack, address: tuple[str, int], connections: int) -> None:
    """Open all connections at once; each then sends requests in sequence."""
    opened = [stack.enter_context(socket.socket()) for _ in range(connections)]
    for each in opened:
        each.setblocking(False)
        each.connect_ex(address)
    for each in opened:
        each.settimeout(_TIMEOUT_SECONDS)
    for _ in range(_REQUESTS):
        for each in opened:
            each.sendall(_REQUEST)
        for each in opened:
            if each.recv(len(_ANSWER), socket.MSG_WAITALL) != _ANSWER:
                raise RuntimeError("a connection was not answered")


def _serve(descriptor: int) -> None:
    install()
    from twisted.internet import reactor as installed
    from twisted.internet.protocol import Factory, Protocol
    from twisted.internet.stdio import StandardIO

    reactor: Any = installed
    accepted: list[Protocol] = []

    class Answers(Protocol):
        def __init__(self) -> None:
            self._bytes = 0

        def connectionMade(self) -> None:
            accepted.append(self)

        def dataReceived(self, data: bytes) -> None:
            self._bytes += len(data)
            while self._bytes >= len(_REQUEST):
                self._bytes -= len(_REQUEST)
                assert self.transport is not None
                self.transport.write(_ANSWER)

    class Parent(Protocol):
        def connectionLost(self, reason: object = None) -> None:
            reactor.stop()

    reactor.adoptStreamPort(descriptor, socket.AF_INET, Factory.forProtocol(Answers))
    os.close(descriptor)
    StandardIO(Parent())
    reactor.callWhenRunning(print, "ready", flush=True)
    reactor.run()
    print(len(accepted), flush=True)


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
