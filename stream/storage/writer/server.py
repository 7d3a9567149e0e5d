"""Serves the writer's files to source nodes in other processes; see `stream.storage.network`."""

from __future__ import annotations

import hmac
import secrets
import zlib
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, connectionDone
from twisted.logger import Logger
from twisted.protocols import amp
from twisted.python.failure import Failure

from stream.storage.entity import Slice
from stream.storage.network import commands
from stream.storage.network.interface import (
    SliceFile,
    SyncLevel,
    WriterError,
    WriterUnavailable,
)
from stream.storage.writer.writer import StorageWriter
from stream.values.codec import decode

__all__ = ["WriterFactory"]

_log = Logger()

MAX_FILES_PER_CONNECTION = 100_000
_NONCE_BYTES = 32
_HANDLE_BYTES = 16
_HELLO_SECONDS = 10.0


class _Remote:
    """A file opened by the other end; passes on what the writer says about it."""

    def __init__(self, connection: WriterConnection, handle: bytes) -> None:
        self._connection = connection
        self._handle = handle

    def draining(self) -> None:
        self._connection.tell_draining()

    def lost(self, reason: WriterError) -> None:
        self._connection.tell_lost(self._handle, reason)


class WriterConnection(amp.AMP):
    """One source node's connection. Its files are closed when it ends."""

    factory: WriterFactory
    transport: Any

    def __init__(self) -> None:
        super().__init__()
        self._nonce = secrets.token_bytes(_NONCE_BYTES)
        self._node_id: str | None = None
        self._files: dict[bytes, SliceFile] = {}
        self._told_draining = False
        self._impatience: Any = None

    def connectionMade(self) -> None:
        super().connectionMade()
        self.transport.setTcpNoDelay(True)
        self.transport.setTcpKeepAlive(True)
        self.factory.connections.add(self)
        self._impatience = self.factory.reactor.callLater(
            _HELLO_SECONDS, self.transport.abortConnection
        )

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        self.factory.connections.discard(self)
        if self._impatience.active():
            self._impatience.cancel()
        files, self._files = self._files, {}
        for file in files.values():
            file.close().addErrback(
                lambda failure: _log.failure("cannot close a slice file", failure)
            )

    @commands.Challenge.responder
    def challenge(self) -> dict[str, object]:
        return {"nonce": self._nonce}

    @commands.Hello.responder
    def hello(self, version: int, node: str, proof: bytes) -> dict[str, object]:
        expected = commands.proof(self.factory.secret, self._nonce, node)
        if version != commands.PROTOCOL_VERSION or not hmac.compare_digest(proof, expected):
            _log.warn("refused a connection of node {node}", node=node)
            self.factory.reactor.callLater(0, self.transport.loseConnection)
            raise commands.Unauthorized("another version or another secret")
        if self._impatience.active():
            self._impatience.cancel()
        self._node_id = node
        return {"version": commands.PROTOCOL_VERSION, "epoch": self.factory.epoch}

    def _require_hello(self) -> None:
        if self._node_id is None:
            raise commands.Unauthorized("no greeting")

    @commands.Open.responder
    def open(self, slice: bytes, node: str, resume: int) -> Deferred[dict[str, object]]:
        self._require_hello()
        if len(self._files) >= MAX_FILES_PER_CONNECTION:
            raise commands.UnavailableOnWire("too many open files")
        handle = secrets.token_bytes(_HANDLE_BYTES)
        opening = self.factory.writer.open(
            decode(Slice, slice), node, _Remote(self, handle), resume=resume
        )

        def opened(file: SliceFile) -> dict[str, object]:
            if not self.transport.connected:
                file.close().addErrback(lambda _: None)
                raise commands.UnavailableOnWire("the connection is gone")
            self._files[handle] = file
            return {"handle": handle, "length": file.length}

        return opening.addCallback(opened).addErrback(_on_wire)

    @commands.Append.responder
    def append(
        self, handle: bytes, offset: int, level: int, crc: int, data: bytes
    ) -> Deferred[dict[str, object]]:
        self._require_hello()
        file = self._file(handle)
        if zlib.crc32(data) != crc:
            raise commands.UnavailableOnWire("the data were damaged on the way")
        appending = file.append(offset, data, level=SyncLevel(level))

        def appended(end: int) -> dict[str, object]:
            return {"end": end}

        return appending.addCallback(appended).addErrback(_on_wire)

    @commands.Close.responder
    def close(self, handle: bytes) -> Deferred[dict[str, object]]:
        self._require_hello()
        file = self._file(handle)
        del self._files[handle]
        return file.close().addCallback(lambda _: {})

    @commands.Ping.responder
    def ping(self) -> dict[str, object]:
        return {}

    def _file(self, handle: bytes) -> SliceFile:
        file = self._files.get(handle)
        if file is None:
            raise commands.UnavailableOnWire("no such file is open on this connection")
        return file

    def tell_draining(self) -> None:
        if not self._told_draining:
            self._told_draining = True
            self._tell(commands.Draining)

    def tell_lost(self, handle: bytes, reason: WriterError) -> None:
        if self._files.pop(handle, None) is not None:
            self._tell(
                commands.Lost,
                handle=handle,
                kind=commands.kind_name(reason),
                reason=str(reason),
            )

    def _tell(self, command: type[amp.Command], **arguments: object) -> None:
        told = self.callRemote(command, **arguments)
        told.addErrback(lambda failure: _log.debug("a source node is gone: {f}", f=failure.value))


def _on_wire(failure: Failure) -> Failure:
    error = failure.value
    if isinstance(error, WriterError):
        return Failure(commands.to_wire(error))
    if not isinstance(error, tuple(commands._ERRORS)):
        _log.failure("a call of a source node failed", failure)
        return Failure(commands.to_wire(WriterUnavailable("the writer failed")))
    return failure


class WriterFactory(Factory):
    """:param secret: shared with all source nodes; empty for none.

    :ivar epoch: differs in each life of the writer.
    """

    protocol: Any = WriterConnection
    noisy = False

    def __init__(self, writer: StorageWriter, secret: str, reactor: Any) -> None:
        self.writer = writer
        self.secret = secret
        self.reactor = reactor
        self.epoch = secrets.token_bytes(16)
        self.connections: set[WriterConnection] = set()

    def close_connections(self) -> None:
        """Cut every connection."""
        for connection in list(self.connections):
            connection.transport.loseConnection()
