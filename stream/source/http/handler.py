"""The handler of requests, which finds their sources and sinks and answers them.

Note [Stages]: each request goes once through these stages, in this order:

========  =====================================================  =================================
stage     what it does                                           where
========  =====================================================  =================================
route     finds the sources by the target and the secret         `route`, `dispatcher`
decode    decodes a compressed body; answers a repeated body     `content_decoding`, `idempotency`
          with the same key again
records   makes one or many records from the body                `ingestion`, `batches`
render    renders a row for each sink                            `mapping.render`
write     writes the rows into the sinks' open slices            `sink`
answer    the completion that sinks call answers the request     `completions`, `batch_completion`
========  =====================================================  =================================

Nearly all requests contain one small, uncompressed record. They need no decoding, and one function,
`IngestHandler.handle`, takes them through all stages. `stream.source.http.ingestion` handles all
others. No stage returns an answer; it calls `Connection.finish`, immediately or later.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from stream import native
from stream.definition.key import SourceKey
from stream.errors import UserError, without_frames
from stream.ops.metrics.registry import Metrics
from stream.record.body import ready_body
from stream.record.charset import BOM
from stream.record.context import RecordContext
from stream.source.http import responses
from stream.source.http.batches import LARGE_BYTES, is_large
from stream.source.http.client import ClientAddress
from stream.source.http.completions import (
    Connection,
    FanOutCompletion,
    Received,
    SingleCompletion,
)
from stream.source.http.content_decoding import Decoder
from stream.source.http.earlier_attempts import EarlierAttempts
from stream.source.http.fast_path import FastPath, Times
from stream.source.http.head import Head, HeadReader
from stream.source.http.idempotency import IdempotencyWindow
from stream.source.http.ingestion import Ingestion, Stages
from stream.source.http.intake import Owner
from stream.source.http.parser import Request
from stream.source.http.route import Health, Ingest, NotFound, Otlp, Server
from stream.source.interfaces import SinkLookup, SinkWriter, SourceLookup
from stream.source.meters import SourceMeters
from stream.source.otlp.handler import OtlpHandler
from stream.source.turns import Turns
from stream.source.without_sink import WithoutSink
from stream.tail.sampler import TailSampler

__all__ = ["IngestHandler"]

LOG_INTERVAL = 1.0
"""Seconds between log messages about failed requests, so that overload doesn't flood the log."""

_log = Logger(namespace="http-source")

_HEALTH_METHODS = "GET, OPTIONS"
_INGEST_METHODS = "OPTIONS, POST"


