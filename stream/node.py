"""What the components of one node share: etcd, the session, the Storage API, the storage model.

Everything is made on first use and started, in the order of use, by whoever composes the node
(`stream.components`).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import cached_property, partial
from typing import Any

from twisted.application.service import IService, Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool

from stream.definition import prefix as definition_prefix
from stream.definition.entity import Sink, Source
from stream.encryption import configured_encryptor
from stream.encryption.interface import IEncryptor
from stream.errors import UserError
from stream.etcd import EtcdClient, Group, Mirror, Session, json_values
from stream.keboola.client import StorageApi
from stream.keboola.events import EventSender
from stream.keboola.imports import FileImporter
from stream.keboola.provider import KeboolaFileProvider
from stream.keboola.uploads import SliceUploader
from stream.ops.metrics import Metrics
from stream.ops.pool import LeavablePool
from stream.settings import Settings
from stream.storage import prefix as storage_prefix
from stream.storage.allocation import largest_recent_slice
from stream.storage.coordinator.work import CoordinatorWork
from stream.storage.opening import DefinitionChanges
from stream.storage.operation_meter import OperationMeter
from stream.storage.repository import StorageRepository
from stream.storage.volume import Volume
from stream.telemetry import watch_etcd, watch_lease, watch_threads
from stream.values.utctime import from_timestamp

__all__ = ["Node", "PoolService"]

_THREADS = 4
LEAVE_SECONDS = 5.0
"""How long a stop waits for threads whose work was given up."""

_log = Logger()


class PoolService(Service):
    """A bounded thread pool that lives as long as the node.

    A thread that still waits for a far end then (an upload that was given up) is left behind: it
    ends with the process.
    """

    def __init__(self, reactor: Any, name: str, threads: int) -> None:
        self._reactor = reactor
        self.pool = LeavablePool(0, threads, name=name)

    def startService(self) -> None:
        super().startService()
        self.pool.start()

    async def stopService(self) -> None:
        """Fires when no thread runs any more, or those left have had some time."""
        super().stopService()
        if not await self.pool.leave(self._reactor, LEAVE_SECONDS):
            _log.warn("left behind threads that do not end", pool=self.pool.name)


class StorageApiService(Service):
    """Asks the Storage API what it offers, so that the first change needn't, and closes the
    connections to it at the end.

    The start doesn't wait for the answer: an API that is away keeps no component from its other
    work, and what needs the index asks again.
    """

    def __init__(self, api: StorageApi) -> None:
        self.api = api
        self._loading: Deferred[None] | None = None

    def startService(self) -> None:
        super().startService()
        _log.info("loading Storage API index without components")
        self._loading = Deferred.fromCoroutine(self._load())

    async def _load(self) -> None:
        try:
            await self.api.index()
        except CancelledError:
            raise
        except UserError as error:
            _log.warn("cannot load the Storage API index yet: {error}", error=str(error))
        except Exception:
            _log.failure("cannot load the Storage API index yet")

    async def stopService(self) -> None:
        super().stopService()
        if self._loading is not None:
            self._loading.addErrback(lambda failure: failure.trap(CancelledError))
            self._loading.cancel()
            await self._loading
        await self.api.close()


class Node:
    """:ivar services: what has been made and must be started, in order."""

    def __init__(self, settings: Settings, reactor: Any) -> None:
        self.settings = settings
        self.reactor = reactor
        self.metrics = Metrics()
        self.services: list[IService] = []

    def _add(self, service: Any) -> Any:
        self.services.append(service)
        return service

    def now(self) -> datetime:
        return from_timestamp(self.reactor.seconds())

    @cached_property
    def client(self) -> EtcdClient:
        etcd = self.settings.etcd
        client: EtcdClient = self._add(
            EtcdClient(
                self.reactor,
                [part.strip() for part in etcd.endpoint.split(",") if part.strip()],
                etcd.namespace,
                username=etcd.username,
                password=etcd.password,
                connect_timeout=etcd.connect_timeout.seconds,
                log_operations=etcd.debug_log,
            )
        )
        watch_etcd(self.metrics, client)
        return client

    @cached_property
    def session(self) -> Session:
        session: Session = self._add(
            Session(self.client, ttl=self.settings.distribution.ttl_seconds, reactor=self.reactor)
        )
        watch_lease(self.metrics, session, "node")
        return session

    @cached_property
    def volume_session(self) -> Session:
        """Volumes have a lease of their own: another time to live."""
        ttl = self.settings.storage.level.local.volume.registration.ttl_seconds
        session: Session = self._add(Session(self.client, ttl=ttl, reactor=self.reactor))
        watch_lease(self.metrics, session, "volumes")
        return session

    @cached_property
    def pool(self) -> ThreadPool:
        """For uploads and compression."""
        service: PoolService = self._add(PoolService(self.reactor, "work", _THREADS))
        watch_threads(self.metrics, {"work": service.pool, "reactor": self.reactor.getThreadPool()})
        return service.pool

    def group(self, name: str) -> Group:
        """This node's membership in a group; whoever asks starts it."""
        distribution = self.settings.distribution
        return Group(
            self.client,
            self.session,
            name,
            self.settings.node_id,
            grouping_interval=distribution.events_group_interval.seconds,
            reactor=self.reactor,
        )

    @cached_property
    def storage_api(self) -> StorageApi:
        service: StorageApiService = self._add(
            StorageApiService(
                StorageApi(
                    self.reactor,
                    self.settings.storage_api_host,
                    metrics=self.metrics,
                    log_exchanges=self.settings.debug_http_client,
                )
            )
        )
        return service.api

    @cached_property
    def encryptor(self) -> IEncryptor:
        return configured_encryptor(self.settings.encryption, self.reactor, self.pool)

    @cached_property
    def volumes(self) -> Mirror[Volume]:
        """The volumes registered in the cluster."""
        mirror: Mirror[Volume] = self._add(
            Mirror(
                self.client,
                storage_prefix.WRITER_VOLUME,
                json_values(Volume),
            )
        )
        return mirror

    def registered_volumes(self) -> Sequence[Volume]:
        return list(self.volumes.items.values())

    def volume(self, volume_id: str) -> Volume | None:
        return self.volumes.items.get(f"{storage_prefix.WRITER_VOLUME}{volume_id}")

    @cached_property
    def repository(self) -> StorageRepository:
        _ = self.volumes
        return StorageRepository(
            self.settings.storage.level,
            self.registered_volumes,
            partial(largest_recent_slice, self.client),
            self.settings.sink.dead_letter,
        )

    @cached_property
    def file_provider(self) -> KeboolaFileProvider:
        return KeboolaFileProvider(self.client, self.storage_api, self.encryptor, self.reactor)

    @cached_property
    def definition_changes(self) -> DefinitionChanges:
        return DefinitionChanges(self.client, self.repository, self.file_provider, self.now)

    @cached_property
    def events(self) -> EventSender:
        timeout = self.settings.sink.table.keboola.event_send_timeout.seconds
        return EventSender(self.storage_api, timeout, self.reactor)

    @cached_property
    def uploader(self) -> SliceUploader:
        return SliceUploader(
            self.client,
            self.session,
            self.encryptor,
            self.events,
            self.pool,
            self.reactor,
            lock_timeout=self.settings.storage.level.staging.operator.slice_upload_timeout.seconds,
        )

    @cached_property
    def importer(self) -> FileImporter:
        return FileImporter(
            self.client,
            self.storage_api,
            self.encryptor,
            self.events,
            self.reactor,
            job_timeout=self.settings.storage.level.target.operator.file_import_timeout.seconds,
        )

    @cached_property
    def coordinator_work(self) -> CoordinatorWork:
        return CoordinatorWork(
            client=self.client,
            session=self.session,
            repository=self.repository,
            reactor=self.reactor,
            now=self.now,
            sinks=Mirror(self.client, definition_prefix.SINK_ACTIVE, json_values(Sink)),
            meter=OperationMeter(self.metrics, self.reactor.seconds),
            sources=Mirror(self.client, definition_prefix.SOURCE_ACTIVE, json_values(Source)),
        )
