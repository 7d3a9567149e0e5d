"""Requests that aren't simply one small record: batches and large records.

They take long enough to keep others waiting, so they are worked on a few milliseconds at a time
(`stream.source.turns`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from stream.definition.key import SourceKey
from stream.errors import UserError, let_go
from stream.ops.metrics.registry import SourceMeter
from stream.record.context import RecordContext
from stream.record.elements import array_steps, line_elements
from stream.record.headers import BodyKind, RecordHeaders
from stream.source.batch import Evaluation, Rejection, RowBlock, render_batch
from stream.source.http.answers import (
    Connection,
    FanOutCompletion,
    Received,
    ReportFailure,
    Targets,
    write_record,
)
from stream.source.http.batch_answer import BatchAnswer, BlockAnswer
from stream.source.interfaces import ISinkWriter
from stream.source.turns import Turns, Waited
from stream.tail.sampler import TailSampler

__all__ = ["LARGE_BYTES", "SpecialWriter", "is_large"]

_log = Logger(namespace="http-source")

LARGE_BYTES = 4 * 1024
"""A body up to this size is no large record, whatever is in it."""

_LARGE_BYTES_OF = {BodyKind.FORM: LARGE_BYTES, BodyKind.JSON: 64 * 1024}
"""A larger one may take milliseconds to be read. Others aren't read."""

REJECTED_AT_ONCE = 128
"""Rejected records are counted, and kept if the sink asks for it, in some hundred microseconds."""


def is_large(headers: RecordHeaders, size: int) -> bool:
    """Whether a record with a body of *size* bytes can keep others waiting."""
    limit = _LARGE_BYTES_OF.get(headers.kind)
    return limit is not None and size > limit


class SpecialWriter:
    """Takes batches and large records.

    :param max_records: of one batch.
    :param turns: where they are worked on.
    :param report: told of sinks that failed.
    :param taps: of those who watch.
    :param meters: of the sources.
    """

    def __init__(
        self,
        max_records: int,
        turns: Turns,
        *,
        report: ReportFailure,
        taps: TailSampler,
        meters: Mapping[SourceKey, SourceMeter],
    ) -> None:
        self._taps = taps
        self._meters = meters
        self._max_records = max_records
        self._turns = turns
        self._report = report

    def write_batch(
        self,
        record: RecordContext,
        targets: Targets,
        verbose: bool,
        connection: Connection,
        failed: Callable[[Failure], bytes],
    ) -> None:
        """Take all records of a batch; the connection gets the answer, at once or later.

        :param record: with the batch as its body.
        :param failed: the answer if it fails as a whole.
        :raises UserError: 503, too much waits.
        """
        waited = Waited(connection)
        self._begin(record, targets, waited, failed, self._batch(record, targets, verbose, waited))

    def write_large(
        self,
        record: RecordContext,
        targets: Targets,
        verbose: bool,
        connection: Connection,
        failed: Callable[[Failure], bytes],
    ) -> None:
        """The same for one large record."""
        waited = Waited(connection)
        self._begin(record, targets, waited, failed, self._large(record, targets, verbose, waited))

    def _begin(
        self,
        record: RecordContext,
        targets: Targets,
        waited: Waited,
        failed: Callable[[Failure], bytes],
        steps: Iterator[Deferred[None] | None],
    ) -> None:
        key = targets[0][0].project_id, targets[0][0].source_id
        working = self._turns.work(key, len(record.body), steps)
        working.addErrback(lambda failure: waited.finish(failed(failure)))
        working.addErrback(lambda failure: _log.failure("cannot answer a request", failure))

    def _large(
        self, record: RecordContext, targets: Targets, verbose: bool, waited: Waited
    ) -> Iterator[Deferred[None] | None]:
        for _ in record.reading_steps():
            yield None
            if not waited.is_pending:
                return
        answers = FanOutCompletion(
            waited.connection,
            targets,
            verbose,
            self._report,
            Received(self._meters, record.timestamp_ms, len(record.body)),
        )
        if not answers.writers:
            waited.finish(answers.nothing_to_wait_for())
            return
        waited.wait_for(answers)
        for writer, answer in tuple(answers.writers):
            write_record(writer, record, answer, _log)
            yield None

    def _batch(
        self, record: RecordContext, targets: Targets, verbose: bool, waited: Waited
    ) -> Iterator[Deferred[None] | None]:
        in_lines = record.headers.kind is BodyKind.JSON_LINES
        if in_lines:
            elements = line_elements(record.body, self._max_records)
        else:
            elements = yield from array_steps(record.body, self._max_records)
        if not waited.is_pending:
            return
        if self._taps:
            self._taps.offer_batch([source for source, _ in targets], record, elements)
        answer = BatchAnswer(
            waited.connection,
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
            waited.finish(answer.document())
            return
        waited.wait_for(answer)
        for evaluation in render_batch(elements, record, [a.block for _, a in waiting]):
            yield None if evaluation is None else _evaluated(evaluation, waiting)
            if not waited.is_pending:
                return  # nobody waits any more, and nothing is written yet
        refused = [
            (sink, rejection)
            for sink, sink_answer in waiting
            for rejection in _hand_on(sink, sink_answer, record)
        ]
        for number, (sink, rejection) in enumerate(refused):
            sink.rejected(rejection.record, rejection.error)
            if not number % REJECTED_AT_ONCE:
                yield None


def _evaluated(
    evaluation: Evaluation, waiting: Sequence[tuple[ISinkWriter, BlockAnswer]]
) -> Deferred[None]:
    """Fires when *evaluation* is done, or has failed."""
    block = evaluation.block
    sink = next(sink for sink, answer in waiting if answer.block is block)
    assert block.renderer is not None
    evaluating = sink.evaluate(block.renderer, evaluation.records)
    return evaluating.addCallbacks(
        evaluation.done, lambda failure: evaluation.failed(let_go(failure.value))
    )


def _hand_on(sink: ISinkWriter, answer: BlockAnswer, record: RecordContext) -> Sequence[Rejection]:
    """Give the rows to the sink.

    :returns: the records that the sink rejects for good; none if all of the batch is sent again.
    """
    block = answer.block
    if block.error is not None or block.renderer is None:
        answer.failed(block.error or RuntimeError("the block wasn't rendered"))
        return ()
    rejected = block.rejected
    if not block.rows:
        answer.stored()  # of nothing
    else:
        try:
            status = sink.write_rows(
                b"".join(block.rows), len(block.rows), record.timestamp_ms, block.renderer, answer
            )
        except UserError as error:
            answer.failed(let_go(error))
            return ()
        if status is not None:
            answer.accepted(status)
    return rejected