class IngestHandler:
    """Answers requests of the HTTP listener.

    :param dispatcher: finds sources of type ``http``.
    :param otlp_dispatcher: finds sources of type ``otlp``.
    :param clock: returns seconds since the epoch.
    :param window: remembers requests that have an idempotency key.
    :param decoder: decodes compressed bodies.
    :param max_batch_records: maximum number of records in a request.
    :param turns: queue of long-running work.
    :param meters: meters of the sources.
    :param client_address: determines the sender's address.
    :param without_sink: handles records of sources without an enabled sink; by default they are
        accepted.
    :param new_exception_id: creates the ID that a client gets after an internal error.
    """

    def __init__(
        self,
        dispatcher: SourceLookup,
        otlp_dispatcher: SourceLookup,
        router: SinkLookup,
        *,
        clock: Callable[[], float],
        window: IdempotencyWindow,
        decoder: Decoder,
        max_batch_records: int,
        reactor: Any,
        turns: Turns,
        taps: TailSampler,
        meters: SourceMeters | None = None,
        client_address: ClientAddress | None = None,
        without_sink: WithoutSink | None = None,
        earlier: EarlierAttempts | None = None,
        new_exception_id: Callable[[], str] = responses.new_exception_id,
    ) -> None:
        self._dispatcher = dispatcher
        self._taps = taps
        self._router = router
        self._clock = clock
        meters = meters or SourceMeters(Metrics(), clock)
        self._without_sink = without_sink or WithoutSink(
            Metrics(), lambda _: False, reactor.seconds
        )
        self._meters = meters.http
        self._client_address = client_address or ClientAddress()
        self._peer_is_client = self._client_address.is_peer
        self._new_exception_id = new_exception_id
        self._log = _LimitedLog(reactor.seconds)
        self._otlp = OtlpHandler(
            otlp_dispatcher,
            router,
            decoder,
            turns,
            clock=clock,
            client_ip=self._client_ip,
            explain=self._explain,
            warn=self._log.warn,
            taps=taps,
            meters=meters.otlp,
            without_sink=self._without_sink,
        )
        self._stages = Stages(
            dispatcher=dispatcher,
            router=router,
            clock=clock,
            client_ip=self._client_ip,
            decoder=decoder,
            window=window,
            earlier=earlier,
            max_batch_records=max_batch_records,
            turns=turns,
            taps=taps,
            meters=self._meters,
            without_sink=self._without_sink,
            report=self._report_failure,
            failed=self.failed,
        )

    def handle(self, request: Request, connection: Connection) -> None:
        """Answer *request*, immediately or later; see Note [Stages].

        If it isn't answered immediately, the connection's `pending` will answer it.
        """
        head = request.head
        route = head.record_route
        body = request.body
        if route is None or (len(body) > LARGE_BYTES and is_large(head.headers, len(body))):
            self._handle_other(request, connection)
            return
        # The direct path of one small record is one function, to save the cost of calls.
        try:
            sources = self._lookup(route)
        except UserError as error:
            connection.finish(self._dispatch_failed(route, error, head))
            return
        size = len(body)
        eligible = self._router.eligible
        targets = [(source, eligible(source, "")) for source in sources]
        count = sum(len(sinks) for _, sinks in targets)
        if count > 1 and is_large(head.headers, size, count):
            self._handle_other(request, connection)
            return
        if body.startswith(BOM):
            body = ready_body(head.headers, body)
        peer = connection.peer_ip
        received_at = int(self._clock() * 1000)
        record = RecordContext(
            received_at,
            peer if self._peer_is_client else self._client_address.find(peer, head),
            head.headers,
            body,
        )
        if self._taps:
            self._taps.offer(sources, record)
        if len(targets) == 1:
            source, sinks = targets[0]
            if len(sinks) == 1:
                sink_id, writer = sinks[0]
                completion = connection.pending = SingleCompletion(
                    connection,
                    source,
                    sink_id,
                    route.verbose,
                    self._report_failure,
                    self._meters[source],
                    received_at,
                    size,
                )
                writer.write(record, completion)
                return
        completions = FanOutCompletion(
            connection,
            targets,
            route.verbose,
            self._report_failure,
            Received(self._meters, received_at, len(body)),
        )
        if not completions.writers:
            connection.finish(self._answer_without_sinks(sources, completions, head))
            return
        connection.pending = completions
        for writer, each in completions.writers:
            writer.write(record, each)

    def direct_sinks(
        self, route: Ingest
    ) -> tuple[SourceKey, Sequence[tuple[str, SinkWriter]]] | None:
        """Return the only source of *route* and its sinks, for `stream.source.http.fast_path`.

        Return ``None`` if there are several sources, or no sink. Raises UserError: the route leads
        to no source.
        """
        sources = self._lookup(route)
        if len(sources) != 1:
            return None
        sinks = self._router.eligible(sources[0], "")
        return (sources[0], sinks) if sinks else None

    def _answer_without_sinks(
        self, sources: Sequence[SourceKey], completions: FanOutCompletion, head: Head
    ) -> bytes:
        try:
            self._without_sink.check(sources)
        except UserError as error:
            completions.refused()
            return self.refuse(error, head)
        self._without_sink.count(sources, 1)
        return responses.without_sinks(completions.nothing_to_wait_for())

    def _handle_other(self, request: Request, connection: Connection) -> None:
        """Handle a request that isn't a single small record."""
        head = request.head
        route = head.route
        if head.method != b"POST" or not isinstance(route, Ingest | Otlp):
            connection.finish(self._answer_without_record(head))
            return
        try:
            if isinstance(route, Otlp):
                self._otlp.export(route, request, connection)
                return
            sources, size = self._lookup(route), len(request.body)
            Ingestion(self._stages, route, sources, head, size, connection).decode(request.body)
        except UserError as error:
            connection.finish(self._dispatch_failed(route, error, head))

    def fast_path(
        self, times: Times, heads: HeadReader, max_head: int, max_body: int
    ) -> FastPath | None:
        """Return the fast path of a listener; ``None`` if the native code isn't built.

        :param times: factory of the listener's connections.
        :param heads: reader of heads, shared by the connections.
        """
        if not native.is_built:
            return None
        return FastPath(
            times,
            heads,
            self.direct_sinks,
            needs_head=not self._peer_is_client,
            clock=self._clock,
            taps=self._taps,
            meters=self._meters,
            report=self._report_failure,
            max_head=max_head,
            max_body=max_body,
            max_records=self._stages.max_batch_records,
        )

    def check(self, head: Head) -> bytes | None:
        """Check whether the body of a request may follow; return the answer if it may not.

        The body may follow if the request has a valid source. Secrets are checked here, so that
        bodies of unknown clients aren't read.
        """
        route = head.route
        if head.method != b"POST" or not isinstance(route, Ingest | Otlp):
            return self._answer_without_record(head)
        try:
            if isinstance(route, Otlp):
                self._otlp.lookup(route, head)
            else:
                self._lookup(route)
        except UserError as error:
            return self._dispatch_failed(route, error, head)
        return None

    def owner(self, head: Head) -> Owner:
        """Return the project and source of a request that has a valid source."""
        route = head.route
        assert isinstance(route, Ingest | Otlp)
        return route.project, route.source_id

    def _dispatch_failed(self, route: Ingest | Otlp, error: UserError, head: Head) -> bytes:
        self._log.warn(
            "dispatch failed: {reason}",
            project_id=route.project,
            source_id=route.source_id,
            reason=str(error),
        )
        return self.refuse(error, head)

    def refuse(self, error: UserError, head: Head | None = None) -> bytes:
        """Return the answer to a malformed request, or to one without a valid source.

        :param head: head of the request, if it was readable.
        """
        if head is not None and isinstance(head.route, Otlp):
            return self._otlp.failed(Failure(error), head)
        return self.failed(Failure(error))

    def failed(self, failure: Failure) -> bytes:
        """Return the answer to a request that failed as a whole, for any reason."""
        return responses.error_envelope(*self._explain(failure))

    def crashed(self) -> bytes:
        """Return the answer to an internal error; the exception is the one being handled."""
        return self.failed(Failure())

    def _explain(self, failure: Failure) -> tuple[UserError, str]:
        """Return the error to show for *failure*, and the ID of its log message, if it has one."""
        error = failure.value
        if isinstance(error, UserError):
            return without_frames(error), self._new_exception_id() if error.status >= 500 else ""
        exception_id = self._new_exception_id()
        self._log.failure("request failed, exception id {exception_id}", exception_id, failure)
        return UserError("", status=500, name="internalError"), exception_id

    def _answer_without_record(self, head: Head) -> bytes:
        route = head.route
        if isinstance(route, Server) and head.method == b"OPTIONS":
            return responses.OPTIONS_ANY
        if isinstance(route, NotFound | Server):
            return self.refuse(
                UserError(
                    "not found, please send data using "
                    "POST /stream/<projectID>/<sourceID>/<secret>",
                    status=404,
                    name="routeNotFound",
                )
            )
        is_health = isinstance(route, Health)
        allow = _HEALTH_METHODS if is_health else _INGEST_METHODS
        if head.method == b"OPTIONS":
            requested = head.headers.map.get("Access-Control-Request-Headers", "")
            return responses.options(allow, requested)
        if is_health and head.method == b"GET":
            return responses.HEALTH
        return responses.method_not_allowed(allow)

    def _lookup(self, route: Ingest) -> Sequence[SourceKey]:
        """Return the sources that *route* leads to. Raises UserError."""
        if route.project_id is None:
            raise UserError(f'invalid project ID "{route.project}"')
        return self._dispatcher.lookup(route.project_id, route.source_id, route.secret)

    def _client_ip(self, peer: str, head: Head) -> str:
        return peer if self._peer_is_client else self._client_address.find(peer, head)

    def _report_failure(
        self, source: SourceKey, sinks: int, failed: Sequence[tuple[str, Exception]]
    ) -> None:
        if not self._log.is_due():
            return
        ours = any(not isinstance(error, UserError) or error.status >= 500 for _, error in failed)
        self._log.write(
            LogLevel.error if ours else LogLevel.warn,
            "source record processing failed: {failed}/{sinks} sinks failed. "
            "Failed sinks: {reasons}",
            source_id=str(source),
            failed=len(failed),
            sinks=sinks,
            reasons="; ".join(
                f"sink {sink_id}: {responses.error_message(error)}" for sink_id, error in failed
            ),
        )


class _LimitedLog:
    """A throttled log that counts suppressed messages."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._next = 0.0
        self._suppressed = 0

    def is_due(self) -> bool:
        """Return whether the next message is to be written; if not, it counts as suppressed."""
        now = self._clock()
        if now < self._next:
            self._suppressed += 1
            return False
        self._next = now + LOG_INTERVAL
        return True

    def warn(self, template: str, **fields: object) -> None:
        if self.is_due():
            self.write(LogLevel.warn, template, **fields)

    def failure(self, template: str, value: str, failure: Failure | None = None) -> None:
        """Log *failure*, or the exception being handled. This message is never suppressed."""
        _log.failure(template, failure, reason=value, exception_id=value)

    def write(self, level: LogLevel, template: str, **fields: object) -> None:
        suppressed, self._suppressed = self._suppressed, 0
        if suppressed:
            template += " ({suppressed} similar entries suppressed)"
        _log.emit(level, template, suppressed=suppressed, **fields)
