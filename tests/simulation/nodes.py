"""The service's processes, composed as in `stream.components`, without HTTP and import."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from stream.definition.entity import Sink, Source
from stream.definition.prefix import SINK_ACTIVE, SOURCE_ACTIVE
from stream.etcd import AtomicTxn, EtcdClient, Group, Life, Mirror, Session, json_values
from stream.ops.process.ordered_services import OrderedServices
from stream.settings import Settings, StorageLevel
from stream.settings.local import WriterNetworkSettings
from stream.sink.balancing import Balancer
from stream.sink.quota import Quotas
from stream.sink.router import SinkRouter
from stream.sink.sink_pipeline import PipelineContext
from stream.sink.statistics_publisher import StatisticsPublisher
from stream.storage.coordinator.closesync import CloseSync
from stream.storage.coordinator.context import CoordinatorContext
from stream.storage.coordinator.slice_rotation import SliceRotation
from stream.storage.coordinator.statistics_cache import StatisticsCache
from stream.storage.model import prefix
from stream.storage.model.entity import Slice
from stream.storage.model.state import Level
from stream.storage.model.volume import Volume
from stream.storage.network.client import WriterClients
from stream.storage.reader.service import StorageReaderService
from stream.storage.store.repository import StorageRepository
from stream.storage.writer.service import StorageWriterService
from stream.target.protocol import Staged
from stream.target.registry import Targets
from stream.values.duration import Duration
from tests.simulation.scheduler import Process
from tests.storage.samples import OPENED_AT

__all__ = ["Node", "build", "client_of", "level_settings", "time_of"]

_log = Logger()

_SOURCES = "storage.router.sources.http-source"
_STATISTICS_SECONDS = 0.3


@attrs.define(eq=False)
class Node:
    """One life of a node.

    :ivar services: everything that it runs.
    :ivar session: the session of all nodes except readers.
    :ivar router: the router of a source node.
    :ivar is_stopping: whether it was asked to stop.
    """

    process: Process
    services: OrderedServices
    session: Session | None = None
    router: SinkRouter | None = None
    is_stopping: bool = False
    _started: Deferred[None] | None = None

    def start(self) -> Deferred[None]:
        """Return a Deferred that fires when everything runs."""
        self._started = ensureDeferred(self.services.startService())
        return self._started

    async def stop(self) -> None:
        """Stop after the start is complete. The Deferred fires when everything has ended."""
        self.is_stopping = True
        if self._started is not None:
            await self._started
        await self.services.stopService()


def time_of(process: Process) -> datetime:
    """Return the time of the process's clock."""
    return OPENED_AT + timedelta(seconds=process.seconds())


def level_settings(compression: str, sync_mode: str) -> StorageLevel:
    """Slices of both volumes, rotated every second or two."""
    level = Settings().storage.level
    local = level.local
    encoding = attrs.evolve(
        local.encoding,
        compression=attrs.evolve(
            local.encoding.compression,
            type=compression,
            # Faster compression levels depend on earlier contents of the memory.
            gzip=attrs.evolve(local.encoding.compression.gzip, implementation="standard"),
        ),
        sync=attrs.evolve(local.encoding.sync, mode=sync_mode),
    )
    assignment = attrs.evolve(local.volume.assignment, count=2)
    upload = attrs.evolve(
        level.staging.upload,
        min_interval=Duration.parse("1s"),
        trigger=attrs.evolve(level.staging.upload.trigger, count=20, interval=Duration.parse("2s")),
    )
    return attrs.evolve(
        level,
        local=attrs.evolve(
            local,
            encoding=encoding,
            volume=attrs.evolve(local.volume, assignment=assignment),
            writer=attrs.evolve(
                local.writer, allocation=attrs.evolve(local.writer.allocation, enabled=False)
            ),
        ),
        staging=attrs.evolve(level.staging, upload=upload),
    )


def _network_settings() -> WriterNetworkSettings:
    return attrs.evolve(
        Settings().storage.level.local.writer.network,
        listen="127.0.0.1:0",
        keep_alive_interval=Duration.parse("1s"),
        stream_write_timeout=Duration.parse("2s"),
        stream_open_timeout=Duration.parse("3s"),
        stream_close_timeout=Duration.parse("3s"),
        shutdown_timeout=Duration.parse("3s"),
    )


def client_of(process: Process, request_timeout: float = 3.0) -> EtcdClient:
    """Return a client of the simulated etcd."""
    return EtcdClient(process, ["etcd:2379"], "stream", request_timeout=request_timeout)


class _Clients(WriterClients):
    def _endpoint(self, host: str, port: int) -> Any:
        return TCP4ClientEndpoint(self._reactor, host, port)


def build(
    kind: str,
    node_id: str,
    process: Process,
    *,
    ttl: int,
    volumes: Path,
    level: StorageLevel,
    staged: Callable[[Slice, bytes], None],
) -> Node:
    """Return a node of *kind* ``source``, ``writer``, ``reader`` or ``coordinator``.

    :param ttl: the TTL of leases in seconds.
    :param volumes: the volumes of a writer or reader.
    :param staged: called with the data that a reader uploads.
    """
    client = client_of(process)
    if kind == "reader":
        return Node(process, _reader(process, client, volumes, level, staged))
    session = Session(client, ttl=ttl, reactor=process)
    if kind == "writer":
        return Node(process, _writer(process, client, session, node_id, volumes), session)
    if kind == "coordinator":
        return Node(process, _coordinator(process, client, session, node_id, level), session)
    return _source(process, client, session, node_id)


