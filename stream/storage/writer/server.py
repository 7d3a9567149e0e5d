"""The server that offers the writer's files to remote source nodes; see `stream.storage.network`.

Note [High watermark]: while more bytes are queued for a volume than its disk can write soon, the
server doesn't read from the connections that send them. So memory is bounded regardless of what
source nodes send.

Note [One connection for each node]: a source node that has abandoned a connection sends its
greeting over a new one. Data that was sent over the old connection may still arrive after that. If
it opens a file, this would truncate data that has been acknowledged since. So a greeting ends all
earlier connections of the node. A late greeting does no harm, because the node sends nothing else
before its greeting is answered.

Note [Lives]: the life that greets must be the one that holds the node's name in etcd. The greeting
of an earlier life that resumes after a pause, or of a second process with the same name, is
refused, so that it can't even close the connection of the current life.

Note [Strangers]: anybody who reaches the port can open connections and hold them for a while
without a greeting. Each needs a file descriptor, and the volumes need them, too. So the number of
such connections is limited, and the time for a greeting ends whatever else the client sends. Data
that isn't a call, or a call with invalid arguments, is logged like any other refusal. Otherwise
each connection could add a traceback to the log.
"""

from __future__ import annotations

import hmac
import secrets
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Factory, connectionDone
from twisted.logger import Logger
from twisted.protocols import amp
from twisted.python.failure import Failure

from stream.concurrency.paced import begin_in_turns
from stream.storage.model.key import SliceKey
from stream.storage.network import commands
from stream.storage.network.interface import (
    Fenced,
    SourceLife,
    SyncLevel,
    WriterError,
    WriterUnavailable,
)
from stream.storage.writer.appender import VolumeAppender
from stream.storage.writer.refusals import RefusalLog
from stream.storage.writer.writer import OpenFile, StorageWriter

__all__ = ["WriterFactory"]

_log = Logger()

MAX_FILES_PER_CONNECTION = 100_000
MAX_STRANGERS = 200
"""Maximum number of connections without a greeting; for another one, the oldest is closed."""
SILENCE_SECONDS = 30.0

_READ_BYTES = 64 * 1024
"""Maximum size of a read from the transport, which may include the beginning of the next call."""
_MAX_CALL_BYTES = commands.MAX_APPEND_BYTES + 4 * _READ_BYTES
_MAX_GREETING_BYTES = 2 * _READ_BYTES
_LEVELS = frozenset(map(int, SyncLevel))
_NONCE_BYTES = 32
_HANDLE_BYTES = 16
_HELLO_SECONDS = 10.0
_SECOND_LOOK_SECONDS = 1.0
_DETAIL_LENGTH = 200


class _Remote:
    """A file that the source node has opened; forwards the writer's notifications to the node."""

    def __init__(self, connection: WriterConnection, handle: bytes) -> None:
        self._connection = connection
        self._handle = handle

    def draining(self) -> None:
        self._connection.tell_draining()

    def lost(self, reason: WriterError) -> None:
        self._connection.tell_lost(self._handle, reason)


