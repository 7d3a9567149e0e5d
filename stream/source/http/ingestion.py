"""The stages of a request that isn't a single small record.

See Note [Stages] in `stream.source.http.handler`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import attrs
from twisted.python.failure import Failure

from stream.definition.key import SourceKey
from stream.ops.metrics.registry import SourceMeter
from stream.record.body import ready_body, ready_steps
from stream.record.charset import MAX_UTF8_BYTES
from stream.record.context import RecordContext
from stream.record.elements import is_batch
from stream.record.errors import BodyTooLarge
from stream.record.headers import RecordHeaders
from stream.sink.outcome import not_stored
from stream.source.http import responses
from stream.source.http.batches import (
    LARGE_BYTES,
    Arrived,
    batch_steps,
    is_large,
    record_steps,
)
from stream.source.http.completions import Connection, ReportFailure, Waited
from stream.source.http.content_decoding import Decoder
from stream.source.http.earlier_attempts import EarlierAttempts
from stream.source.http.head import Head
from stream.source.http.idempotency import Attempt, IdempotencyWindow, fingerprint_of
from stream.source.http.route import Ingest
from stream.source.interfaces import SinkLookup, SourceLookup
from stream.source.turns import Steps, Turns
from stream.source.without_sink import WithoutSink
from stream.storage.network.interface import StoredRows
from stream.tail.sampler import TailSampler

__all__ = ["Ingestion", "Stages"]


@attrs.frozen(eq=False, kw_only=True)
class Stages:
    """The objects that the stages of all requests of a listener share.

    :ivar clock: returns seconds since the epoch.
    :ivar client_ip: returns the sender's address of a request that a peer has sent.
    :ivar decoder: decodes compressed bodies.
    :ivar window: remembers requests that have an idempotency key.
    :ivar earlier: finds rows of these requests that are stored elsewhere; ``None`` if writers
        aren't asked.
    :ivar max_batch_records: maximum number of records in a request.
    :ivar turns: queue of long-running work.
    :ivar taps: taps of live tails.
    :ivar meters: meters of the sources.
    :ivar without_sink: handles records of sources without an enabled sink.
    :ivar report: called with the sinks that failed.
    :ivar failed: returns the answer to a request that failed as a whole.
    """

    dispatcher: SourceLookup
    router: SinkLookup
    clock: Callable[[], float]
    client_ip: Callable[[str, Head], str]
    decoder: Decoder
    window: IdempotencyWindow
    earlier: EarlierAttempts | None
    max_batch_records: int
    turns: Turns
    taps: TailSampler
    meters: Mapping[SourceKey, SourceMeter]
    without_sink: WithoutSink
    report: ReportFailure
    failed: Callable[[Failure], bytes]


class Ingestion:
    """One request from decoding to its sinks; their completion answers it.

    :param sources: sources of the request's route.
    :param size: size of the body as received, in bytes.
    """

    __slots__ = ("_at", "_head", "_route", "_size", "_sources", "_stages", "_waited")

    def __init__(
        self,
        stages: Stages,
        route: Ingest,
        sources: Sequence[SourceKey],
        head: Head,
        size: int,
        connection: Connection,
    ) -> None:
        self._stages = stages
        self._route = route
        self._sources = sources
        self._head = head
        self._size = size
        self._at = int(stages.clock() * 1000)
        self._waited = Waited(connection)

    def decode(self, body: bytes) -> None:
        """Decode *body* and run the other stages, immediately or later.

        Raises Exception: an immediate failure, which is already counted. The caller must answer it.
        """
        head, decoder = self._head, self._stages.decoder
        try:
            if head.encoding:
                key = self._route.project_id, self._route.source_id
                waited = self._waited
                decoder.decode(key, head.encoding, body, waited, self._recognise, self._failed)
            else:
                self._recognise(body)
        except Exception:
            self._count_failure()
            raise

    def _recognise(self, body: bytes) -> None:
        """Answer a repeated body with the same key again, without writing it again."""
        route, key = self._route, self._head.idempotency_key
        if key is None:
            self._write(body)
            return
        assert route.project_id is not None
        begun = self._stages.window.begin(
            route.project_id,
            route.source_id,
            key,
            fingerprint_of(self._head.headers.content_type, body),
            self._waited.connection,
        )
        if isinstance(begun, bytes):
            self._waited.finish(begun)
        elif begun is not None:
            self._waited = Waited(begun)
            earlier = self._stages.earlier
            if earlier is None:
                self._carry_out(begun, body, ())
                return
            asked = earlier.ask(begun.enquiry(), self._sources, self._head.attempt, len(body))
            asked.addCallbacks(
                lambda stored: self._carry_out(begun, body, stored),
                lambda failure: begun.finish(self._not_known(failure)),
            )

    def _not_known(self, failure: Failure) -> bytes:
        """Return the answer for the case that a writer with possible rows doesn't answer."""
        self._count_failure()
        cause = failure.value
        error = not_stored(cause if isinstance(cause, Exception) else RuntimeError(repr(cause)))
        members = {
            "statusCode": error.status,
            "error": responses.error_name(error),
            "message": responses.error_message(error),
        }
        return responses.document(error.status, members)

    def _carry_out(self, attempt: Attempt, body: bytes, stored: Sequence[StoredRows]) -> None:
        """Write what earlier attempts haven't stored."""
        try:
            attempt.found(stored)
            self._write(body)
        except Exception:
            attempt.finish(self._failed(Failure()))

    def _write(self, body: bytes) -> None:
        """Make records from *body*, and pass them to the sinks."""
        stages, headers = self._stages, self._head.headers
        if headers.is_text and stages.dispatcher.reads_text_as_json(self._sources):
            headers = headers.of_json
        if headers.charset and len(body) > LARGE_BYTES:
            self._take_turns(MAX_UTF8_BYTES * len(body), self._recoded(headers, body))
            return
        body = ready_body(headers, body)
        sinks = sum(len(stages.router.eligible(source, "")) for source in self._sources)
        if is_batch(self._route.batch, headers) or is_large(headers, len(body), sinks):
            self._take_turns(len(body), self._steps(headers, body))
            return
        for _ in self._steps(headers, body):
            pass

    def _take_turns(self, size: int, steps: Steps) -> None:
        source = self._sources[0]
        key = source.project_id, source.source_id
        self._stages.turns.work_for(self._waited, key, size, steps, self._failed)

    def _recoded(self, headers: RecordHeaders, body: bytes) -> Steps:
        """Pass a large body to the sinks after it was decoded with its declared charset."""
        body = yield from ready_steps(headers, body)
        limit = self._stages.decoder.limit
        if len(body) > limit:
            raise BodyTooLarge(limit)
        if self._waited.is_pending:
            yield from self._steps(headers, body)

    def _steps(self, headers: RecordHeaders, body: bytes) -> Steps:
        """Pass the records of *body* to the sinks; each step is a small part of the work."""
        stages, route = self._stages, self._route
        connection = self._waited.connection
        targets = tuple((source, stages.router.eligible(source, "")) for source in self._sources)
        arrived = Arrived(
            record=RecordContext(
                int(stages.clock() * 1000),
                stages.client_ip(connection.peer_ip, self._head),
                headers,
                body,
            ),
            targets=connection.missing(targets) if isinstance(connection, Attempt) else targets,
            verbose=route.verbose,
            waited=self._waited,
            report=stages.report,
            meters=stages.meters,
            taps=stages.taps,
            without_sink=stages.without_sink,
            turns=stages.turns,
        )
        if is_batch(route.batch, headers):
            return batch_steps(arrived, stages.max_batch_records)
        return record_steps(arrived)

    def _failed(self, failure: Failure) -> bytes:
        """Return the answer to a request that failed as a whole, and count it."""
        self._count_failure()
        return self._stages.failed(failure)

    def _count_failure(self) -> None:
        """Count the request as one record, because the number of its records is unknown."""
        for source in self._sources:
            self._stages.meters[source].answered(self._at, self._size, failed=True)
