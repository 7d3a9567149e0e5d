"""From a request to its answer: routes, sources, sinks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from stream.definition.key import SourceKey
from stream.errors import UserError, let_go
from stream.ops.metrics.registry import Metrics
from stream.record.body import ready_body
from stream.record.charset import BOM
from stream.record.context import RecordContext
from stream.record.elements import is_batch
from stream.record.headers import RecordHeaders
from stream.source.http import responses
from stream.source.http.answers import (
    Connection,
    FanOutCompletion,
    Received,
    SingleAnswer,
    Targets,
    write_record,
)
from stream.source.http.client import ClientAddress
from stream.source.http.decoding import Decoder
from stream.source.http.head import Head
from stream.source.http.idempotency import Attempt, IdempotencyWindow, fingerprint_of
from stream.source.http.intake import Owner
from stream.source.http.parser import Request
from stream.source.http.route import Health, Ingest, NotFound, Otlp, Route, Server, find_route
from stream.source.http.special import LARGE_BYTES, SpecialWriter, is_large
from stream.source.interfaces import IDispatcher, IRouter
from stream.source.meters import SourceMeters
from stream.source.otlp.handler import OtlpHandler
from stream.source.turns import Turns
from stream.tail.sampler import TailSampler

__all__ = ["IngestHandler"]

LOG_INTERVAL = 1.0
"""Seconds between two log entries about failed requests: overload must not become log load."""

_log = Logger(namespace="http-source")

_HEALTH_METHODS = "GET, OPTIONS"
_INGEST_METHODS = "OPTIONS, POST"


class IngestHandler:
    """Answers requests of the HTTP listener.

    :param dispatcher: finds sources of type ``http``.
    :param otlp_dispatcher: finds sources of type ``otlp``.
    :param clock: seconds since the epoch.
    :param window: remembers requests that came with a key.
    :param decoder: decodes compressed bodies.
    :param max_batch_records: records that one request may hold.
    :param turns: where work is done that takes long.
    :param meters: of the sources.
    :param client_address: who counts as the sender.
    :param new_exception_id: makes the id that a client is told when the fault is ours.
    """

    def __init__(
        self,
        dispatcher: IDispatcher,
        otlp_dispatcher: IDispatcher,
        router: IRouter,
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
        new_exception_id: Callable[[], str] = responses.new_exception_id,
    ) -> None:
        self._dispatcher = dispatcher
        self._taps = taps
        self._router = router
        self._clock = clock
        meters = meters or SourceMeters(Metrics(), clock)
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
        )
        self._window = window
        self._decoder = decoder
        self._special = SpecialWriter(
            max_batch_records,
            turns,
            report=self._report_failure,
            taps=taps,
            meters=self._meters,
        )

    def handle(self, request: Request, connection: Connection) -> bytes | None:
        """Answer *request*, or set the connection's `pending` to what will answer it.

        :returns: the answer if it is known at once, else ``None``.
        """
        head = request.head
        route = head.route
        if route is None:
            route = head.route = find_route(head.target)
        if head.method == b"POST" and isinstance(route, Ingest | Otlp):
            try:
                if type(route) is Ingest:
                    return self._ingest(route, request, connection)
                return self._otlp.export(route, request, connection)  # type: ignore[arg-type]
            except UserError as error:
                return self._dispatch_failed(route, error, head)
        return self._answer_without_record(head, route)  # type: ignore[arg-type]

    def check(self, head: Head) -> bytes | None:
        """Whether the body of a request may follow: the answer if it may not.

        It may if it leads to a source. Secrets are looked up here, so that a stranger's bodies
        aren't taken.
        """
        route: Any = head.route
        if route is None:
            route = head.route = find_route(head.target)
        if head.method != b"POST" or not isinstance(route, Ingest | Otlp):
            return self._answer_without_record(head, route)
        try:
            if isinstance(route, Otlp):
                self._otlp.lookup(route, head)
            else:
                self._lookup(route)
        except UserError as error:
            return self._dispatch_failed(route, error, head)
        return None

    def owner(self, head: Head) -> Owner:
        """Project and source of a request that was found to lead to a source."""
        route: Any = head.route
        return route.project, route.source_id

    def _dispatch_failed(self, route: Ingest | Otlp, error: UserError, head: Head) -> bytes:
        self._log.warn(
            "dispatch failed: {reason}",
            project_id=route.project,
            source_id=route.source_id,
            reason=str(error),
        )
        if isinstance(route, Otlp):
            return self._otlp.failed(Failure(error), head)
        return self.refuse(error)

    def refuse(self, error: UserError, head: Head | None = None) -> bytes:
        """The answer to a request that can't be read, or leads nowhere.

        :param head: of the request, if it could be read.
        """
        if head is not None and isinstance(find_route(head.target), Otlp):
            return self._otlp.failed(Failure(error), head)
        return self.failed(Failure(error))

    def failed(self, failure: Failure) -> bytes:
        """The answer to a request that failed as a whole, whoever's fault it is."""
        return responses.error_envelope(*self._explain(failure))

    def crashed(self) -> bytes:
        """The answer when the fault is ours; the exception is the one that is being handled."""
        return self.failed(Failure())

    def _explain(self, failure: Failure) -> tuple[UserError, str]:
        """What is told of *failure*, and the id by which it is found in the log, if it is there."""
        error = failure.value
        if isinstance(error, UserError):
            return let_go(error), self._new_exception_id() if error.status >= 500 else ""
        exception_id = self._new_exception_id()
        self._log.failure("request failed, exception id {exception_id}", exception_id, failure)
        return UserError("", status=500, name="internalError"), exception_id

    def _answer_without_record(self, head: Head, route: Route) -> bytes:
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

    def _ingest(self, route: Ingest, request: Request, connection: Connection) -> bytes | None:
        project_id, sources = self._lookup(route)
        head = request.head
        body = request.body
        if (
            not head.ordinary
            or route.batch is not None
            or (len(body) > LARGE_BYTES and is_large(head.headers, len(body)))
        ):
            return self._ingest_special(project_id, route, sources, request, connection)
        if body[:3] == BOM:
            body = ready_body(head.headers, body)
        record = self._record(head, head.headers, body, connection)
        if self._taps:
            self._taps.offer(sources, record)
        if len(sources) == 1:
            source = sources[0]
            sinks = self._router.eligible(source, "")
            if len(sinks) == 1:
                sink_id, writer = sinks[0]
                answer = SingleAnswer(
                    connection,
                    source,
                    sink_id,
                    route.verbose,
                    self._report_failure,
                    self._meters[source],
                    record.timestamp_ms,
                    len(request.body),
                )
                connection.pending = answer
                write_record(writer, record, answer, _log)
                return None
            return self._write_to_many(((source, sinks),), record, route.verbose, connection)
        targets = tuple((source, self._router.eligible(source, "")) for source in sources)
        return self._write_to_many(targets, record, route.verbose, connection)

    def _lookup(self, route: Ingest) -> tuple[int, Sequence[SourceKey]]:
        """Project and sources that *route* leads to. Raises UserError."""
        project_id = route.project_id
        if project_id is None:
            raise UserError(f'invalid project ID "{route.project}"')
        return project_id, self._dispatcher.lookup(project_id, route.source_id, route.secret)

    def _record(
        self, head: Head, headers: RecordHeaders, body: bytes, connection: Connection
    ) -> RecordContext:
        return RecordContext(
            int(self._clock() * 1000), self._client_ip(connection.peer_ip, head), headers, body
        )

    def _client_ip(self, peer: str, head: Head) -> str:
        return peer if self._peer_is_client else self._client_address.find(peer, head)

    def _ingest_special(
        self,
        project_id: int,
        route: Ingest,
        sources: Sequence[SourceKey],
        request: Request,
        connection: Connection,
    ) -> bytes | None:
        """A request whose body isn't simply one record; see `stream.source.http.special`."""
        head, received = request.head, request.body
        at = int(self._clock() * 1000)

        def write(body: bytes) -> bytes | None:
            return self._write_once(project_id, route, sources, head, body, connection, failed)

        def count() -> None:
            for source in sources:
                self._meters[source].answered(at, len(received), failed=True)

        def failed(failure: Failure) -> bytes:
            count()
            return self.failed(failure)

        try:
            if not head.encoding:
                return write(received)
            key = project_id, route.source_id
            return self._decoder.answer(key, head.encoding, received, connection, write, failed)
        except Exception:
            count()  # as one record: nobody knows how many they are
            raise

    def _write_once(
        self,
        project_id: int,
        route: Ingest,
        sources: Sequence[SourceKey],
        head: Head,
        body: bytes,
        connection: Connection,
        failed: Callable[[Failure], bytes],
    ) -> bytes | None:
        """Take a decoded *body*; one that comes again with the same key is answered again only.

        :param failed: the answer when an attempt with a key fails as a whole.
        """
        key = head.idempotency_key
        if key is None:
            return self._write_body(route, sources, head, body, connection, failed)
        fingerprint = fingerprint_of(head.headers.content_type, body)
        begun = self._window.begin(project_id, route.source_id, key, fingerprint, connection)
        if not isinstance(begun, Attempt):
            return begun
        try:
            answer = self._write_body(route, sources, head, body, begun, failed)
        except Exception:
            answer = failed(Failure())
        if answer is not None:
            begun.finish(answer)
        return None

    def _write_body(
        self,
        route: Ingest,
        sources: Sequence[SourceKey],
        head: Head,
        body: bytes,
        connection: Connection,
        failed: Callable[[Failure], bytes],
    ) -> bytes | None:
        headers = head.headers
        if headers.is_text and self._dispatcher.reads_text_as_json(sources):
            headers = headers.of_json
        record = self._record(head, headers, ready_body(headers, body), connection)
        targets: Targets = tuple((source, self._router.eligible(source, "")) for source in sources)
        if isinstance(connection, Attempt):
            targets = connection.missing(targets)
        if is_batch(route.batch, headers):
            self._special.write_batch(record, targets, route.verbose, connection, failed)
            return None
        if self._taps:
            self._taps.offer(sources, record)
        if is_large(headers, len(record.body)):
            self._special.write_large(record, targets, route.verbose, connection, failed)
            return None
        return self._write_to_many(targets, record, route.verbose, connection)

    def _write_to_many(
        self, targets: Targets, record: RecordContext, verbose: bool, connection: Connection
    ) -> bytes | None:
        answers = FanOutCompletion(
            connection,
            targets,
            verbose,
            self._report_failure,
            Received(self._meters, record.timestamp_ms, len(record.body)),
        )
        if not answers.writers:
            return answers.nothing_to_wait_for()
        connection.pending = answers
        for writer, answer in answers.writers:
            write_record(writer, record, answer, _log)
        return None

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
    """A log that leaves entries out, and counts them, when there are too many."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._next = 0.0
        self._left_out = 0

    def is_due(self) -> bool:
        """Whether the next entry is written; if not, it counts as left out."""
        now = self._clock()
        if now < self._next:
            self._left_out += 1
            return False
        self._next = now + LOG_INTERVAL
        return True

    def warn(self, template: str, **fields: object) -> None:
        if self.is_due():
            self.write(LogLevel.warn, template, **fields)

    def failure(self, template: str, value: str, failure: Failure | None = None) -> None:
        """*failure*, or the exception being handled; never left out."""
        _log.failure(template, failure, reason=value, exception_id=value)

    def write(self, level: LogLevel, template: str, **fields: object) -> None:
        left_out, self._left_out = self._left_out, 0
        if left_out:
            template += " ({left_out} similar entries left out)"
        _log.emit(level, template, left_out=left_out, **fields)
