"""The composition of a process: one function per component, and the order in which they start.

`build` is the table of contents. The function of a component takes the component's dependencies and
returns its services, in the order in which they start. A service that several components share
starts once, with the first of them. Dependencies start first. Services stop in the reverse order,
so that a source answers its last request before the writer that it uses stops. Nothing is opened
before the services start.

The function of a component imports the modules that only this component needs, so that processes
without the component don't load them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twisted.application.service import IService
from twisted.internet.defer import ensureDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from stream.cluster import Cluster, Projects, join_cluster, reach_projects
from stream.console import Console, Parts
from stream.definition import prefix as definition_prefix
from stream.definition.entity import Sink, Source
from stream.definition.key import SourceKey
from stream.errors import UserError
from stream.etcd import EmbeddedEtcd, Life, Mirror, NameHeld, Session, json_values
from stream.ops.clock import wall_clock
from stream.ops.debug.development import development_services
from stream.ops.debug.listener import DebugListener
from stream.ops.endpoint import server_endpoint
from stream.ops.logging.control import LogControl
from stream.ops.metrics.listener import MetricsListener
from stream.ops.metrics.reactor_lag import ReactorLag
from stream.ops.metrics.registry import Metrics
from stream.ops.process.ordered_services import OrderedServices
from stream.ops.process.supervisor import Supervisor
from stream.ops.tracing.spans import TracingService
from stream.settings import SandboxStagingSettings, Settings, masked
from stream.storage.model import prefix as storage_prefix
from stream.storage.model.key import SliceKey
from stream.storage.store.layout import LayoutGuard
from stream.telemetry import watch_descriptors, watch_lease, watch_source

if TYPE_CHECKING:
    from stream.rejected.keeper import RejectedRecords
    from stream.sandbox import ObjectStaging
    from stream.storage.network.interface import Enquiry, StoredRows

__all__ = ["build"]

_log = Logger(namespace="stream")

WORKER_STOP_SHARE = 0.9
"""Workers' share of the stop timeout. Their supervisor has to stop in time as well."""

Replaced = Callable[[NameHeld], None]

SOURCE_GROUP = "storage.router.sources.http-source"


def build(
    settings: Settings,
    components: Sequence[str],
    workers: Mapping[str, Sequence[str]],
    *,
    reactor: Any,
    log: LogControl,
) -> OrderedServices:
    """Build the services of *components*, in the order in which they start.

    :param workers: command lines, by name, of the processes that receive records. If there is only
        one, a source in this process replaces it.
    :param log: the logger; the console can change its levels.
    """
    _log.info("enabled components: {names}", names=",".join(sorted(components)))
    # The names aren't logged as a field as well, because the message already contains them.
    _log.info("configuration: {log_settings}", log_settings=json.dumps(masked(settings)))
    metrics = Metrics()
    watch_descriptors(metrics)
    parts = Parts(log, metrics)
    chain = OrderedServices([], reactor)

    services: list[IService] = []
    services += tracing(settings, components, reactor)
    services += metrics_listener(settings, reactor, metrics, is_ready=lambda: chain.is_ready)
    services += [ReactorLag(reactor, metrics), *development_services(reactor)]
    if "etcd" in components:
        services += etcd(settings, reactor)
    if "postgres" in components:
        services += postgres(settings, reactor)
    if "sandbox" in components:
        services += sandbox(settings, reactor)
    if "http-source" in components and len(workers) > 1:
        services += source_workers(settings, reactor, workers, log)
        components = [name for name in components if name != "http-source"]
    if set(components) - {"etcd", "postgres", "sandbox"}:
        services += cluster_members(
            settings, components, reactor, metrics, parts, lambda error: chain.fail(Failure(error))
        )
    services += consoles(settings, reactor, parts)

    for service in _each_once(services):
        chain.append(service)
    return chain


def cluster_members(
    settings: Settings,
    components: Sequence[str],
    reactor: Any,
    metrics: Metrics,
    parts: Parts,
    on_replaced: Replaced,
) -> list[IService]:
    """Build Stream's own components of this process, which communicate through etcd.

    :param parts: receives the objects that the console inspects.
    :param on_replaced: called when another process holds a name of this process, which must then
        end.
    """
    cluster = join_cluster(settings, reactor, metrics)
    cluster.session.on_replaced.append(on_replaced)
    parts.client = cluster.client
    services: list[IService] = [cluster.client, LayoutGuard(cluster.client)]
    if "storage-writer" in components:
        services += storage_writer(settings, reactor, metrics, cluster, parts, on_replaced)
    if {"storage-coordinator", "storage-reader", "api"} & set(components):
        projects = reach_projects(settings, components, reactor, metrics, cluster)
        if "storage-coordinator" in components:
            services += storage_coordinator(settings, reactor, metrics, cluster, projects, parts)
        if "storage-reader" in components:
            services += storage_reader(settings, reactor, metrics, cluster, projects, parts)
        if "api" in components:
            services += api(settings, reactor, metrics, cluster, projects)
    if "http-source" in components:
        services += http_source(settings, reactor, metrics, cluster, parts)
    if cluster.session in services:
        watch_lease(metrics, cluster.session, "node")
    return services


