"""The client that opens slice files on remote writers; see `commands` for the protocol.

Note [Reconnecting]: a writer should receive rows again as soon as it is available. So the client
keeps trying to connect. It retries a failed connection attempt quickly, because one attempt per
writer is cheap. It abandons an unanswered attempt early, because the operating system would repeat
it at growing intervals. A caller that waits to open a file again is notified when the writer
accepts a connection, and when a volume is registered, so its own delays can grow. If a writer's
registration has ended, the client uses its last address as long as a caller waits for one of its
volumes, because a writer answers before it has a new lease.

Note [Openings take turns]: when a writer is back, thousands of files wait to be opened again. The
writer opens few of them at a time, and refuses the rest if a connection has too many. So the client
sends few openings for each volume, and the other files wait here. A disk that doesn't answer then
delays only the files of its own volume. The timeout of an opening begins with its turn.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar, cast

import attrs
from twisted.application.internet import ClientService, backoffPolicy
from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, ensureDeferred, fail, maybeDeferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from stream.concurrency.deadline import within
from stream.concurrency.paced import Paced
from stream.concurrency.waiters import Waiters
from stream.etcd import Batch
from stream.settings import split_address
from stream.settings.local import WriterNetworkSettings
from stream.storage.model.entity import Slice
from stream.storage.model.volume import Volume
from stream.storage.network.connection import Connection, ConnectionFactory, translated
from stream.storage.network.interface import (
    Enquiry,
    Fenced,
    LocalWriter,
    SliceFile,
    SliceFileListener,
    SourceLife,
    StoredRows,
    WriterError,
    WriterUnavailable,
)
from stream.storage.network.tls import Credentials, credentials

__all__ = ["WriterClients"]

_log = Logger()

T = TypeVar("T")

_REDIAL = backoffPolicy(0.1, 5.0)
"""Delays after refusals. The client tries an unavailable writer more often; see Note
[Reconnecting].
"""
_REDIAL_MAX_SECONDS = 0.3
_CONNECT_SECONDS = 2.0
_FIRST_ATTEMPT_SECONDS = 1.0
"""How long the first attempt of a request waits for a writer that doesn't answer."""
OPENINGS_AT_ONCE = 64
"""Maximum number of files of one volume that are being opened; see Note [Openings take turns].

The writer opens eight at a time, and the others must only wait for the answers of etcd.
"""
_FORGET_SECONDS = 5.0
"""Interval at which writers without a registered volume are looked for."""


@attrs.define(eq=False)
class _Writer:
    """The state of the writer at one address.

    :ivar life: the life for which the connections are made.
    :ivar volumes: IDs of the volumes on which callers have opened files through this writer.
    :ivar opening: number of files being opened, including those that wait for their turn.
    :ivar turns: the turns of the openings, by volume; see Note [Openings take turns].
    :ivar connection: the latest connection, which may already be lost.
    """

    client: ClientService
    factory: ConnectionFactory
    life: int
    volumes: set[str] = attrs.Factory(set)
    opening: int = 0
    turns: dict[str, Paced] = attrs.Factory(dict)
    connection: Connection | None = None

    def stop(self) -> Deferred[None]:
        """Disconnect. The Deferred fires when the connection is closed."""
        for connection in self.factory.connections:
            connection.leave()
        stopped: Deferred[None] = self.client.stopService()
        return stopped


