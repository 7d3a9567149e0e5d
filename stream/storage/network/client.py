"""Opens slice files on the writers of other processes; see `commands` for the protocol."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any, cast

from twisted.application.internet import ClientService, backoffPolicy
from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, ensureDeferred, fail
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.protocol import Factory, connectionDone
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.protocols import amp
from twisted.python.failure import Failure

from stream.settings import split_address
from stream.settings.local import WriterNetworkSettings
from stream.storage.entity import Slice
from stream.storage.network import commands
from stream.storage.network.interface import (
    SliceFile,
    SliceFileListener,
    SliceOpener,
    SyncLevel,
    WriterError,
    WriterUnavailable,
)
from stream.storage.volume import Volume
from stream.values.codec import encode

__all__ = ["WriterClients"]

_log = Logger()

_REDIAL_FIRST_SECONDS = 0.1
_REDIAL_MAX_SECONDS = 5.0


class _RemoteFile:
    """A `stream.storage.network.interface.SliceFile` behind a connection."""

    def __init__(
        self, connection: _Connection, handle: bytes, length: int, listener: SliceFileListener
    ) -> None:
        self.length = length
        self.handle = handle
        self.listener = listener
        self._connection = connection

    def append(self, offset: int, data: bytes, *, level: SyncLevel) -> Deferred[int]:
        appended: Deferred[dict[str, int]] = self._connection.callRemote(
            commands.Append,
            handle=self.handle,
            offset=offset,
            level=int(level),
            crc=zlib.crc32(data),
            data=data,
        )
        return appended.addCallbacks(lambda answer: answer["end"], _translated)

    def close(self) -> Deferred[None]:
        self._connection.files.pop(self.handle, None)
        closed: Deferred[Any] = self._connection.callRemote(commands.Close, handle=self.handle)
        return closed.addBoth(lambda _: None)


def _translated(failure: Failure) -> Failure:
    return Failure(commands.from_wire(cast(BaseException, failure.value)))


class _Connection(amp.AMP):
    """The connection to one writer.

    :ivar files: files opened over it.
    :ivar ready: fires once the writer has accepted us.
    """

    factory: _ConnectionFactory
    transport: Any

    def __init__(self) -> None:
        super().__init__()
        self.files: dict[bytes, _RemoteFile] = {}
        self.ready: Deferred[None] = Deferred()
        self._pinging: LoopingCall | None = None

    def connectionMade(self) -> None:
        super().connectionMade()
        self.transport.setTcpNoDelay(True)
        self.transport.setTcpKeepAlive(True)
        greeted = ensureDeferred(self._greet())
        greeted.addTimeout(self.factory.settings.stream_open_timeout.seconds, self.factory.reactor)
        greeted.addCallbacks(self._greeted, self._refused)

    async def _greet(self) -> None:
        answer = await self.callRemote(commands.Challenge)
        node_id = self.factory.node_id
        await self.callRemote(
            commands.Hello,
            version=commands.PROTOCOL_VERSION,
            node=node_id,
            proof=commands.proof(self.factory.settings.secret, answer["nonce"], node_id),
        )

    def _greeted(self, _: None) -> None:
        self._pinging = LoopingCall(self._ping)
        self._pinging.clock = self.factory.reactor
        self._pinging.start(self.factory.settings.keep_alive_interval.seconds, now=False)
        self.ready.callback(None)

    def _refused(self, failure: Failure) -> None:
        _log.error("the writer refused the connection: {error}", error=failure.value)
        self.transport.abortConnection()

    def _ping(self) -> Deferred[None]:
        ping: Deferred[Any] = self.callRemote(commands.Ping)
        ping.addTimeout(self.factory.settings.stream_write_timeout.seconds, self.factory.reactor)
        return ping.addCallbacks(lambda _: None, self._silent)

    def _silent(self, failure: Failure) -> None:
        _log.warn("the writer is silent, the connection is cut: {error}", error=failure.value)
        if self.transport is not None:
            self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        if self._pinging is not None and self._pinging.running:
            self._pinging.stop()
        if not self.ready.called:
            self.ready.errback(WriterUnavailable("the connection was lost"))
            self.ready.addErrback(lambda _: None)
        files, self.files = self.files, {}
        for file in files.values():
            file.listener.lost(WriterUnavailable("the connection to the writer was lost"))

    @commands.Draining.responder
    def draining(self) -> dict[str, object]:
        for file in list(self.files.values()):
            file.listener.draining()
        return {}

    @commands.Lost.responder
    def lost(self, handle: bytes, kind: bytes, reason: str) -> dict[str, object]:
        file = self.files.pop(handle, None)
        if file is not None:
            file.listener.lost(commands.error_of(kind, reason))
        return {}

    async def open(
        self, slice_: Slice, source_node_id: str, listener: SliceFileListener, resume: int
    ) -> SliceFile:
        try:
            answer = await self.callRemote(
                commands.Open, slice=encode(slice_), node=source_node_id, resume=resume
            )
        except Exception as error:
            raise commands.from_wire(error) from None
        file = _RemoteFile(self, answer["handle"], answer["length"], listener)
        self.files[file.handle] = file
        return file


class _ConnectionFactory(Factory):
    protocol: Any = _Connection
    noisy = False

    def __init__(self, node_id: str, settings: WriterNetworkSettings, reactor: Any) -> None:
        self.node_id = node_id
        self.settings = settings
        self.reactor = reactor


class WriterClients(Service):
    """A `stream.storage.network.interface.SliceOpener` for all volumes of the cluster.

    :param node_id: of this source node.
    :param volume: the registered volume with an id, if there is one.
    :param local: opens files on the volumes of this very process.
    :param is_local: whether a volume is one of those.
    """

    def __init__(
        self,
        reactor: Any,
        node_id: str,
        settings: WriterNetworkSettings,
        volume: Callable[[str], Volume | None],
        *,
        local: SliceOpener | None = None,
        is_local: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self._reactor = reactor
        self._settings = settings
        self._volume = volume
        self._local = local
        self._is_local = is_local
        self._factory = _ConnectionFactory(node_id, settings, reactor)
        self._clients: dict[str, ClientService] = {}

    async def stopService(self) -> None:
        super().stopService()
        clients, self._clients = list(self._clients.values()), {}
        await DeferredList([client.stopService() for client in clients], consumeErrors=True)

    def volumes_changed(self, addresses: set[str]) -> None:
        """Forget writers that no registered volume belongs to any more."""
        for address in set(self._clients) - addresses:
            client = self._clients.pop(address)
            client.stopService().addErrback(
                lambda failure: _log.failure("cannot close a connection", failure)
            )

    def open(
        self, slice_: Slice, source_node_id: str, listener: SliceFileListener, *, resume: int = -1
    ) -> Deferred[SliceFile]:
        volume_id = slice_.key.volume_id
        if self._local is not None and self._is_local(volume_id):
            return self._local.open(slice_, source_node_id, listener, resume=resume)
        volume = self._volume(volume_id)
        if volume is None:
            return fail(WriterUnavailable(f'volume "{volume_id}" is not registered'))
        opening = ensureDeferred(
            self._open(volume.node_address, slice_, source_node_id, listener, resume)
        )
        opening.addTimeout(self._settings.stream_open_timeout.seconds, self._reactor)
        return opening.addErrback(_keep_writer_errors)

    async def _open(
        self,
        address: str,
        slice_: Slice,
        source_node_id: str,
        listener: SliceFileListener,
        resume: int,
    ) -> SliceFile:
        connection = await self._client(address).whenConnected()
        assert isinstance(connection, _Connection)
        await _until(connection.ready)
        return await connection.open(slice_, source_node_id, listener, resume)

    def _client(self, address: str) -> ClientService:
        client = self._clients.get(address)
        if client is None:
            host, port = split_address(address)
            client = self._clients[address] = ClientService(
                HostnameEndpoint(self._reactor, host or "127.0.0.1", port),
                self._factory,
                retryPolicy=backoffPolicy(_REDIAL_FIRST_SECONDS, _REDIAL_MAX_SECONDS),
                clock=self._reactor,
            )
            client.startService()
        return client


def _until(event: Deferred[None]) -> Deferred[None]:
    """Fires with *event*, which many can wait for."""
    waiter: Deferred[None] = Deferred()

    def passed(result: Any) -> Any:
        if not waiter.called:
            if isinstance(result, Failure):
                waiter.errback(result)
            else:
                waiter.callback(None)
        return result

    event.addBoth(passed)
    return waiter


def _keep_writer_errors(failure: Failure) -> Failure:
    """Anything else (a timeout, a refused connection) means that the writer isn't there."""
    return failure if failure.check(WriterError) else _translated(failure)