# Stream's own components.


def storage_writer(
    settings: Settings,
    reactor: Any,
    metrics: Metrics,
    cluster: Cluster,
    parts: Parts,
    on_replaced: Replaced,
) -> list[IService]:
    """Build the component that appends rows to the slice files on this node's volumes."""
    from stream.storage.writer.service import StorageWriterService

    local = settings.storage.level.local
    # Volumes have their own lease, with another time to live.
    session = Session(cluster.client, ttl=local.volume.registration.ttl_seconds, reactor=reactor)
    session.on_replaced.append(on_replaced)
    watch_lease(metrics, session, "volumes")
    writer = parts.writer = StorageWriterService(
        reactor,
        cluster.client,
        session,
        node_id=settings.node_id,
        address_host=settings.hostname,
        volumes_path=settings.storage.volumes_path,
        network=local.writer.network,
        cleanup=settings.storage.disk_cleanup,
        damaged=_count_damaged(metrics),
        metrics=metrics,
        remembered_seconds=settings.source.http.idempotency.window.seconds,
        max_keys=settings.source.http.idempotency.max_keys,
    )
    return [cluster.client, session, writer]


def storage_coordinator(
    settings: Settings,
    reactor: Any,
    metrics: Metrics,
    cluster: Cluster,
    projects: Projects,
    parts: Parts,
) -> list[IService]:
    """Build the component that moves files and slices through their states."""
    from stream.storage.coordinator.context import CoordinatorContext
    from stream.storage.coordinator.service import StorageCoordinatorService
    from stream.storage.reconcile.operation_meter import OperationMeter

    client = cluster.client
    key = f"{storage_prefix.COORDINATOR_LIFE}{settings.node_id}"
    life = Life(cluster.session, key, "storage coordinator")
    coordinator = parts.coordinator = StorageCoordinatorService(
        reactor,
        client,
        cluster.session,
        CoordinatorContext(
            client=client,
            session=cluster.session,
            repository=cluster.repository,
            reactor=reactor,
            now=cluster.now,
            sinks=Mirror(client, definition_prefix.SINK_ACTIVE, json_values(Sink)),
            meter=OperationMeter(metrics, reactor.seconds),
            sources=Mirror(client, definition_prefix.SOURCE_ACTIVE, json_values(Source)),
        ),
        settings,
        projects.targets,
        cluster.group,
    )
    cluster.volumes.mirror.listen(lambda _: coordinator.volumes_changed(cluster.volumes.all()))
    return [
        client,
        cluster.session,
        *projects.targets.services,
        cluster.volumes.mirror,
        cluster.work,
        life,
        coordinator,
    ]


def storage_reader(
    settings: Settings,
    reactor: Any,
    metrics: Metrics,
    cluster: Cluster,
    projects: Projects,
    parts: Parts,
) -> list[IService]:
    """Build the component that uploads closed slices from this node's volumes to staging."""
    from stream.storage.reader.service import StorageReaderService

    reader = parts.reader = StorageReaderService(
        reactor,
        cluster.client,
        cluster.repository,
        projects.targets,
        node_id=settings.node_id,
        volumes_path=settings.storage.volumes_path,
        settings=settings.storage.level.staging.operator,
        pool=cluster.work.pool,
        now=cluster.now,
        damaged=_count_damaged(metrics),
        metrics=metrics,
    )
    return [
        cluster.client,
        cluster.session,
        *projects.targets.services,
        cluster.volumes.mirror,
        cluster.work,
        reader,
    ]


def api(
    settings: Settings, reactor: Any, metrics: Metrics, cluster: Cluster, projects: Projects
) -> list[IService]:
    """Build the component with the configuration API."""
    from stream.api.service import ApiService

    service = ApiService(
        reactor,
        settings,
        client=cluster.client,
        session=cluster.session,
        repository=cluster.repository,
        now=cluster.now,
        authority=projects.authority,
        targets=projects.targets,
        templates=cluster.templates.pool,
        pool=cluster.work.pool,
        metrics=metrics,
    )
    return [
        cluster.client,
        cluster.session,
        *projects.targets.services,
        *projects.authority_services,
        cluster.volumes.mirror,
        cluster.work,
        cluster.templates,
        service,
    ]