class WriterClients(Service):
    """A `stream.storage.network.interface.SliceOpener` for all volumes of the cluster.

    There is one connection to each writer. It is made on first use and restored as long as one of
    the writer's volumes is registered. Each life of the source node has its own connections.

    :param node_id: ID of this source node.
    :param life: returns the number of the node's current life, 0 while it has none.
    :param volume: returns the registered volume with an ID, if there is one.
    :param local: opens files on the volumes of this process.
    :param is_local: whether a volume belongs to this process.
    :param volumes: returns all registered volumes.
    """

    def __init__(
        self,
        reactor: Any,
        node_id: str,
        settings: WriterNetworkSettings,
        volume: Callable[[str], Volume | None],
        *,
        life: Callable[[], int],
        local: LocalWriter | None = None,
        is_local: Callable[[str], bool] = lambda _: False,
        volumes: Callable[[], Iterable[Volume]] = tuple,
    ) -> None:
        self._volumes = volumes
        self._reactor = reactor
        self._settings = settings
        self._volume = volume
        self._local = local
        self._is_local = is_local
        self._node_id = node_id
        self._life = life
        self._writers: dict[str, _Writer] = {}
        self._forgetting = LoopingCall(self._forget_unregistered)
        self._forgetting.clock = reactor
        self._credentials: Credentials | None = None
        self._seen: dict[str, Volume] = {}
        self._waiting: dict[str, Waiters[None]] = {}

    def startService(self) -> None:
        """Load the certificates. Raises UserError if they can't be used."""
        super().startService()
        self._credentials = credentials(self._settings.tls)
        self._forgetting.start(_FORGET_SECONDS, now=False)

    async def stopService(self) -> None:
        """Close all connections. The Deferred fires when every connection is closed."""
        super().stopService()
        if self._forgetting.running:
            self._forgetting.stop()
        writers, self._writers = list(self._writers.values()), {}
        await DeferredList([writer.stop() for writer in writers], consumeErrors=True)

    def _forget_unregistered(self) -> None:
        """Remove writers without volumes or open files, since they may never return."""
        for address, writer in list(self._writers.items()):
            found = [self._volume(volume_id) for volume_id in writer.volumes]
            registered = {volume.node_address for volume in found if volume is not None}
            if address in registered or (writer.connection and writer.connection.files):
                continue
            is_wanted = writer.opening or any(self._waiting.get(id) for id in writer.volumes)
            if registered or not is_wanted:
                self._forget(address)

    def _forget(self, address: str) -> None:
        writer = self._writers.pop(address)
        for volume_id in writer.volumes:
            seen = self._seen.get(volume_id)
            if seen is not None and seen.node_address == address:
                del self._seen[volume_id]
        writer.stop().addErrback(lambda failure: _log.failure("cannot close a connection", failure))

    def open(
        self, slice_: Slice, source: SourceLife, listener: SliceFileListener, *, resume: int = -1
    ) -> Deferred[SliceFile]:
        volume_id = slice_.key.volume_id
        if source.number != self._life():
            return fail(Fenced("the process of this node that wrote the slice has ended"))
        if self._local is not None and self._is_local(volume_id):
            return self._local.open(slice_, source, listener, resume=resume)
        volume = self._volume(volume_id) or self._seen.get(volume_id)
        if volume is None:
            return fail(WriterUnavailable(f'volume "{volume_id}" is not registered'))
        self._seen[volume_id] = volume
        opening = maybeDeferred(self._queue_up, volume, slice_, source, listener, resume)
        return opening.addErrback(_keep_writer_errors)

    async def enquire(
        self, enquiries: Sequence[Enquiry], *, are_first: bool
    ) -> list[list[StoredRows]]:
        """Return the rows that the writers have stored of requests with idempotency keys.

        :param are_first: whether no writer can have rows of these requests. A writer that doesn't
            answer is then skipped; all others record the latest attempt.

        Raises WriterError if a writer doesn't answer.
        """
        addresses: dict[str, set[str]] = {}
        for volume in self._volumes():
            if self._local is None or not self._is_local(volume.volume_id):
                addresses.setdefault(volume.node_address, set()).add(volume.volume_id)
        asked = [
            ensureDeferred(self._enquire(address, volume_ids, enquiries))
            for address, volume_ids in addresses.items()
        ]
        if self._local is not None:
            asked.append(ensureDeferred(_awaited(self._local.enquire(enquiries))))
        seconds = self._settings.stream_open_timeout.seconds
        for each in asked:  # includes the local writer, which waits for appends to a disk
            within(
                each,
                min(seconds, _FIRST_ATTEMPT_SECONDS) if are_first else seconds,
                self._reactor,
                "an enquiry",
            )
        found: list[list[StoredRows]] = [[] for _ in enquiries]
        for succeeded, result in await DeferredList(asked, consumeErrors=True):
            if succeeded:
                for all_, some in zip(found, result, strict=True):
                    all_ += some
            elif not are_first:
                _keep_writer_errors(cast(Failure, result)).raiseException()
        return found

    async def _enquire(
        self, address: str, volume_ids: set[str], enquiries: Sequence[Enquiry]
    ) -> list[list[StoredRows]]:
        writer = self._writer(address, self._life())
        writer.volumes |= volume_ids
        connection = cast(Connection, await writer.client.whenConnected())
        await connection.accepted()
        writer.connection = connection
        return await connection.enquire(enquiries)

    def available(self, slice_: Slice) -> Deferred[None]:
        return self._waiting.setdefault(slice_.key.volume_id, Waiters()).wait()

    def volumes_changed(self, batch: Batch[Volume]) -> None:
        """Connect to the writers of new volumes; called on each change. See Note [Reconnecting].

        If a writer has left an address, pending openings there fail first, so that they are
        retried.
        """
        self._forget_unregistered()
        self._tell(change.value.volume_id for change in batch.changes if change.value is not None)

    def _tell(self, volume_ids: Iterable[str]) -> None:
        for volume_id in volume_ids:
            self._waiting.pop(volume_id, Waiters()).fire(None)

    def _queue_up(
        self,
        volume: Volume,
        slice_: Slice,
        source: SourceLife,
        listener: SliceFileListener,
        resume: int,
    ) -> Deferred[SliceFile]:
        """Open a file when it is its turn; see Note [Openings take turns]."""
        writer = self._writer(volume.node_address, source.number)
        writer.volumes.add(volume.volume_id)
        turns = writer.turns.get(volume.volume_id)
        if turns is None:
            most = min(OPENINGS_AT_ONCE, self._settings.max_waiting_streams_per_conn)
            turns = writer.turns[volume.volume_id] = Paced(self._reactor, most)
        writer.opening += 1

        def ended(result: T) -> T:
            writer.opening -= 1
            return result

        opening: Deferred[SliceFile] = turns.run(
            partial(self._open, writer, slice_, source, listener, resume)
        )
        opening.addBoth(ended)
        return opening

    def _open(
        self,
        writer: _Writer,
        slice_: Slice,
        source: SourceLife,
        listener: SliceFileListener,
        resume: int,
    ) -> Deferred[SliceFile]:
        async def connect_and_open() -> SliceFile:
            connection = cast(Connection, await writer.client.whenConnected())
            await connection.accepted()
            writer.connection = connection
            return await connection.open(slice_, source, listener, resume)

        return within(
            ensureDeferred(connect_and_open()),
            self._settings.stream_open_timeout.seconds,
            self._reactor,
            "the opening of a slice file",
        )

    def _writer(self, address: str, life: int) -> _Writer:
        writer = self._writers.get(address)
        if writer is not None and writer.life != life:
            self._forget(address)
            writer = None
        if writer is None:
            host, port = split_address(address)
            factory = ConnectionFactory(
                SourceLife(self._node_id, life),
                self._settings,
                self._reactor,
                lambda: self._accepted(address),
            )
            client = ClientService(
                self._endpoint(host or "127.0.0.1", port),
                factory,
                # `ClientService` counts a connection as successful even if the writer then refuses
                # it.
                retryPolicy=lambda attempts: _redial(attempts, factory.refusals),
                clock=self._reactor,
            )
            writer = self._writers[address] = _Writer(client, factory, life)
            client.startService()
        return writer

    def _accepted(self, address: str) -> None:
        writer = self._writers.get(address)
        if writer is not None:
            self._tell(sorted(writer.volumes))

    def _endpoint(self, host: str, port: int) -> Any:
        endpoint = HostnameEndpoint(self._reactor, host, port, timeout=_CONNECT_SECONDS)
        if self._credentials is None:
            return endpoint
        return wrapClientTLS(self._credentials.client(host), endpoint)


async def _awaited(awaitable: Awaitable[T]) -> T:
    return await awaitable


def _redial(attempts: int, refusals: int) -> float:
    """Return the seconds before the next attempt, after failed attempts and refused connections."""
    if refusals:
        return float(_REDIAL(attempts + refusals))
    return float(min(_REDIAL(attempts), _REDIAL_MAX_SECONDS))


def _keep_writer_errors(failure: Failure) -> Failure:
    """Keep the writer's errors; other errors, such as a timeout, mean that it is unavailable."""
    return failure if failure.check(WriterError) else translated(failure)
