"""The table of components, and how those of a process are put together.

The order of starting is fixed: what others need comes first. It is also the reverse of stopping, so
that a source answers its last request before the writer behind it goes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from twisted.application.service import IService
from twisted.internet.defer import ensureDeferred
from twisted.logger import Logger

from stream.api.service import ApiService
from stream.console import Console, Parts
from stream.errors import UserError
from stream.etcd import EmbeddedEtcd
from stream.keboola.verifier import TokenVerifier
from stream.node import Node
from stream.ops.chain import ServiceChain
from stream.ops.debug import DebugListener
from stream.ops.development import development_services
from stream.ops.endpoint import server_endpoint
from stream.ops.lag import ReactorLag
from stream.ops.listener import MetricsListener
from stream.ops.log_control import LogControl, parse_levels
from stream.ops.supervisor import Supervisor
from stream.ops.tracing import TracingService
from stream.sandbox import ObjectStaging, SandboxService
from stream.settings import SandboxStagingSettings, Settings, masked
from stream.sink.balancing import Balancer
from stream.sink.collector import Collector
from stream.sink.dead_letter import DeadLetters
from stream.sink.meters import SinkMeters
from stream.sink.quota import Quotas
from stream.sink.router import SinkRouter
from stream.sink.sink_pipeline import PipelineContext
from stream.source.http.service import HttpSourceService
from stream.storage.coordinator.service import StorageCoordinatorService
from stream.storage.key import SliceKey
from stream.storage.network.client import WriterClients
from stream.storage.reader.service import StorageReaderService
from stream.storage.writer.service import StorageWriterService
from stream.telemetry import watch_descriptors, watch_source

__all__ = ["build", "log_of"]

_log = Logger(namespace="stream")

WORKER_STOP_SHARE = 0.9
"""Of the time for a stop, what workers have: who kills them has to end in time, too."""

SOURCE_GROUP = "storage.router.sources.http-source"


def build(
    settings: Settings,
    components: Sequence[str],
    workers: Mapping[str, Sequence[str]],
    *,
    reactor: Any,
    log: LogControl,
) -> IService:
    """The services of *components* with everything that they share, in the order of starting.

    :param log: what is logged with; the console can change it.
    :param workers: command lines by name of the processes that take records; a single one of them
        is done in this process instead.
    """
    _log.info("enabled components: {names}", names=",".join(sorted(components)))
    # Not as a field beside the message: it would be there twice.
    _log.info("configuration: {log_settings}", log_settings=json.dumps(masked(settings)))
    node = Node(settings, reactor)
    parts = Parts(log, node.metrics)
    watch_descriptors(node.metrics)
    chain = ServiceChain(_tracing(settings, components, reactor), reactor)
    chain.append(_metrics(node, lambda: chain.is_ready))
    chain.append(ReactorLag(reactor, node.metrics))
    writer: StorageWriterService | None = None
    for service in development_services(reactor):
        chain.append(service)
    if "etcd" in components:
        chain.append(_etcd(node))
    if "sandbox" in components:
        chain.append(_sandbox(node))
    for name, make in _BUILDERS.items():
        if name in components:
            before = len(node.services)
            if name == "http-source" and len(workers) > 1:
                services = [_workers(node, workers, log)]
            elif name == "http-source":
                services = _http_source(node, writer)
            else:
                services = make(node)
            _note(parts, services)
            for service in (*node.services[before:], *services):
                chain.append(service)
            if name == "storage-writer":
                assert isinstance(services[-1], StorageWriterService)
                writer = services[-1]
    parts.client = vars(node).get("client")  # if anybody has asked for it
    for service in _consoles(node, parts):
        chain.append(service)
    return chain


def _note(parts: Parts, services: Sequence[IService]) -> None:
    """What the console has functions for."""
    for service in services:
        if isinstance(service, SinkRouter):
            parts.router = service
        elif isinstance(service, StorageWriterService):
            parts.writer = service
        elif isinstance(service, StorageCoordinatorService):
            parts.coordinator = service
        elif isinstance(service, StorageReaderService):
            parts.reader = service


def log_of(settings: Settings) -> LogControl:
    """The log that *settings* ask for."""
    levels = {"twisted": "warn", "log_legacy": "warn"}
    if not settings.log.access_log:
        levels["stream.api.http"] = "warn"
    if settings.etcd.debug_log:
        levels["stream.etcd.transport"] = "debug"
    form: Any = None if settings.log.format == "auto" else settings.log.format
    # Who shares the address, or the log file, with others shares the output, too.
    is_shared = settings.source.http.share_port or settings.log.file
    return LogControl(
        settings.log.file,
        form,
        "debug" if settings.debug_log else "info",
        {**levels, **parse_levels(settings.log.levels)},
        node=settings.node_id if is_shared else "",
    )


def _consoles(node: Node, parts: Parts) -> list[IService]:
    """Ways into the running process, if they are asked for."""
    services: list[IService] = []
    manhole, pprof = node.settings.manhole, node.settings.pprof
    if manhole.enabled:
        # Only here: SSH takes a while to import.
        from stream.ops.manhole import ManholeService

        services.append(
            ManholeService(
                server_endpoint(node.reactor, manhole.listen),
                manhole.listen,
                host_key=manhole.host_key,
                authorized_keys=manhole.authorized_keys,
                namespace=Console(parts, node.reactor).namespace(),
            )
        )
    if pprof.enabled:
        services.append(
            DebugListener(
                node.reactor, server_endpoint(node.reactor, pprof.listen), pprof.listen, parts.log
            )
        )
    return services


def _tracing(settings: Settings, components: Sequence[str], reactor: Any) -> list[IService]:
    tracing = settings.tracing
    if not tracing.enabled:
        return []
    return [
        TracingService(
            reactor, tracing.endpoint, tracing.sample_ratio, settings.node_id, components
        )
    ]


def _metrics(node: Node, is_ready: Callable[[], bool]) -> IService:
    listen = node.settings.metrics.listen
    endpoint = server_endpoint(node.reactor, listen)
    return MetricsListener(node.reactor, endpoint, node.metrics, listen, is_ready)


def _etcd(node: Node) -> IService:
    etcd = node.settings.etcd
    if not etcd.data_dir:
        raise UserError('the component "etcd" needs "etcd.dataDir" (STREAM_ETCD_DATA_DIR)')
    return EmbeddedEtcd(node.reactor, etcd.endpoint, etcd.data_dir)


def _sandbox(node: Node) -> IService:
    sandbox = node.settings.sandbox
    if not sandbox.path:
        raise UserError('the component "sandbox" needs "sandbox.path" (STREAM_SANDBOX_PATH)')
    return SandboxService(
        node.reactor,
        listen=sandbox.listen,
        path=sandbox.path,
        token=sandbox.token,
        project_id=sandbox.project_id,
        branch_id=sandbox.branch_id,
        objects=_sandbox_objects(sandbox.staging),
    )


def _sandbox_objects(staging: SandboxStagingSettings) -> ObjectStaging | None:
    if staging.provider == "local":
        return None
    if not staging.endpoint:
        raise UserError(f'"sandbox.staging.endpoint" is needed for "{staging.provider}"')
    return ObjectStaging(
        staging.provider,
        staging.endpoint,
        staging.bucket,
        staging.region,
        staging.key_id,
        staging.secret,
    )


def _coordinator(node: Node) -> list[IService]:
    _ = node.storage_api, node.client, node.session, node.repository
    return [
        StorageCoordinatorService(
            node.reactor,
            node.client,
            node.session,
            node.coordinator_work,
            node.settings,
            node.file_provider,
            node.importer,
            node.group,
        )
    ]


def _writer(node: Node) -> list[IService]:
    settings = node.settings
    return [
        StorageWriterService(
            node.reactor,
            node.client,
            node.volume_session,
            node_id=settings.node_id,
            address_host=settings.hostname,
            volumes_path=settings.storage.volumes_path,
            network=settings.storage.level.local.writer.network,
            cleanup=settings.storage.disk_cleanup,
            damaged=_damaged(node),
            metrics=node.metrics,
        )
    ]


def _damaged(node: Node) -> Callable[[SliceKey], None]:
    """Counts slices in which a damaged file was found."""
    family = node.metrics.own("keboola_go_stream_storage_damaged")
    return lambda key: family.labels({"volume_id": key.volume_id}).add(1)


def _reader(node: Node) -> list[IService]:
    settings = node.settings
    _ = node.storage_api, node.client, node.session
    return [
        StorageReaderService(
            node.reactor,
            node.client,
            node.repository,
            node.uploader,
            volumes_path=settings.storage.volumes_path,
            settings=settings.storage.level.staging.operator,
            pool=node.pool,
            now=node.now,
            damaged=_damaged(node),
            metrics=node.metrics,
        )
    ]


def _api(node: Node) -> list[IService]:
    _ = node.storage_api, node.client, node.session, node.definition_changes
    return [
        ApiService(
            node.reactor,
            node.settings,
            client=node.client,
            session=node.session,
            changes=node.definition_changes,
            storage_api=node.storage_api,
            verifier=TokenVerifier(node.reactor, node.storage_api),
            metrics=node.metrics,
        )
    ]


def _workers(node: Node, commands: Mapping[str, Sequence[str]], log: LogControl) -> IService:
    seconds = WORKER_STOP_SHARE * node.settings.stop_timeout.seconds
    supervisor = Supervisor(node.reactor, commands, os.environ, seconds)
    log.on_reopen.append(supervisor.hangup)
    return supervisor


def _http_source(node: Node, writer: StorageWriterService | None) -> list[IService]:
    settings = node.settings
    network = settings.storage.level.local.writer.network
    _ = node.client, node.session, node.volumes, node.pool
    group = node.group(SOURCE_GROUP)
    clients = WriterClients(
        node.reactor,
        settings.node_id,
        network,
        node.volume,
        local=writer.writer if writer is not None else None,
        is_local=writer.writer.has_volume if writer is not None else lambda _: False,
    )
    collector = Collector(
        node.client,
        settings.node_id,
        settings.storage.statistics.sync.interval.seconds,
        node.reactor,
    )
    dead_letters = _dead_letters(node)
    quotas = Quotas(
        node.client, settings.storage.statistics.cache.l2.interval.seconds, node.reactor
    )
    router = SinkRouter(
        node.client,
        node.session,
        PipelineContext(
            node_id=settings.node_id,
            opener=clients,
            reactor=node.reactor,
            pool=node.pool,
            collector=collector,
            balancer=Balancer(network.pipeline_balancer),
            dead_letters=dead_letters,
            meters=SinkMeters(node.metrics, node.reactor.seconds),
        ),
        nodes=lambda: group.nodes,
        minimum_slices=network.min_slices_per_source_node,
        volume=node.volume,
        quotas=quotas,
    )
    node.session.on_lost.append(router.session_lost)
    node.session.on_renewed.append(router.session_renewed)

    def share_anew() -> None:
        sharing = ensureDeferred(router.nodes_changed())
        sharing.addErrback(lambda failure: _log.failure("cannot share the slices anew", failure))

    group.on_change(share_anew)
    source = HttpSourceService(
        node.reactor,
        node.client,
        settings.source.http,
        router,
        node.pool,
        hostname=settings.hostname,
        metrics=node.metrics,
    )
    watch_source(node.metrics, router, lambda: source.connections)
    return [group, clients, collector, dead_letters, quotas, router, source]


def _dead_letters(node: Node) -> DeadLetters:
    settings = node.settings
    family = node.metrics.own("keboola_go_stream_sink_dead_letter_records")
    return DeadLetters(
        settings.source.dead_letter_path,
        settings.node_id,
        settings.sink.dead_letter,
        node.reactor,
        node.pool,
        written=family.labels({"result": "written"}).add,
        dropped=family.labels({"result": "dropped"}).add,
    )


_BUILDERS: dict[str, Callable[[Node], list[IService]]] = {
    "storage-coordinator": _coordinator,
    "storage-writer": _writer,
    "storage-reader": _reader,
    "api": _api,
    "http-source": lambda node: _http_source(node, None),
}
"""By name, in the order of starting."""