def http_source(
    settings: Settings, reactor: Any, metrics: Metrics, cluster: Cluster, parts: Parts
) -> list[IService]:
    """Build the component that receives records.

    :param parts: the other components of this process. If there is a writer, it is called directly.
    """
    from stream.rejected.server import RejectedServer
    from stream.sink.balancing import Balancer
    from stream.sink.meters import SinkMeters
    from stream.sink.quota import Quotas
    from stream.sink.router import SinkRouter
    from stream.sink.sink_pipeline import PipelineContext
    from stream.sink.statistics_publisher import StatisticsPublisher
    from stream.source.http.service import HttpSourceService
    from stream.storage.network.client import WriterClients

    network = settings.storage.level.local.writer.network
    statistics = settings.storage.statistics
    client, session, pool = cluster.client, cluster.session, cluster.work.pool
    local = None if parts.writer is None else parts.writer.writer
    life = Life(session, f"{storage_prefix.SOURCE_LIFE}{settings.node_id}", "source node")
    nodes = cluster.group(SOURCE_GROUP)
    clients = WriterClients(
        reactor,
        settings.node_id,
        network,
        cluster.volumes.find,
        life=lambda: life.number,
        local=local,
        is_local=(lambda _: False) if local is None else local.has_volume,
        volumes=cluster.volumes.all,
    )
    cluster.volumes.mirror.listen(clients.volumes_changed)
    publisher = StatisticsPublisher(
        client, settings.node_id, statistics.sync.interval.seconds, reactor
    )
    rejected = _rejected_records(settings, reactor, metrics, cluster)
    rejected_server = RejectedServer(
        reactor,
        session,
        settings.node_id,
        settings.source.quarantine.listen,
        settings.hostname,
        rejected.ask,
        rejected.has_files,
        rejected.directory,
        network.tls,
    )
    rejected.directory_changed = rejected_server.directory_changed
    quotas = Quotas(client, statistics.cache.l2.interval.seconds, reactor)
    router = parts.router = SinkRouter(
        client,
        session,
        PipelineContext(
            node_id=settings.node_id,
            life=lambda: life.number,
            opener=clients,
            reactor=reactor,
            pool=pool,
            publisher=publisher,
            balancer=Balancer(network.pipeline_balancer),
            rejected=rejected,
            templates=cluster.templates.pool,
            meters=SinkMeters(metrics, wall_clock(reactor)),
        ),
        nodes=lambda: nodes.nodes,
        minimum_slices=network.min_slices_per_source_node,
        volume=cluster.volumes.find,
        quotas=quotas,
    )
    session.on_lost.append(router.session_lost)
    session.on_renewed.append(router.session_renewed)

    def share_slices() -> None:
        sharing = ensureDeferred(router.nodes_changed())
        sharing.addErrback(lambda failure: _log.failure("cannot share the slices", failure))

    nodes.on_change(share_slices)
    remembered = timedelta(seconds=settings.source.http.idempotency.window.seconds)

    def volumes_away(sources: Sequence[SourceKey]) -> set[str]:
        return router.volumes_away(sources, cluster.now() - remembered)

    async def enquire(
        enquiries: Sequence[Enquiry], /, *, are_first: bool
    ) -> list[list[StoredRows]]:
        # Without a lease, new connections of this node would end the ones that are still being
        # flushed.
        if router.refusal is not None:
            raise router.refusal
        return await clients.enquire(enquiries, are_first=are_first)

    source = HttpSourceService(
        reactor,
        client,
        settings.source,
        router,
        hostname=settings.hostname,
        metrics=metrics,
        enquire=enquire,
        away=volumes_away,
    )
    watch_source(metrics, router, lambda: source.connections, lambda: source.held_bytes)
    return [
        client,
        session,
        cluster.volumes.mirror,
        cluster.work,
        life,
        cluster.templates,
        nodes,
        clients,
        publisher,
        rejected,
        rejected_server,
        quotas,
        router,
        source,
    ]


def source_workers(
    settings: Settings, reactor: Any, workers: Mapping[str, Sequence[str]], log: LogControl
) -> list[IService]:
    """Build the supervisor of the worker processes that receive records."""
    seconds = WORKER_STOP_SHARE * settings.stop_timeout.seconds
    supervisor = Supervisor(reactor, workers, os.environ, seconds)
    log.on_reopen.append(supervisor.hangup)
    return [supervisor]


# Components for a single machine.


