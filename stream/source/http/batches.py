"""Records that take a long time to process: batches, and single records with large bodies.

They would block other records, so they are processed in small steps, a few milliseconds at a time
(`stream.source.turns`).
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from functools import partial

import attrs
from twisted.internet.defer import Deferred

from stream.definition.key import SourceKey
from stream.errors import UserError, without_frames
from stream.mapping.render import MAX_NATIVE_BYTES
from stream.ops.metrics.registry import SourceMeter
from stream.record.context import RecordContext
from stream.record.elements import MAX_LINES_PER_RECORD, Element, array_steps, line_steps
from stream.record.headers import BodyKind, RecordHeaders
from stream.record.large import takes_long
from stream.source.batch import MAX_ROWS_BYTES, Evaluation, Rejection, RowBlock, render_batch
from stream.source.http.batch_completion import BatchCompletion, BlockCompletion
from stream.source.http.completions import (
    FanOutCompletion,
    Received,
    ReportFailure,
    Targets,
    Waited,
)
from stream.source.http.responses import without_sinks
from stream.source.interfaces import SinkWriter
from stream.source.turns import BATCH_ROOM_SECONDS, ROOM_SECONDS, Turns
from stream.source.without_sink import WithoutSink
from stream.tail.sampler import TailSampler

__all__ = ["LARGE_BYTES", "Arrived", "batch_steps", "is_large", "record_steps"]

LARGE_BYTES = 4 * 1024
"""A record whose body is at most this size is never large."""

_LARGE_BYTES_OF = {BodyKind.FORM: LARGE_BYTES, BodyKind.JSON: 64 * 1024}
"""Larger bodies of these kinds may take milliseconds to parse. Other kinds aren't parsed."""

SINKS_AT_ONCE = 4
"""Number of sinks for which a small record is rendered in one step.

Rendering a record for a sink can take milliseconds, because of its mapping.
"""

LARGE_BYTES_OF_SINKS = 64 * 1024
"""Size of a record that is rendered in one step, counted once for each of several sinks."""

LINES_BYTES_AT_ONCE = 256 * 1024
"""Bytes of a batch per step of compiled code, which takes about 0.25 ms for each sink."""

REJECTED_AT_ONCE = 128
"""Number of rejected records that are counted, and kept if required, per step.

A step takes a few hundred microseconds.
"""


def is_large(headers: RecordHeaders, size: int, sinks: int = 1) -> bool:
    """Return whether a record with a body of *size* bytes for *sinks* can block others."""
    limit = _LARGE_BYTES_OF.get(headers.kind)
    if limit is not None and size > limit:
        return True
    return sinks > SINKS_AT_ONCE or size * sinks > max(LARGE_BYTES_OF_SINKS, size)


@attrs.frozen(eq=False, kw_only=True)
class Arrived:
    """A decoded request with its sinks, as the input of the last stages.

    :ivar record: record with the decoded body, which may be a batch.
    :ivar targets: destinations of the records.
    :ivar verbose: whether the client requests a result document.
    :ivar waited: the pending answer to the request.
    :ivar report: called with the sinks that failed.
    :ivar meters: meters of the sources.
    :ivar taps: taps of live tails.
    :ivar without_sink: handles records of sources without an enabled sink.
    :ivar turns: queue in which this work runs.
    """

    record: RecordContext
    targets: Targets
    verbose: bool
    waited: Waited
    report: ReportFailure
    meters: Mapping[SourceKey, SourceMeter]
    taps: TailSampler
    without_sink: WithoutSink
    turns: Turns

    @property
    def sources(self) -> list[SourceKey]:
        """The sources of the records."""
        return [source for source, _ in self.targets]

    def received(self) -> Received:
        """The meter of the request."""
        return Received(self.meters, self.record.timestamp_ms, len(self.record.body))


def record_steps(arrived: Arrived) -> Iterator[Deferred[None] | None]:
    """Pass one record to its sinks; each step is a small part of the work."""
    record, waited = arrived.record, arrived.waited
    if arrived.taps:
        arrived.taps.offer(arrived.sources, record)
    is_alone_large = is_large(record.headers, len(record.body))
    if is_alone_large and not takes_long(record):
        for _ in record.reading_steps():
            yield None
            if not waited.is_pending:
                return
    completions = FanOutCompletion(
        waited.connection, arrived.targets, arrived.verbose, arrived.report, arrived.received()
    )
    if not completions.writers:
        arrived.without_sink.check(arrived.sources)
        arrived.without_sink.count(arrived.sources, 1)
        waited.finish(without_sinks(completions.nothing_to_wait_for()))
        return
    waited.wait_for(completions)
    if is_alone_large:
        patience = arrived.turns.patience(ROOM_SECONDS)
        for _, sinks in arrived.targets:
            for _, sink in sinks:
                yield from patience.until_room(partial(_room, sink, record))
        if not waited.is_pending:
            return
    for writer, completion in tuple(completions.writers):
        writer.write(record, completion)
        yield None