class WriterConnection(amp.AMP):
    """The connection of a source node; its files are closed when the connection ends.

    :ivar life: the node's life according to its greeting; 0 before the greeting.
    """

    factory: WriterFactory
    transport: Any

    def __init__(self) -> None:
        super().__init__()
        self.life = 0
        self._nonce = secrets.token_bytes(_NONCE_BYTES)
        self._node_id: str | None = None
        self._files: dict[bytes, OpenFile] = {}
        self._opening = 0
        self._is_lost = False
        self._is_refused = False
        self._is_superseded = False
        self._incomplete_bytes = 0
        self._told_draining = False
        self._is_doubted = False
        self._crowded: VolumeAppender | None = None
        self._impatience: IDelayedCall | None = None

    def connectionMade(self) -> None:
        super().connectionMade()
        self.transport.setTcpNoDelay(True)
        self.transport.setTcpKeepAlive(True)
        self.factory.connected(self)
        self._wait_for_data(_HELLO_SECONDS)

    def dataReceived(self, data: bytes) -> None:
        """Receive data.

        A call is kept in memory until it is complete, so its size is limited.
        """
        self._incomplete_bytes += len(data)
        if self._node_id is not None:
            self._is_doubted = False
            self._wait_for_data(self.factory.silence_seconds)
        if self._incomplete_bytes > (_MAX_CALL_BYTES if self._node_id else _MAX_GREETING_BYTES):
            _log.warn("node {node} sent a call that is too large", node=self._node_id)
            self.transport.abortConnection()
            return
        try:
            super().dataReceived(data)
        except Exception as error:
            self._unreadable(error)

    def dispatchCommand(self, box: amp.AmpBox) -> Deferred[amp.AmpBox]:
        """Dispatch a call; see Note [Strangers]."""
        answering: Deferred[amp.AmpBox] = super().dispatchCommand(box)
        return answering.addErrback(self._dispatch_failed)

    def _dispatch_failed(self, failure: Failure) -> Failure:
        if self._node_id is not None or failure.check(amp.RemoteAmpError):
            return failure
        self._refused("an invalid call", type(failure.value).__name__)
        return Failure(amp.RemoteAmpError(amp.UNKNOWN_ERROR_CODE, "an invalid call", fatal=True))

    def unhandledError(self, failure: Failure) -> None:
        """Close the connection: a call that wants no answer has failed."""
        self._unreadable(failure.value)

    def _unreadable(self, error: BaseException | None) -> None:
        if self._is_lost or self._is_refused:
            pass
        elif self._node_id is None:
            self._refused("an invalid call", type(error).__name__)
        else:
            _log.warn(
                "node {node} sent an invalid call, closing its connection: {error}",
                node=self._node_id,
                error=type(error).__name__,
            )
        self.transport.abortConnection()

    def ampBoxReceived(self, box: amp.AmpBox) -> None:
        self._incomplete_bytes = 0
        super().ampBoxReceived(box)

    def _wait_for_data(self, seconds: float) -> None:
        if self._impatience is not None and self._impatience.active():
            self._impatience.reset(seconds)
        else:
            self._impatience = self.factory.reactor.callLater(seconds, self._silent)

    def _silent(self) -> None:
        if self._crowded is not None:  # this object has paused reading
            self._wait_for_data(self.factory.silence_seconds)
            return
        if not self._is_doubted:
            # This process may have been paused itself, so it reads the data that has arrived since
            # before the next check.
            self._is_doubted = True
            self._wait_for_data(_SECOND_LOOK_SECONDS)
            return
        _log.warn("node {node} does not respond, closing its connection", node=self._node_id)
        self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._node_id is None and not self._is_refused:
            self._refused("no greeting", reason.getErrorMessage())
        self._is_lost = True
        super().connectionLost(reason)
        self.factory.disconnected(self)
        if self._impatience is not None and self._impatience.active():
            self._impatience.cancel()
        files, self._files = self._files, {}
        # A file that the node opens again meanwhile is closed first; see `StorageWriter.open_file`.
        begin_in_turns(
            list(files.values()),
            lambda file: file.close(),
            self.factory.reactor,
            "cannot close a slice file of a lost connection",
        )

    @commands.Challenge.responder
    def challenge(self) -> dict[str, object]:
        """Return the nonce of this connection."""
        return {"nonce": self._nonce}

    @commands.Hello.responder
    async def hello(
        self, version: int, node: str, life: int, nonce: bytes, proof: bytes
    ) -> dict[str, object]:
        """Check the greeting of a source node and accept it."""
        source = SourceLife(node, life)
        shared = (self.factory.secret, self._nonce, nonce, source)
        is_known = hmac.compare_digest(proof, commands.source_proof(*shared))
        if version != commands.PROTOCOL_VERSION or not is_known:
            reason = "another secret" if version == commands.PROTOCOL_VERSION else "another version"
            self._refused(reason, f"node {node!r}")
            self.factory.reactor.callLater(0, self.transport.loseConnection)
            raise commands.Unauthorized(reason)
        await self._check_life(source)
        self._node_id, self.life = node, life
        self._is_doubted = False
        self.factory.greeted(self)
        self.factory.supersede(self, node)
        self._wait_for_data(self.factory.silence_seconds)
        return {
            "version": commands.PROTOCOL_VERSION,
            "epoch": self.factory.epoch,
            "proof": commands.writer_proof(*shared),
        }

    async def _check_life(self, source: SourceLife) -> None:
        """Check the greeting's life; see Note [Lives]. Raises the error for the source node."""
        problem: Exception | None = None
        try:
            await self.factory.writer.check_life(source)
            if self.factory.latest_life(source.node_id) > source.number:
                raise Fenced("a newer process with this node name has connected")
        except Exception as error:
            problem = error
        if self._is_lost:
            raise commands.UnavailableOnWire("the connection is closed")
        if problem is not None:
            self._refused("not its current life", f"node {source.node_id!r}: {problem}")
            self.factory.reactor.callLater(0, self.transport.loseConnection)
            raise _on_wire(problem) from None

    def _refused(self, reason: str, detail: str) -> None:
        self._is_refused = True
        peer = getattr(self.transport.getPeer(), "host", "?")
        self.factory.refusals.refused(peer, f"{reason} ({detail[:_DETAIL_LENGTH]})")

    def is_of(self, node: str) -> bool:
        """Return whether this connection belongs to *node*."""
        return self._node_id == node

    def superseded(self, node: str) -> None:
        """Close the connection; see Note [One connection for each node]."""
        if self._node_id == node and not self._is_superseded:
            self._is_superseded = True
            _log.info("node {node} connected again, closing its earlier connection", node=node)
            self.transport.abortConnection()

    def _require_hello(self) -> None:
        if self._node_id is None:
            raise commands.Unauthorized("no greeting")
        if self._is_superseded:
            raise commands.UnavailableOnWire("the node has connected again")

    @commands.Open.responder
    async def open(self, slice: str, node: str, life: int, resume: int) -> dict[str, object]:
        """Open the file of a slice for the source node of this connection."""
        self._require_hello()
        if len(self._files) + self._opening >= MAX_FILES_PER_CONNECTION:
            raise commands.UnavailableOnWire("too many open files")
        try:
            key = SliceKey.parse(slice)
        except ValueError as error:
            raise commands.UnavailableOnWire(f"the slice can't be read: {error}") from None
        handle = secrets.token_bytes(_HANDLE_BYTES)
        self._opening += 1
        try:
            file = await self.factory.writer.open_file(
                key, SourceLife(node, life), _Remote(self, handle), resume
            )
        except Exception as error:
            raise _on_wire(error) from None
        finally:
            self._opening -= 1
        if self._is_lost:
            file.close()
            raise commands.UnavailableOnWire("the connection is closed")
        self._files[handle] = file
        return {"handle": handle, "length": file.length}

    @commands.Append.responder
    async def append(
        self, handle: bytes, offset: int, level: int, crc: int, data: bytes
    ) -> dict[str, object]:
        self._require_hello()
        file = self._file(handle)
        if level not in _LEVELS:
            raise commands.UnavailableOnWire("unknown sync level")
        appending = file.append(offset, data, level=SyncLevel(level), crc=crc)
        self._listen_less(file.appender)
        try:
            return {"end": await appending}
        except Exception as error:
            raise _on_wire(error) from None

    @commands.Enquire.responder
    async def enquire(self, enquiries: bytes, owners: bytes) -> dict[str, object]:
        """Return which rows of requests are stored; see `stream.storage.writer.requests`."""
        self._require_hello()
        try:
            found = await self.factory.writer.enquire(commands.enquiries_of(enquiries, owners))
        except Exception as error:
            raise _on_wire(error) from None
        return {"stored": commands.encode_stored(found)}

    @commands.Close.responder
    async def close(self, handle: bytes) -> dict[str, object]:
        self._require_hello()
        file = self._file(handle)
        del self._files[handle]
        await file.close()
        return {}

    @commands.Ping.responder
    def ping(self) -> dict[str, object]:
        """Keep the connection from being closed because of silence."""
        return {}

    def _listen_less(self, appender: VolumeAppender) -> None:
        """Pause reading; see Note [High watermark]."""
        if self._crowded is None and appender.is_above_high_watermark and not self._is_lost:
            self._crowded = appender
            self.transport.pauseProducing()
            appender.below_low_watermark().addCallback(self._listen_again)

    def _listen_again(self, _: None) -> None:
        self._crowded = None
        if not self._is_lost:
            self._wait_for_data(self.factory.silence_seconds)
            self.transport.resumeProducing()

    def _file(self, handle: bytes) -> OpenFile:
        file = self._files.get(handle)
        if file is None:
            raise commands.UnavailableOnWire("no such file is open on this connection")
        return file

    def tell_draining(self) -> None:
        """Notify the source node, once, that the writer is about to stop."""
        if not self._told_draining:
            self._told_draining = True
            self._tell(commands.Draining)

    def tell_lost(self, handle: bytes, reason: WriterError) -> None:
        """Notify the source node that a file is lost."""
        if self._files.pop(handle, None) is not None:
            self._tell(
                commands.Lost,
                handle=handle,
                kind=commands.kind_name(reason),
                reason=str(reason),
            )

    def _tell(self, command: type[amp.Command], **arguments: object) -> None:
        called = self.callRemote(command, **arguments)
        called.addErrback(
            lambda failure: _log.debug("a source node disconnected: {f}", f=failure.value)
        )


