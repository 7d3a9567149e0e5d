"""The API as a service: its tasks, its routes, its listener."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import DeferredList, TimeoutError, maybeDeferred
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool

from stream.api.http.app import build_app
from stream.api.http.auth import Branches
from stream.api.http.guard import Guard
from stream.api.http.pages import BUILT, BuiltPages, security_headers
from stream.api.http.server import DOCUMENTATION, Front
from stream.api.http.site import ApiSite
from stream.api.live.hub import LiveHub
from stream.api.resources.aggregation import Aggregation
from stream.api.resources.awaited_tasks import Arrivals, AwaitedTasks
from stream.api.resources.change_tasks import ChangeTasks, SourceEvents
from stream.api.resources.connections import ConnectionsList
from stream.api.resources.console import ConsolePage
from stream.api.resources.documentation import Documentation
from stream.api.resources.live import Live, known_ids
from stream.api.resources.projects import Projects
from stream.api.resources.record_preview import RecordPreview
from stream.api.resources.rejected import RejectedResource
from stream.api.resources.settings import EntitySettings
from stream.api.resources.sink_files import SinkFiles
from stream.api.resources.sinks import Sinks
from stream.api.resources.sources import Sources
from stream.api.resources.statistics import SinkStatistics
from stream.api.resources.table_rows import TableRows
from stream.api.resources.tail import Tails, sample_site
from stream.api.resources.tasks import Tasks
from stream.api.resources.versions import Versions
from stream.api.resources.views import Urls
from stream.api.spec.operations import OPERATIONS
from stream.authority import ProjectAuthority
from stream.definition.change.making import DefinitionChanges
from stream.definition.live import LiveDefinitions
from stream.definition.reads import DefinitionReads
from stream.definition.size import SIZE, DefinitionSize, SizeLimit
from stream.definition.size_metrics import watch_sizes
from stream.etcd import EtcdClient, Group, Mirror, Session, json_values
from stream.ops.clock import wall_clock
from stream.ops.endpoint import server_endpoint
from stream.ops.metrics.registry import Metrics
from stream.rejected.nodes import RejectedNodes
from stream.rejected.replay import Replayer, ReplayLeftovers
from stream.settings import Settings
from stream.storage.store.repository import StorageRepository
from stream.tail.hub import TailHub
from stream.target.probes import Probes
from stream.target.registry import Targets
from stream.task.abandoned import AbandonedTasks
from stream.task.cleanup import TaskCleanup
from stream.task.ends import TaskEnds
from stream.task.executor import TaskExecutor
from stream.task.store import TaskStore
from stream.templates.pool import TemplatePool

__all__ = ["ApiService"]

_log = Logger(namespace="stream.api")

DRAIN_SECONDS = 30.0
"""How long the service, when it stops, waits for requests in progress."""

_CLEANUP_GROUP = "task.cleanup"


class ApiService(Service):
    """The configuration API.

    The Deferred of startService fires when the port is open, and fails if the port can't be opened.
    The Deferred of stopService fires when all requests are answered and all tasks have ended.

    :param client: etcd client, already started.
    :param session: etcd session, already started; the locks of tasks belong to its lease.
    :param repository: opens and closes the files of changed sinks.
    :param now: returns the current time in UTC.
    :param authority: verifies the tokens of projects.
    :param targets: the targets that hold the tables of sinks.
    :param templates: checks and evaluates templates; started before and stopped after this service.
    """

    name = "api"

    def __init__(
        self,
        reactor: Any,
        settings: Settings,
        *,
        client: EtcdClient,
        session: Session,
        repository: StorageRepository,
        now: Callable[[], datetime],
        authority: ProjectAuthority,
        targets: Targets,
        templates: TemplatePool,
        pool: ThreadPool,
        metrics: Metrics | None = None,
    ) -> None:
        self._reactor = reactor
        self._listen = settings.api.listen
        self._port: IListeningPort | None = None
        store = TaskStore(client)
        abandoned = AbandonedTasks(reactor, client, settings.api.task.ttl_seconds)
        self._executor = TaskExecutor(
            reactor,
            client,
            session,
            node_id=settings.node_id,
            metrics=metrics,
            recorded=store.listing.count,
        )
        self._ends = TaskEnds(reactor, client)
        interval = settings.api.task.cleanup_interval.seconds
        self._listing = store.listing
        self._cleanup: list[Service] = []
        if settings.api.task.cleanup_enabled:
            group = Group(
                client,
                session,
                _CLEANUP_GROUP,
                settings.node_id,
                grouping_interval=settings.distribution.events_group_interval.seconds,
                reactor=reactor,
            )
            cleanup = TaskCleanup(
                reactor,
                store,
                is_owner=lambda: group.is_owner(_CLEANUP_GROUP),
                interval=interval,
            )
            self._cleanup += [group, cleanup]
        urls = Urls(
            settings.api.public_url.rstrip("/"), settings.source.http.public_url.rstrip("/")
        )
        reads = DefinitionReads(client)
        self._tails = TailHub(
            reactor,
            session,
            settings.api.tail,
            hostname=settings.hostname,
            site=partial(sample_site, reactor),
        )
        self._rejected = RejectedNodes(
            reactor,
            client,
            settings.hostname,
            now,
            settings.storage.level.local.writer.network.tls,
        )
        live = self._live = LiveDefinitions(reactor, client, session)
        self._streams = LiveHub(
            reactor,
            client,
            partial(known_ids, live),
            now,
            max_concurrent=settings.api.live.max_concurrent,
            metrics=metrics or Metrics(),
        )
        changes = DefinitionChanges(
            client,
            repository,
            targets,
            now,
            locks=session,
            readers=live,
            limit=SizeLimit(
                settings.api.definitions.max_size,
                2 * settings.api.definitions.max_size,
                settings.api.definitions.max_sinks,
            ),
        )
        self._sizes = Mirror(client, SIZE, json_values(DefinitionSize))
        watch_sizes(metrics or Metrics(), self._sizes, settings.api.definitions.max_size)
        events = SourceEvents(reactor, authority)
        tasks = ChangeTasks(self._executor, changes, events, urls)
        replayer = Replayer(
            reactor,
            client,
            repository,
            targets,
            self._rejected,
            templates,
            node_id=settings.node_id,
            row_size_limit=settings.storage.level.local.encoding.encoder.row_size_limit,
            pool=pool,
            now=now,
        )
        self._leftovers = ReplayLeftovers(reactor, client, replayer, store.is_running)
        arrivals = Arrivals(live, settings.node_id)
        pages = BuiltPages(reactor, BUILT, security_headers(urls.source))
        has_console = settings.api.console.enabled
        resources = (
            Documentation(reactor, urls=urls, pages=pages, has_console=has_console),
            ConsolePage(pages if has_console else None),
            Sources(
                reads=reads,
                live=live,
                tasks=tasks,
                urls=urls,
                targets=targets,
            ),
            Sinks(reads=reads, live=live, tasks=tasks, templates=templates, targets=targets),
            Versions(reads=reads, tasks=tasks),
            EntitySettings(reads=reads, tasks=tasks, settings=settings),
            SinkStatistics(client=client, targets=targets, reads=reads, tasks=tasks),
            Tasks(store=store, abandoned=abandoned, arrivals=arrivals, urls=urls),
            Aggregation(client=client, targets=targets, reads=reads, live=live, urls=urls),
            RecordPreview(
                reads=reads,
                templates=templates,
                limits=settings.source.http,
                now=wall_clock(reactor),
            ),
            Tails(hub=self._tails, reads=reads),
            Projects(authority=authority, now=now),
            ConnectionsList(
                connections=settings.target.connections.by_name,
                targets=targets,
                probes=Probes(reactor, targets, now),
            ),
            SinkFiles(client=client, targets=targets, reads=reads, now=now),
            TableRows(reads=reads, targets=targets),
            Live(hub=self._streams, authority=authority),
            RejectedResource(
                reads=reads,
                nodes=self._rejected,
                replayer=replayer,
                templates=templates,
                tasks=tasks,
            ),
        )
        handlers = {
            operation: handler
            for resource in resources
            for operation, handler in resource.handlers().items()
        }
        branches = Branches(reactor, client, live, authority)
        guard = Guard(reactor, authority, branches, strict=settings.api.strict)
        awaited = AwaitedTasks(ends=self._ends, arrivals=arrivals, urls=urls, handlers=handlers)
        app = build_app(
            reactor,
            guard,
            OPERATIONS,
            handlers,
            awaited=awaited.answer,
            documentation=f"{urls.api}{DOCUMENTATION}/",
        )
        self._front = Front(reactor, app.resource())
        self._site = ApiSite(self._front, reactor)

    @property
    def port_number(self) -> int:
        """The number of the open port."""
        if self._port is None:
            raise ValueError("the API isn't listening")
        number: int = self._port.getHost().port  # type: ignore[attr-defined]
        return number

    async def startService(self) -> None:
        super().startService()
        await self._live.startService()
        await self._listing.startService()
        await self._sizes.startService()
        await self._ends.startService()
        await maybeDeferred(self._executor.startService)
        await self._tails.startService()
        await maybeDeferred(self._streams.startService)
        self._rejected.startService()
        self._leftovers.startService()
        for service in self._cleanup:
            await maybeDeferred(service.startService)
        _log.info("mounted HTTP endpoints", count=len(OPERATIONS))
        _log.info('starting HTTP server on "{address}"', address=self._listen)
        try:
            self._port = await server_endpoint(self._reactor, self._listen).listen(self._site)
        except Exception:
            await self.stopService()  # the process stops only services whose start succeeded
            raise
        _log.info(
            'started HTTP server on "{address}", port {port}',
            address=self._listen,
            port=self.port_number,
        )

    async def stopService(self) -> None:
        super().stopService()
        port, self._port = self._port, None
        if port is not None:
            _log.info('shutting down HTTP server at "{address}"', address=self._listen)
            await maybeDeferred(port.stopListening)
            self._tails.end_all()
            self._streams.end_all()
            self._ends.end_all()
            await self._answered()
            self._site.hang_up()
            _log.info("HTTP server shutdown finished")
        await self._streams.stopService()
        await self._tails.stopService()
        await self._leftovers.stopService()
        await maybeDeferred(self._rejected.stopService)
        for service in reversed(self._cleanup):
            await maybeDeferred(service.stopService)
        await maybeDeferred(self._executor.stopService)
        await self._ends.stopService()
        await self._sizes.stopService()
        await self._listing.stopService()
        await self._live.stopService()

    async def _answered(self) -> None:
        """Wait for the requests in progress, up to a time limit."""
        waiting = DeferredList(self._front.in_flight)
        waiting.addTimeout(DRAIN_SECONDS, self._reactor)
        try:
            await waiting
        except TimeoutError:
            _log.warn("stopped waiting for unfinished requests")
