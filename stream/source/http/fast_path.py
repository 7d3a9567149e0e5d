"""The fast path for small records and batches, which are handled together once per turn.

Most producers keep connections open and send one small record, or one small batch of lines, after
another with the same head. `stream.native.Connections` reads such requests, renders their rows, and
passes all rows of a turn to their sinks as one block. This module decides which requests may use
the fast path, and answers them.

Note [One decision for a turn]: the source of a head, its state, the slice for the rows, and the
mapping are determined once for each head and turn, by the same code as for a single request.
Nothing that could change them runs before the rows are written, so nothing has to be invalidated.

Note [General path]: all other requests are passed to `IngestProtocol.dataReceived`, as if they had
been read there. These are requests with an unknown head, large, incomplete and pipelined requests,
records that can't be rendered or that a tail shows, and requests for a sink that isn't open. So all
answers of the fast path come from sinks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import attrs
from twisted.logger import Logger

from stream import native
from stream.definition.key import SourceKey
from stream.errors import UserError, without_frames
from stream.ops.metrics.registry import SourceMeter
from stream.ops.process import fair_turns
from stream.record.headers import BodyKind
from stream.sink.outcome import Completion
from stream.source.batch import RowBlock
from stream.source.http import responses
from stream.source.http.batch_completion import BatchCompletion
from stream.source.http.completions import (
    FanOutCompletion,
    Received,
    ReportFailure,
    SingleCompletion,
)
from stream.source.http.head import Head, HeadReader
from stream.source.http.parser import MAX_SMALL_BODY
from stream.source.http.route import Ingest
from stream.source.interfaces import DirectWriter, SinkWriter
from stream.tail.sampler import TailSampler, Watched

__all__ = ["FastPath"]

_log = Logger(namespace="http-source")

_JSON = BodyKind.JSON

MAX_LINES_BYTES = 240 * 1024
"""Maximum size of a batch that is read at once; together with its head it fits the read buffer."""

MAX_SINKS_BYTES = 256 * 1024
"""Maximum size of a request that is rendered at once, counted once for each of several sinks."""

LIGHT_SECONDS = 0.02
"""Time per turn for all light connections; see `fair_turns.LIGHT_SECONDS`.