def etcd(settings: Settings, reactor: Any) -> list[IService]:
    """Build an etcd as a child process."""
    if not settings.etcd.data_dir:
        raise UserError('the component "etcd" needs "etcd.dataDir" (STREAM_ETCD_DATA_DIR)')
    return [EmbeddedEtcd(reactor, settings.etcd.endpoint, settings.etcd.data_dir)]


def postgres(settings: Settings, reactor: Any) -> list[IService]:
    """Build a PostgreSQL as a child process."""
    from stream.local_postgres import LocalPostgres

    local = settings.local_postgres
    if not local.path:
        raise UserError(
            'the component "postgres" needs "localPostgres.path" (STREAM_LOCAL_POSTGRES_PATH)'
        )
    return [LocalPostgres(reactor, local.listen, local.path)]


def sandbox(settings: Settings, reactor: Any) -> list[IService]:
    """Build the local Storage API."""
    from stream.sandbox import SandboxService

    sandbox = settings.sandbox
    if not sandbox.path:
        raise UserError('the component "sandbox" needs "sandbox.path" (STREAM_SANDBOX_PATH)')
    return [
        SandboxService(
            reactor,
            listen=sandbox.listen,
            path=sandbox.path,
            token=sandbox.token,
            project_id=sandbox.project_id,
            branch_id=sandbox.branch_id,
            objects=_sandbox_objects(sandbox.staging),
        )
    ]


def _sandbox_objects(staging: SandboxStagingSettings) -> ObjectStaging | None:
    from stream.sandbox import ObjectStaging

    if staging.provider == "local":
        return None
    if not staging.endpoint:
        raise UserError(f'"sandbox.staging.endpoint" is required for "{staging.provider}"')
    return ObjectStaging(
        staging.provider,
        staging.endpoint,
        staging.bucket,
        staging.region,
        staging.key_id,
        staging.secret,
    )


# Services of every process.


def tracing(settings: Settings, components: Sequence[str], reactor: Any) -> list[IService]:
    """Build the export of spans, if it is enabled."""
    tracing = settings.tracing
    if not tracing.enabled:
        return []
    return [
        TracingService(
            reactor, tracing.endpoint, tracing.sample_ratio, settings.node_id, components
        )
    ]


def metrics_listener(
    settings: Settings, reactor: Any, metrics: Metrics, *, is_ready: Callable[[], bool]
) -> list[IService]:
    """Build the listener of metrics and health."""
    listen = settings.metrics.listen
    return [MetricsListener(reactor, server_endpoint(reactor, listen), metrics, listen, is_ready)]


def consoles(settings: Settings, reactor: Any, parts: Parts) -> list[IService]:
    """Build the enabled consoles of the running process."""
    services: list[IService] = []
    manhole, pprof = settings.manhole, settings.pprof
    if manhole.enabled:
        # Imported here, because importing SSH takes a while.
        from stream.ops.debug.manhole import ManholeService

        services.append(
            ManholeService(
                server_endpoint(reactor, manhole.listen),
                manhole.listen,
                host_key=manhole.host_key,
                authorized_keys=manhole.authorized_keys,
                namespace=Console(parts, reactor).namespace(),
            )
        )
    if pprof.enabled:
        services.append(
            DebugListener(reactor, server_endpoint(reactor, pprof.listen), pprof.listen, parts.log)
        )
    return services


def _count_damaged(metrics: Metrics) -> Callable[[SliceKey], None]:
    """Count the slices with damaged files."""
    family = metrics.own("keboola_go_stream_storage_damaged")
    return lambda key: family.labels({"volume_id": key.volume_id}).add(1)


def _rejected_records(
    settings: Settings, reactor: Any, metrics: Metrics, cluster: Cluster
) -> RejectedRecords:
    from stream.rejected.keeper import RejectedRecords
    from stream.rejected.state import add_counts, note_found, note_kept, remove_counts

    family = metrics.own("stream_rejected_records")
    path = settings.source.quarantine.path
    volumes = settings.storage.volumes_path
    if not path and volumes and Path(volumes).is_dir():
        path = str(Path(volumes) / ".rejected")
    return RejectedRecords(
        path,
        settings.node_id,
        settings.sink.quarantine,
        reactor,
        cluster.work.pool,
        partial(add_counts, cluster.client, settings.node_id),
        partial(remove_counts, cluster.client, settings.node_id),
        partial(note_kept, cluster.client, settings.node_id),
        partial(note_found, cluster.client, settings.node_id),
        is_required=bool(settings.source.quarantine.path),
        written=family.labels({"result": "kept"}).add,
        dropped=family.labels({"result": "dropped"}).add,
    )


def _each_once(services: Iterable[IService]) -> list[IService]:
    """Return *services* without duplicates, each at its first position."""
    return list(dict.fromkeys(services))