def _on_wire(error: Exception) -> Exception:
    """Return the error to send to the other end; unexpected failures are sent without details."""
    if isinstance(error, WriterError):
        return commands.to_wire(error)
    _log.failure("a call from a source node failed")
    return commands.to_wire(WriterUnavailable("the writer failed"))


class WriterFactory(Factory):
    """The connections of source nodes to this writer.

    :param secret: the secret shared with all source nodes; empty for none.
    :param silence_seconds: time after which a node is disconnected if it sends nothing, not even
        pings.

    :ivar epoch: ID that differs in each life of the writer.
    :ivar connections: all open connections, the oldest first.
    """

    protocol: Any = WriterConnection
    noisy = False

    def __init__(
        self,
        writer: StorageWriter,
        secret: str,
        reactor: Any,
        *,
        silence_seconds: float = SILENCE_SECONDS,
    ) -> None:
        self.writer = writer
        self.secret = secret
        self.silence_seconds = silence_seconds
        self.reactor = reactor
        self.epoch = secrets.token_bytes(16)
        self.refusals = RefusalLog(reactor.seconds)
        self.connections: dict[WriterConnection, None] = {}
        self._strangers: dict[WriterConnection, None] = {}

    def connected(self, connection: WriterConnection) -> None:
        """Add a new connection; see Note [Strangers]."""
        self.connections[connection] = None
        self._strangers[connection] = None
        if len(self._strangers) > MAX_STRANGERS:
            oldest = next(iter(self._strangers))
            del self._strangers[oldest]
            oldest.transport.abortConnection()

    def greeted(self, connection: WriterConnection) -> None:
        """Mark the source node of *connection* as known."""
        self._strangers.pop(connection, None)

    def disconnected(self, connection: WriterConnection) -> None:
        """Remove a connection that has ended."""
        self.connections.pop(connection, None)
        self._strangers.pop(connection, None)

    def supersede(self, latest: WriterConnection, node: str) -> None:
        """End all connections of *node* except its latest one."""
        for connection in list(self.connections):
            if connection is not latest:
                connection.superseded(node)

    def latest_life(self, node: str) -> int:
        """Return the latest life of *node* that has a connection; 0 if none has."""
        lives = (c.life for c in self.connections if c.is_of(node))
        return max(lives, default=0)

    def close_connections(self) -> None:
        """Close every connection."""
        for connection in list(self.connections):
            connection.transport.loseConnection()