It is longer here, because a record takes only a few microseconds, and more records make larger
groups. Python code for unknown heads and unusual requests has the shorter time.
"""

SHARES = (
    fair_turns.PERIOD_SECONDS,
    fair_turns.LIGHT_SHARE,
    fair_turns.REST_SECONDS,
    fair_turns.RESTED_SHARE,
    LIGHT_SECONDS,
    fair_turns.BUSY_SECONDS,
    fair_turns.LIGHT_SECONDS / 2,
)


class Times(Protocol):
    """The part of the connection factory that this module needs."""

    now: float
    date_line: bytes
    dated_ok: bytes
    dated_accepted: bytes


class _TurnConnection:
    """The connections of a block, which look like one connection to its completion.

    :ivar pending: the completion. It is ``None`` after the answer, because a reference cycle could
        be collected in another thread, which must not free `stream.native.Waiting`.
    """

    __slots__ = ("_connections", "_times", "_waiting", "pending")

    peer_ip = ""

    def __init__(
        self, waiting: native.Waiting, connections: native.Connections, times: Times
    ) -> None:
        self.pending: object = None
        self._waiting = waiting
        self._connections = connections
        self._times = times

    def finish(self, answer: bytes) -> None:
        """Answer all waiting requests."""
        completion, times = self.pending, self._times
        self.pending = None
        if answer is responses.OK:
            dated = times.dated_ok
        elif answer is responses.ACCEPTED:
            dated = times.dated_accepted
        else:
            for connection in self._waiting.connections():
                if connection.pending is completion:
                    connection.finish(answer)
            return
        answers = ((1, dated, answer),)
        self._connections.answer(self._waiting, completion, answers, times.now)

    def finish_batches(self, document: Callable[[int], bytes]) -> None:
        """Answer all waiting batches.

        :param document: returns the answer to a batch with a number of records.
        """
        completion, times = self.pending, self._times
        self.pending = None
        answers = []
        for count in self._waiting.counts():
            answer = document(count)
            answers.append((count, responses.dated(answer, times.date_line), answer))
        self._connections.answer(self._waiting, completion, answers, times.now)


class _BatchesCompletion(BatchCompletion):
    """The answers to the batches of a block, which are stored together or not at all."""

    def __init__(
        self,
        connection: _TurnConnection,
        count: int,
        source: SourceKey,
        sink_ids: Sequence[str],
        report: ReportFailure,
        received: Received,
    ) -> None:
        self._turn = connection
        sinks = ((source, tuple((sink_id, _rendered(count)) for sink_id in sink_ids)),)
        super().__init__(connection, count, "lines", sinks, False, report, received)

    def _answer(self) -> None:
        self._turn.finish_batches(self._document_of)

    def _document_of(self, count: int) -> bytes:
        """Return the answer to a batch of *count* records."""
        [(source, answers)] = self.sources
        sinks = ((source, tuple((answer.sink_id, _rendered(count)) for answer in answers)),)
        one = BatchCompletion(
            self._turn, count, "lines", sinks, False, self._report, self._received
        )
        for answer, same in zip(answers, one.sources[0][1], strict=True):
            same.status, same.error = answer.status, answer.error
        document = one.document()
        one.sources = ()  # breaks a reference cycle that would keep the connection of the turn
        return document


def _rendered(count: int) -> RowBlock:
    block = RowBlock()
    block.count = count
    return block


class _BlockMeter:
    """The meter of a source for one completion of many records."""

    __slots__ = ("_count", "_meter")

    def __init__(self, meter: SourceMeter, count: int) -> None:
        self._meter = meter
        self._count = count

    def stored(self, at: int, size: int) -> None:
        self._meter.answered(at, size, records=self._count)

    def answered(self, at: int, size: int, *, failed: bool = False) -> None:
        self._meter.answered(at, size, failed=failed, records=self._count)


@attrs.define(eq=False)
class _ReceivedBlock(Received):
    """Requests that wait for several sinks, counted together."""

    count: int = 1

    def stored(self, source: SourceKey) -> None:
        self.answered(source, failed=False, records=self.count)

    def answered(self, source: SourceKey, *, failed: bool, records: int = 1) -> None:
        super().answered(source, failed=failed, records=self.count)


@attrs.frozen(eq=False)
class Lane:
    """The destination of the records with one head in one turn, for `stream.native.Connections`.

    :ivar head: head of the requests.
    :ivar length: size of each body in bytes.
    :ivar max_records: maximum number of records in a batch of lines; 0 if a body is one record.
    :ivar headers: headers of the requests as a quoted cell of a row; empty if no sink has such a
        column.
    :ivar targets: for each sink its compiled mapping, the number of bytes that its slice still
        accepts in this turn, and an ID of the slice. Lanes to the same slice share its room.
    """

    head: Head
    length: int
    max_records: int
    headers: bytes
    targets: Sequence[tuple[native.RowPlan, int, int]]
    _source: SourceKey
    _sinks: Sequence[tuple[str, SinkWriter]]
    _writers: Sequence[DirectWriter]
    _watched: Watched | None
    _path: FastPath

    def begin(
        self, count: int, at: int, size: int, waiting: native.Waiting
    ) -> tuple[Completion | FanOutCompletion | BatchCompletion, float]:
        """Return the completion of requests with *count* records, and the current time.

        :param at: receive time, milliseconds since the epoch.
        :param size: total size of the bodies in bytes.
        """
        path = self._path
        if self._watched is not None:
            self._watched.offered += count
        connection = _TurnConnection(waiting, path.connections, path.times)
        completion: SingleCompletion | FanOutCompletion | BatchCompletion
        if self.max_records:
            completion = _BatchesCompletion(
                connection,
                count,
                self._source,
                [sink_id for sink_id, _ in self._sinks],
                path.report,
                Received(path.meters, at, size),
            )
        elif len(self._sinks) == 1:
            meter: Any = _BlockMeter(path.meters[self._source], count)
            sink_id = self._sinks[0][0]
            completion = SingleCompletion(
                connection, self._source, sink_id, False, path.report, meter, at, size
            )
        else:
            received = _ReceivedBlock(path.meters, at, size, count)
            targets = [(self._source, self._sinks)]
            completion = FanOutCompletion(connection, targets, False, path.report, received)
        connection.pending = completion
        return completion, path.times.now

    def write(
        self,
        rows: Sequence[bytes],
        count: int,
        at: int,
        completion: Completion | FanOutCompletion | BatchCompletion,
    ) -> None:
        """Write to each sink its rows of *count* records. Never raises."""
        completions: Sequence[Completion]
        if isinstance(completion, FanOutCompletion):
            completions = [each for _, each in completion.writers]
        elif isinstance(completion, BatchCompletion):
            completions = completion.sources[0][1]
        else:
            completions = [completion]
        for writer, block, each in zip(self._writers, rows, completions, strict=True):
            try:
                writer.write(block, count, at, each)
            except UserError as error:
                each.failed(without_frames(error))
            except Exception as error:
                _log.failure("write record error: {reason}", reason=str(error))
                each.failed(without_frames(error))


class FastPath:
    """Decides which records are handled together; one object serves all connections of a listener.

    :param heads: reader of heads, shared with the connections.
    :param sinks: returns the only source of a route with its sinks; see
        `IngestHandler.direct_sinks`.
    :param needs_head: whether the sender's address is determined from the head of a request.
    :param clock: returns seconds since the epoch.
    :param taps: taps of live tails; records that are due to be shown take the general path.
    :param max_head: maximum size of request line and headers in bytes.
    :param max_body: maximum size of a body in bytes.
    :param max_records: maximum number of records in a batch.

    :ivar connections: connections of the listener by descriptor.
    :ivar times: the listener's clock and answers.
    """

    def __init__(
        self,
        times: Times,
        heads: HeadReader,
        sinks: Callable[[Ingest], tuple[SourceKey, Sequence[tuple[str, SinkWriter]]] | None],
        *,
        needs_head: bool,
        clock: Callable[[], float],
        taps: TailSampler,
        meters: Mapping[SourceKey, SourceMeter],
        report: ReportFailure,
        max_head: int,
        max_body: int,
        max_records: int,
    ) -> None:
        self.times = times
        self.meters = meters
        self.report = report
        self._heads = heads
        self._sinks = sinks
        self._needs_head = needs_head
        self._clock = clock
        self._taps = taps
        self._max_head = max_head
        self._max_body = min(max_body, MAX_SMALL_BODY)
        self._max_lines = min(max_body, MAX_LINES_BYTES)
        self._max_records = max_records
        self.connections = native.Connections(self.lane, SHARES)

    def lane(self, data: bytes) -> Lane | None:
        """Return the lane of the head *data* in this turn; ``None`` for the general path."""
        if len(data) > self._max_head:
            return None
        try:
            head = self._heads.read(data)
            route = head.record_route or head.lines_route
            if route is None or not self.takes(head):
                return None
            found = self._sinks(route)
        except UserError:
            return None
        if found is None:
            return None
        source, sinks = found
        if len(sinks) > 1 and head.length * len(sinks) > MAX_SINKS_BYTES:
            return None
        headers, max_records = head.headers, 0
        watched = self._taps.get(source) if self._taps else None
        if head.lines_route is not None:
            headers, max_records = headers.of_json, self._max_records
            if watched is not None:
                return None  # whether a tail shows a record is decided for each record
        if watched is not None and not watched.is_quiet(int(self._clock() * 1000)):
            return None
        writers: list[DirectWriter] = []
        targets = []
        has_headers = False
        for _, sink in sinks:
            writer = sink.direct()
            if writer is None:
                return None
            plan = writer.plan
            if plan.reads_json and headers.kind is not _JSON:
                return None
            if plan.has_ip and self._needs_head:
                return None
            has_headers = has_headers or plan.has_headers
            writers.append(writer)
            targets.append((plan, writer.room, writer.slice_id))
        cell = headers.csv_cell if has_headers else b""
        length = head.length
        return Lane(head, length, max_records, cell, targets, source, sinks, writers, watched, self)

    def takes(self, head: Head) -> bool:
        """Return whether requests with *head* may use the fast path if their source allows it."""
        route, max_body = head.record_route, self._max_body
        if route is None:
            route, max_body = head.lines_route, self._max_lines
        return (
            route is not None
            and head.plain
            and not route.verbose
            and not head.chunked
            and not head.expects_continue
            and head.length <= max_body
        )
