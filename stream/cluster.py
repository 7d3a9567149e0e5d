"""Resources shared by the components of a process: etcd, leases, volumes, tables of projects.

Each is built once, when the process is composed (`stream.components`), and opens nothing at that
time. A component that needs a shared service lists it among its own services.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs
from twisted.application.service import IService

from stream.etcd import EtcdClient, Group, Mirror, Session, json_values
from stream.ops.clock import wall_clock
from stream.ops.metrics.registry import Metrics
from stream.ops.process.thread_pool import ThreadPoolService
from stream.settings import Settings
from stream.storage.model import prefix as storage_prefix
from stream.storage.model.volume import Volume
from stream.storage.store.allocation import largest_recent_slice
from stream.storage.store.repository import StorageRepository
from stream.storage.store.volume_limit import VolumeLimit
from stream.telemetry import watch_etcd, watch_threads
from stream.templates.service import Templates
from stream.values.utctime import from_timestamp

if TYPE_CHECKING:
    from stream.authority import ProjectAuthority
    from stream.target.protocol import Target, TargetContext
    from stream.target.registry import Targets
    from stream.target.staged import StagingArea

__all__ = ["Cluster", "Projects", "Volumes", "etcd_client", "join_cluster", "reach_projects"]

Later = Mapping[str, "Callable[[], Target]"]
"""Functions, by name, that make targets when they are needed."""

_STAGING_USERS = {"storage-reader", "storage-coordinator"}

WORK_THREADS = 4
"""Threads for compression, uploads and key services; may exceed the cores, as most threads wait."""


@attrs.frozen(kw_only=True)
class Volumes:
    """The volumes that are registered in the cluster."""

    mirror: Mirror[Volume]

    def all(self) -> Sequence[Volume]:
        """Return every registered volume."""
        return list(self.mirror.items.values())

    def find(self, volume_id: str) -> Volume | None:
        """Return the volume with this id, or ``None`` while its writer is unavailable."""
        return self.mirror.items.get(f"{storage_prefix.WRITER_VOLUME}{volume_id}")


@attrs.frozen(kw_only=True)
class Cluster:
    """The cluster-wide resources of a component.

    :ivar client: the etcd client.
    :ivar session: the lease of the node.
    :ivar volumes: volumes registered in the cluster.
    :ivar repository: changes of files and slices; needs `volumes`.
    :ivar work: threads for uploads and compression.
    :ivar templates: processes that evaluate templates.
    :ivar group: returns this node's membership in a group, by the group's name.
    :ivar now: returns the current time in UTC.
    """

    client: EtcdClient
    session: Session
    volumes: Volumes
    repository: StorageRepository
    work: ThreadPoolService
    templates: Templates
    group: Callable[[str], Group]
    now: Callable[[], datetime]


def join_cluster(settings: Settings, reactor: Any, metrics: Metrics) -> Cluster:
    """Build the cluster-wide resources of this process."""
    client = etcd_client(settings, reactor)
    session = Session(client, ttl=settings.distribution.ttl_seconds, reactor=reactor)
    volumes = Volumes(
        mirror=Mirror(client, storage_prefix.WRITER_VOLUME, json_values(Volume)),
    )
    repository = StorageRepository(
        settings.storage.level,
        volumes.all,
        partial(largest_recent_slice, client),
        settings.sink.quarantine,
        VolumeLimit(client),
    )
    work = ThreadPoolService(reactor, "work", WORK_THREADS)

    def group(name: str) -> Group:
        return Group(
            client,
            session,
            name,
            settings.node_id,
            grouping_interval=settings.distribution.events_group_interval.seconds,
            reactor=reactor,
        )

    wall = wall_clock(reactor)
    watch_etcd(metrics, client)
    watch_threads(metrics, {"work": work.pool, "reactor": reactor.getThreadPool()})
    return Cluster(
        client=client,
        session=session,
        volumes=volumes,
        repository=repository,
        work=work,
        templates=Templates(reactor, settings.source.templates, metrics),
        group=group,
        now=lambda: from_timestamp(wall()),
    )


def etcd_client(settings: Settings, reactor: Any) -> EtcdClient:
    """Build the client of the etcd in *settings*."""
    etcd = settings.etcd
    return EtcdClient(
        reactor,
        [part.strip() for part in etcd.endpoint.split(",") if part.strip()],
        etcd.namespace,
        username=etcd.username,
        password=etcd.password,
        connect_timeout=etcd.connect_timeout.seconds,
        log_operations=etcd.debug_log,
    )


@attrs.frozen(kw_only=True)
class Projects:
    """The tables of projects, and the authority that verifies tokens.

    :ivar authority: verifies tokens; works while its services and those of `targets` run.
    """

    authority: ProjectAuthority
    authority_services: Sequence[IService]
    targets: Targets


def reach_projects(
    settings: Settings,
    components: Sequence[str],
    reactor: Any,
    metrics: Metrics,
    cluster: Cluster,
) -> Projects:
    """Build the targets and the project authority.

    Raises UserError: the settings of encryption or staging are invalid, or an installed target
    can't be loaded.

    :param components: components of this process.
    """
    # A process that only receives records doesn't need these imports.
    from stream.encryption import configured_encryptor
    from stream.target.protocol import TargetContext
    from stream.target.registry import installed_targets, optional_targets

    staging = _staging(settings, components, reactor, cluster)
    context = TargetContext(
        settings=settings,
        reactor=reactor,
        client=cluster.client,
        session=cluster.session,
        encryptor=configured_encryptor(settings.encryption, reactor, cluster.work.pool),
        pool=cluster.work.pool,
        metrics=metrics,
        now=cluster.now,
        staging=staging,
    )
    optional, later = optional_targets(context)
    others = [*optional, *installed_targets(context)]
    if settings.auth.provider == "stream":
        return _own_projects(context, others, later)
    return _keboola_projects(context, others, later)


def _own_projects(context: TargetContext, targets: Sequence[Target], later: Later) -> Projects:
    """Build an authority with tokens of this service, without Keboola tables."""
    from stream.authority.own import OwnAuthority
    from stream.target.registry import Targets

    auth = context.settings.auth
    authority = OwnAuthority(
        context.reactor,
        context.client,
        context.now,
        bootstrap_file=auth.bootstrap_token_file,
        bootstrap_project=auth.bootstrap_project,
    )
    return Projects(
        authority=authority,
        authority_services=(authority,),
        targets=Targets(targets, context.staging, _started_first(context, later), later=later),
    )


def _keboola_projects(context: TargetContext, targets: Sequence[Target], later: Later) -> Projects:
    """Build the authority and tables of the Storage API."""
    from stream.target.keboola.authority import KeboolaAuthority
    from stream.target.keboola.client import StorageApi
    from stream.target.keboola.events import EventSender
    from stream.target.keboola.exchange import TokenExchange
    from stream.target.keboola.target import KeboolaTarget
    from stream.target.keboola.verifier import TokenVerifier
    from stream.target.registry import Targets

    settings, reactor = context.settings, context.reactor
    api = StorageApi(
        reactor,
        settings.storage_api_host,
        metrics=context.metrics,
        log_exchanges=settings.debug_http_client,
    )
    events = EventSender(api, settings.sink.table.keboola.event_send_timeout.seconds, reactor)
    path = settings.api.kubernetes_token_path
    authority = KeboolaAuthority(
        api,
        TokenVerifier(reactor, api),
        events,
        TokenExchange(reactor, api, path) if path else None,
    )
    return Projects(
        authority=authority,
        authority_services=(),
        targets=Targets(
            [KeboolaTarget(context, api, events), *targets],
            context.staging,
            _started_first(context, later),
            later=later,
        ),
    )


def _staging(
    settings: Settings, components: Sequence[str], reactor: Any, cluster: Cluster
) -> StagingArea | None:
    """Build the staging for connections, if this process stores or reads slices there.

    An API node needs it only for replays.
    """
    from stream.target.staged import StagingArea, staging_address

    is_used = bool(settings.target.connections or settings.target.staging.url)
    replays = "api" in components and bool(settings.target.staging.url)
    if not is_used or not (replays or _STAGING_USERS & set(components)):
        return None
    address = staging_address(settings.target.staging, components, settings.storage.volumes_path)
    return StagingArea(address, reactor, cluster.work.pool)


def _started_first(context: TargetContext, later: Later) -> Sequence[IService]:
    from stream.target.registry import Libraries
    from stream.target.staged import StagingCheck

    libraries = Libraries(context, later)
    if context.staging is None:
        return (libraries,)
    node_id = context.settings.node_id
    return (
        libraries,
        StagingCheck(context.staging, context.client, context.session, node_id, context.reactor),
    )
