"""Requests that aren't simply one record: compressed ones, batches, and those with a key.

A compressed body, and a batch of more than a few records, take long enough to keep others waiting;
so the first go to a thread, and the second are rendered a few milliseconds at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from stream.definition.key import SourceKey
from stream.errors import UserError, let_go
from stream.ops.metrics import SourceMeter
from stream.record.context import RecordContext
from stream.record.headers import BodyKind, RecordHeaders
from stream.source.batch import RowBlock, array_elements, line_elements, render_batch
from stream.source.http.answers import Connection, Received, ReportFailure, Targets
from stream.source.http.batch_answer import BatchAnswer, BlockAnswer
from stream.source.http.encoding import decode_body
from stream.source.http.route import Ingest
from stream.source.interfaces import ISinkWriter
from stream.source.taps import Taps

__all__ = ["SLICE_SECONDS", "BatchWriter", "Decoder", "is_batch"]

_log = Logger(namespace="http-source")

INLINE_BYTES = 8 * 1024
"""A compressed body up to this size is decoded at once: a thread would cost more."""

SLICE_SECONDS = 0.005
"""How long a batch or an export is worked on before others have their turn."""

_P = ParamSpec("_P")
_T = TypeVar("_T")


def is_batch(route: Ingest, headers: RecordHeaders) -> bool:
    """Whether the body holds many records. Raises UserError if nobody knows where they begin."""
    if isinstance(route.batch, str):
        raise UserError(
            f'invalid value "{route.batch}" of the parameter "batch", please use true or false'
        )
    if route.batch is None:
        return headers.is_batch
    if route.batch and headers.kind not in (BodyKind.JSON, BodyKind.JSON_LINES):
        raise UserError(
            f'unsupported content type "{headers.content_type}" of a batch, '
            "supported types: application/json and application/x-ndjson",
            status=415,
            name="unsupportedMediaType",
        )
    return route.batch


class Decoder:
    """Decodes compressed bodies, and has threads for what else takes long to decode.

    :param limit: bytes of a decoded body.
    """

    def __init__(self, limit: int, reactor: Any, pool: ThreadPool) -> None:
        self._limit = limit
        self._reactor = reactor
        self._pool = pool

    def answer(
        self,
        encoding: bytes,
        body: bytes,
        connection: Connection,
        take: Callable[[bytes], bytes | None],
        failed: Callable[[Failure], bytes],
    ) -> bytes | None:
        """Decode *body* and hand it on.

        :param take: takes the decoded body; gives the answer, or ``None`` if the connection gets
            it later. Not called if nobody waits any more.
        :param failed: the answer when that fails later.
        :returns: the answer, or ``None`` if the connection gets it later.
        :raises UserError: the body can't be decoded, if that is known at once.
        """
        decoding = self.decode(encoding, body)
        if isinstance(decoding, bytes):
            return take(decoding)
        connection.pending = decoding

        def finish(answer: bytes | None) -> None:
            if answer is not None and connection.pending is decoding:
                connection.finish(answer)

        taking = decoding.addCallback(lambda b: take(b) if connection.pending is decoding else None)
        taking.addErrback(failed)
        taking.addCallback(finish)
        taking.addErrback(lambda failure: _log.failure("cannot answer a request", failure))
        return None

    def decode(self, encoding: bytes, body: bytes) -> bytes | Deferred[bytes]:
        """The decoded body, at once or later. Raises UserError, at once or later."""
        if len(body) <= INLINE_BYTES:
            return decode_body(encoding, body, self._limit)
        return self.in_thread(decode_body, encoding, body, self._limit)

    def in_thread(
        self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> Deferred[_T]:
        """What *function* returns."""
        running: Deferred[_T] = deferToThreadPool(
            self._reactor, self._pool, function, *args, **kwargs
        )
        return running


class BatchWriter:
    """Takes batches.

    :param max_records: of one batch.
    :param report: told of sinks that failed.
    :param crashed: makes the answer when the fault is ours.
    :param taps: of those who watch.
    :param meters: of the sources.
    """

    def __init__(
        self,
        max_records: int,
        reactor: Any,
        *,
        report: ReportFailure,
        crashed: Callable[[], bytes],
        taps: Taps,
        meters: Mapping[SourceKey, SourceMeter],
    ) -> None:
        self._taps = taps
        self._meters = meters
        self._max_records = max_records
        self._reactor = reactor
        self._report = report
        self._crashed = crashed

    def write(
        self, record: RecordContext, targets: Targets, verbose: bool, connection: Connection
    ) -> bytes | None:
        """Take all records of a batch.

        :param record: with the batch as its body.
        :returns: the answer, or ``None`` if the connection gets it later.
        :raises UserError: the batch can't be read, or is too large.
        """
        in_lines = record.headers.kind is BodyKind.JSON_LINES
        read = line_elements if in_lines else array_elements
        elements = read(record.body, self._max_records)
        if self._taps:
            self._taps.offer_batch([source for source, _ in targets], record, elements)
        answer = BatchAnswer(
            connection,
            len(elements),
            "lines" if in_lines else "indexes",
            [
                (
                    source,
                    [(sink_id, RowBlock(sink, record.timestamp_ms)) for sink_id, sink in sinks],
                )
                for source, sinks in targets
            ],
            verbose,
            self._report,
            Received(self._meters, record.timestamp_ms, len(record.body)),
        )
        waiting = [
            (sink, sink_answer)
            for (_, sinks), (_, answers) in zip(targets, answer.sources, strict=True)
            for (_, sink), sink_answer in zip(sinks, answers, strict=True)
        ]
        if not waiting:
            return answer.document()
        connection.pending = answer
        batch = _Batch(record, answer, connection, waiting)
        self._work(batch, render_batch(elements, record, [a.block for _, a in waiting]))
        return None

    def _work(self, batch: _Batch, rendering: Iterator[None]) -> None:
        """Render for a while; when all is rendered, hand it on."""
        if batch.connection.pending is not batch.answer:
            return  # nobody waits any more, and nothing is written yet
        try:
            end = self._reactor.seconds() + SLICE_SECONDS
            for _ in rendering:
                if self._reactor.seconds() > end:
                    self._reactor.callLater(0, self._work, batch, rendering)
                    return
            for sink, answer in batch.waiting:
                _hand_on(sink, answer, batch.record)
        except Exception:
            crashed = self._crashed()
            if batch.connection.pending is batch.answer:
                batch.connection.finish(crashed)


@attrs.frozen(eq=False)
class _Batch:
    """A batch at work; *record* is what all its records share."""

    record: RecordContext
    answer: BatchAnswer
    connection: Connection
    waiting: Sequence[tuple[ISinkWriter, BlockAnswer]]


def _hand_on(sink: ISinkWriter, answer: BlockAnswer, record: RecordContext) -> None:
    block = answer.block
    if block.error is not None or block.renderer is None:
        answer.failed(block.error or RuntimeError("the block wasn't rendered"))
        return
    if not block.rows:
        answer.stored()  # of nothing
    else:
        try:
            status = sink.write_rows(
                b"".join(block.rows), len(block.rows), record.timestamp_ms, block.renderer, answer
            )
        except UserError as error:
            answer.failed(let_go(error))
            return  # all of it is sent again, the rejected records too
        if status is not None:
            answer.accepted(status)
    for rejection in block.rejected:
        sink.rejected(rejection.record, rejection.error)
