"""The http-source component: the listener, with sources and sinks from etcd."""

from __future__ import annotations

import resource
from collections.abc import Sequence
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import maybeDeferred
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger

from stream.definition import prefix
from stream.definition.entity import Source
from stream.definition.key import SourceKey
from stream.etcd import Batch, EtcdClient, KeyValue, Mirror
from stream.ops.clock import wall_clock
from stream.ops.endpoint import server_endpoint
from stream.ops.metrics.registry import Metrics
from stream.ops.process.reactor import EventServer
from stream.ops.process.thread_pool import ThreadPoolService
from stream.settings.overrides import SOURCE, merge
from stream.settings.tree import HTTPSourceSettings, SourceSettings
from stream.source.dispatcher import Dispatcher, SourceEntry
from stream.source.http.client import ClientAddress
from stream.source.http.content_decoding import THREADS, Decoder
from stream.source.http.earlier_attempts import Away, EarlierAttempts, Enquirer
from stream.source.http.handler import IngestHandler
from stream.source.http.idempotency import IdempotencyWindow
from stream.source.http.protocol import IngestFactory, Limits
from stream.source.interfaces import SinkLookup
from stream.source.meters import SourceMeters
from stream.source.turns import Turns
from stream.source.without_sink import WithoutSink
from stream.tail.sampler import TailSampler
from stream.tail.sender import TailSender
from stream.values.codec import decode

__all__ = ["HttpSourceService"]

_log = Logger(namespace="stream.http-source")

_LAST_ACCEPTS = 64
"""Number of accept calls when the service stops; each accepts one or more connections."""

LEAVE_SECONDS = 1.0
"""How long, after a stop, a connection in use may stay open to learn of it from an answer."""

BACKLOG = 4096
"""Maximum number of connections waiting to be accepted."""