def _source(process: Process, client: EtcdClient, session: Session, node_id: str) -> Node:
    volumes: Mirror[Volume] = Mirror(client, prefix.WRITER_VOLUME, json_values(Volume))
    life = Life(session, f"{prefix.SOURCE_LIFE}{node_id}", "source node")
    group = Group(client, session, _SOURCES, node_id, grouping_interval=0.5, reactor=process)

    def volume(volume_id: str) -> Volume | None:
        return volumes.items.get(f"{prefix.WRITER_VOLUME}{volume_id}")

    clients = _Clients(process, node_id, _network_settings(), volume, life=lambda: life.number)
    volumes.listen(clients.volumes_changed)
    publisher = StatisticsPublisher(client, node_id, _STATISTICS_SECONDS, process)
    quotas = Quotas(client, _STATISTICS_SECONDS, process)
    router = SinkRouter(
        client,
        session,
        PipelineContext(
            node_id=node_id,
            life=lambda: life.number,
            opener=clients,
            reactor=process,
            pool=process.pool,
            publisher=publisher,
            balancer=Balancer("roundRobin"),
        ),
        nodes=lambda: group.nodes,
        minimum_slices=2,
        volume=volume,
        quotas=quotas,
    )
    session.on_lost.append(router.session_lost)
    session.on_renewed.append(router.session_renewed)

    def share_anew() -> None:
        ensureDeferred(router.nodes_changed()).addErrback(
            lambda failure: _log.failure("cannot assign the slices", failure)
        )

    group.on_change(share_anew)
    chain = OrderedServices(
        [client, session, volumes, life, group, clients, publisher, quotas, router], process
    )
    return Node(process, chain, session, router)


def _writer(
    process: Process, client: EtcdClient, session: Session, node_id: str, volumes: Path
) -> OrderedServices:
    writer = StorageWriterService(
        process,
        client,
        session,
        node_id=node_id,
        address_host=process.host,
        volumes_path=str(volumes),
        network=_network_settings(),
        cleanup=attrs.evolve(Settings().storage.disk_cleanup, enabled=False),
        min_free_bytes=0,
    )
    return OrderedServices([client, session, writer], process)


class _Target:
    """A target that consists of its staging storage."""

    name = "keboola"

    def __init__(self, process: Any, staged: Callable[[Slice, bytes], None]) -> None:
        self._process = process
        self._staged = staged

    @asynccontextmanager
    async def upload(self, slice_: Slice, chunks: Callable[[], Any]) -> AsyncIterator[Staged]:
        content = await deferToThreadPool(
            self._process, self._process.pool, lambda: b"".join(chunks())
        )
        self._staged(slice_, content)
        yield Staged(None, self._check)

    async def _check(self, txn: AtomicTxn) -> None:
        """Check that the staging storage of a file is never replaced."""

    async def report_upload(self, *_: object) -> None:
        """Do nothing."""


def _reader(
    process: Process,
    client: EtcdClient,
    volumes: Path,
    level: StorageLevel,
    staged: Callable[[Slice, bytes], None],
) -> OrderedServices:
    targets: Any = [_Target(process, staged)]
    reader = StorageReaderService(
        process,
        client,
        StorageRepository(level, lambda: ()),
        Targets(targets),
        node_id="node",
        volumes_path=str(volumes),
        settings=level.staging.operator,
        pool=process.pool,
        now=lambda: time_of(process),
    )
    return OrderedServices([client, reader], process)


def _coordinator(
    process: Process, client: EtcdClient, session: Session, node_id: str, level: StorageLevel
) -> OrderedServices:
    work = CoordinatorContext(
        client=client,
        session=session,
        repository=StorageRepository(level, lambda: ()),
        reactor=process,
        now=lambda: time_of(process),
        sinks=Mirror(client, SINK_ACTIVE, json_values(Sink)),
        sources=Mirror(client, SOURCE_ACTIVE, json_values(Source)),
    )
    rotations: list[SliceRotation] = []

    def wake() -> None:
        for rotation in rotations:
            rotation.close_sync_changed()

    def counted(file: str) -> None:
        for rotation in rotations:
            for key in rotation.operator.items:
                if key.startswith(file):
                    rotation.operator.wake(key)

    life = Life(session, f"{prefix.COORDINATOR_LIFE}{node_id}", "storage coordinator")
    group = Group(client, session, "rotation", node_id, grouping_interval=0.5, reactor=process)
    statistics = StatisticsCache(client, counted)
    close_sync = CloseSync(client, wake)
    rotation = SliceRotation(work, statistics, close_sync, level.staging.operator, group.is_owner)
    rotations.append(rotation)
    group.on_change(rotation.operator.wake_all)
    slices: Mirror[Slice] = Mirror(
        client,
        prefix.slice_level(Level.LOCAL),
        json_values(Slice),
        on_change=rotation.operator.changed,
    )
    return OrderedServices(
        [client, session, life, group, statistics, close_sync, slices, rotation.operator], process
    )