def batch_steps(arrived: Arrived, max_records: int) -> Iterator[Deferred[None] | None]:
    """Pass all records of a batch to the sinks; each sink gets all of them together or none.

    Raises UserError: the body isn't a batch, or has more than *max_records* records.
    """
    record, waited = arrived.record, arrived.waited
    in_lines = record.headers.kind is BodyKind.JSON_LINES
    blocks = [
        (source, [(sink_id, _block(sink, record.timestamp_ms)) for sink_id, sink in sinks])
        for source, sinks in arrived.targets
    ]
    elements: Sequence[Element] = ()
    count = None
    if in_lines and not any(source in arrived.taps for source in arrived.sources):
        count = yield from _lines_at_once(
            record, [block for _, sinks in blocks for _, block in sinks], max_records
        )
    if count is None:
        if in_lines:
            elements = yield from line_steps(record.body, max_records)
        else:
            elements = yield from array_steps(record.body, max_records)
        count = len(elements)
    if not waited.is_pending:
        return
    if arrived.taps and elements:
        arrived.taps.offer_batch(arrived.sources, record, elements)
    completions = BatchCompletion(
        waited.connection,
        count,
        "lines" if in_lines else "indexes",
        blocks,
        arrived.verbose,
        arrived.report,
        arrived.received(),
    )
    waiting = [
        (sink, completion)
        for (_, sinks), (_, blocks) in zip(arrived.targets, completions.sources, strict=True)
        for (_, sink), completion in zip(sinks, blocks, strict=True)
    ]
    if not waiting:
        arrived.without_sink.check(arrived.sources)
        arrived.without_sink.count(arrived.sources, count)
        waited.finish(without_sinks(completions.document()))
        return
    waited.wait_for(completions)
    patience = arrived.turns.patience(BATCH_ROOM_SECONDS)
    for evaluation in render_batch(elements, record, [each.block for _, each in waiting]):
        if evaluation is not None:
            sink = _sink_of(evaluation, waiting)
            yield from patience.until_room(partial(_room, sink, evaluation.records[0]))
        yield None if evaluation is None else _evaluated(evaluation, waiting, record.timestamp_ms)
        if not waited.is_pending:
            return  # the client has disconnected before anything was written
    refused = [
        (sink, rejection)
        for sink, completion in waiting
        for rejection in _hand_on(sink, completion, record)
    ]
    for number, (sink, rejection) in enumerate(refused):
        if sink.opened is not None:
            sink.opened.rejected(rejection.record, rejection.error)
        if not number % REJECTED_AT_ONCE:
            yield None


def _lines_at_once(
    record: RecordContext, blocks: Sequence[RowBlock], max_records: int
) -> Generator[None, None, int | None]:
    """Fill *blocks* with the rows of all lines if compiled code can render each of them.

    :returns: the number of records; ``None`` if *blocks* weren't filled.
    """
    renderers = [block.renderer for block in blocks if block.error is None]
    shared = RecordContext(record.timestamp_ms, record.client_ip, record.headers.of_json, b"")
    rendered: list[list[bytes]] = [[] for _ in renderers]
    count = start = 0
    body = record.body
    max_ends = MAX_LINES_PER_RECORD * max_records
    if not renderers:
        return None
    while start < len(body):
        end = start + LINES_BYTES_AT_ONCE
        end = len(body) if end >= len(body) else body.find(b"\n", end) + 1 or len(body)
        piece = body if end - start == len(body) else body[start:end]
        in_piece = ends = 0
        for renderer, rows in zip(renderers, rendered, strict=True):
            made = None
            if renderer is not None and end - start <= MAX_NATIVE_BYTES:
                max_bytes = MAX_ROWS_BYTES - sum(map(len, rows))
                made = renderer.lines(shared, piece, max_records - count, max_ends, max_bytes)
            if made is None:
                return None
            rendered_rows, in_piece, ends = made
            rows.append(rendered_rows)
            yield None
        count += in_piece
        max_ends -= ends
        start = end
    taking = [block for block in blocks if block.error is None]
    for block, rows in zip(taking, rendered, strict=True):
        block.take_rendered(rows, count)
    return count


def _block(sink: SinkWriter, now_ms: int) -> RowBlock:
    return RowBlock(lambda: sink.open(now_ms).renderer())


def _room(sink: SinkWriter, record: RecordContext) -> Deferred[None] | None:
    """Return `RowWriter.room` of the sink; ``None`` if the sink isn't open yet."""
    return None if sink.opened is None else sink.opened.room(record)


def _sink_of(
    evaluation: Evaluation, waiting: Sequence[tuple[SinkWriter, BlockCompletion]]
) -> SinkWriter:
    return next(sink for sink, each in waiting if each.block is evaluation.block)


def _evaluated(
    evaluation: Evaluation, waiting: Sequence[tuple[SinkWriter, BlockCompletion]], now_ms: int
) -> Deferred[None] | None:
    """Return a Deferred that fires when *evaluation* ends; ``None`` if it has already failed."""
    block, sink = evaluation.block, _sink_of(evaluation, waiting)
    assert block.renderer is not None
    try:
        evaluating = sink.open(now_ms).evaluate(block.renderer, evaluation.records)
    except UserError as error:
        evaluation.failed(without_frames(error))
        return None
    return evaluating.addCallbacks(
        evaluation.done, lambda failure: evaluation.failed(without_frames(failure.value))
    )


def _hand_on(
    sink: SinkWriter, completion: BlockCompletion, record: RecordContext
) -> Sequence[Rejection]:
    """Pass the rows of *completion* to *sink*.

    :returns: the records that the sink rejects permanently; none if the whole batch is to be
        retried.
    """
    block = completion.block
    if block.error is not None or block.renderer is None:
        completion.failed(block.error or RuntimeError("the block wasn't rendered"))
        return ()
    rejected = block.rejected
    if not block.count:
        completion.stored()  # there was nothing to store
        return rejected
    rows, count, received_at = b"".join(block.rows), block.count, record.timestamp_ms
    try:
        opened = sink.open(received_at)
        opened.write_rows(rows, count, received_at, block.renderer, completion)
    except UserError as error:
        completion.failed(without_frames(error))
        return ()
    return rejected