class HttpSourceService(Service):
    """The source node's service, which receives records and follows changes of definitions.

    :param router: router of the records; started before and stopped after this service.
    :param hostname: name at which other nodes reach this node.
    :param metrics: metrics of records.
    :param enquire: asks the writers which rows are stored of requests with idempotency keys.
    :param away: returns volumes of unavailable writers; see `EarlierAttempts`.
    """

    def __init__(
        self,
        reactor: Any,
        client: EtcdClient,
        settings: SourceSettings,
        router: SinkLookup,
        *,
        hostname: str,
        metrics: Metrics | None = None,
        enquire: Enquirer | None = None,
        away: Away = lambda _: (),
    ) -> None:
        http = settings.http
        earlier = None
        if enquire is not None and http.idempotency.ask_writers:
            earlier = EarlierAttempts(reactor, enquire, away)
        self._threads = ThreadPoolService(reactor, "decoding", THREADS)
        metrics = metrics or Metrics()
        self._meters = SourceMeters(metrics, wall_clock(reactor))
        self._reactor = reactor
        self._listen = http.listen
        self._share_port = http.share_port
        self._dispatcher = Dispatcher("http")
        self._otlp_dispatcher = Dispatcher("otlp")
        self._sources: Mirror[SourceEntry] = Mirror(
            client,
            prefix.SOURCE_ACTIVE,
            lambda kv: _entry(settings, kv),
            on_change=self._sources_changed,
        )
        taps = TailSampler()
        turns = Turns(reactor)
        self._tails = TailSender(reactor, client, taps, host=hostname)
        handler = IngestHandler(
            self._dispatcher,
            self._otlp_dispatcher,
            router,
            clock=wall_clock(reactor),
            window=IdempotencyWindow(
                http.idempotency.window.seconds,
                http.idempotency.max_keys,
                reactor.seconds,
            ),
            decoder=Decoder(http.max_decoded_body_size, reactor, self._threads.pool, turns),
            max_batch_records=http.max_batch_records,
            reactor=reactor,
            turns=turns,
            taps=taps,
            meters=self._meters,
            client_address=ClientAddress(http.trusted_proxies),
            earlier=earlier,
            without_sink=WithoutSink(metrics, self._refuses_without_sink, reactor.seconds),
        )
        limits = _limits(http)
        self._factory = IngestFactory(handler, limits, reactor, clock=wall_clock(reactor))
        self._factory.fast = handler.fast_path(
            self._factory, self._factory.heads, limits.max_head, limits.max_body
        )
        self._event_servers: list[EventServer] | None = getattr(reactor, "event_servers", None)
        self.port: IListeningPort | None = None

    async def startService(self) -> None:
        """Start, and wait until all sources are known and the port is open."""
        super().startService()
        _log.info("starting HTTP source node")
        self._threads.startService()
        await self._sources.startService()
        await self._tails.startService()
        endpoint = server_endpoint(
            self._reactor, self._listen, backlog=BACKLOG, shared=self._share_port
        )
        self.port = await endpoint.listen(self._factory)
        if self._event_servers is not None and self._factory.fast is not None:
            self._event_servers.append(self._factory.fast.connections.serve)
        _log.info('started HTTP source on "{listen}"', listen=self._listen)

    async def stopService(self) -> None:
        """Stop, and wait until every request is answered and no connection is open."""
        super().stopService()
        _log.info('shutting down HTTP source at "{listen}"', listen=self._listen)
        if self.port is not None:
            _accept_waiting(self.port)
            await maybeDeferred(self.port.stopListening)
            await self._factory.stop()
            if self._event_servers is not None and self._factory.fast is not None:
                self._event_servers.remove(self._factory.fast.connections.serve)
        await self._threads.stopService()
        for dispatcher in (self._dispatcher, self._otlp_dispatcher):
            dispatcher.close()
        await self._tails.stopService()
        await self._sources.stopService()
        _log.info("HTTP source shutdown done")

    @property
    def connections(self) -> int:
        """The number of open connections of producers."""
        return self._factory.connection_count

    @property
    def held_bytes(self) -> int:
        """The number of bytes of large or incomplete requests that these connections hold."""
        return self._factory.held_bytes

    def _refuses_without_sink(self, sources: Sequence[SourceKey]) -> bool:
        return any(
            dispatcher.refuses_without_sink(sources)
            for dispatcher in (self._dispatcher, self._otlp_dispatcher)
        )

    def _sources_changed(self, batch: Batch[SourceEntry]) -> None:
        if batch.reset:
            self._meters.keep({_source_key(change.key) for change in batch.changes})
        for dispatcher in (self._dispatcher, self._otlp_dispatcher):
            if batch.reset:
                dispatcher.clear()
            for change in batch.changes:
                if change.value is not None:
                    dispatcher.put(change.value)
                else:
                    dispatcher.remove(_source_key(change.key))
                    self._meters.forget(_source_key(change.key))


def _entry(settings: SourceSettings, kv: KeyValue) -> SourceEntry:
    source = decode(Source, kv.value)
    own = merge(settings, [(item.key, item.value) for item in source.config], below=SOURCE)
    return SourceEntry(
        source.key,
        source.type,
        source.is_enabled,
        source.secret,
        own.http.read_text_as_json,
        own.without_sink == "refuse",
    )


def _accept_waiting(port: Any) -> None:
    """Accept the waiting connections, which would be reset when the port closes."""
    for _ in range(_LAST_ACCEPTS):
        port.doRead()


def _source_key(key: str) -> SourceKey:
    project, branch, source = key.removeprefix(prefix.SOURCE_ACTIVE).split("/")
    return SourceKey(int(project), int(branch), source)


def _max_connections(wanted: int) -> int:
    """Return *wanted*, limited to three quarters of the file descriptors of the process."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    possible = max(files * 3 // 4, 1)
    if files == resource.RLIM_INFINITY or wanted <= possible:
        return wanted
    _log.warn(
        "at most {possible} connections instead of {wanted}: the limit of open files is {files}",
        possible=possible,
        wanted=wanted,
        files=files,
    )
    return possible


def _limits(settings: HTTPSourceSettings) -> Limits:
    return Limits(
        max_head=settings.read_buffer_size,
        max_body=settings.max_request_body_size,
        max_connections=_max_connections(settings.max_connections),
        max_held=settings.max_held_size,
        request_timeout=settings.request_timeout.seconds,
        idle_timeout=settings.idle_timeout.seconds,
        min_upload_rate=settings.min_upload_rate,
        leave_seconds=LEAVE_SECONDS,
    )
