"""The handler of OTLP exports.

All records of an export are passed to their sinks, and the export is answered when every sink has
answered for every record. All records are validated and counted before the first one is passed on.
The work is done a few milliseconds at a time, alternating with other sources
(`stream.source.turns`). Exports of disconnected clients are abandoned, and their remaining records
aren't stored.

Several records are passed on at once: their rows are rendered for all sinks, and each sink takes
its rows together. If one of these rows can't be rendered, or a sink isn't open or needs the
template engine, the same records are passed on one by one, so that each has its own outcome.

If the compiled code is built, it reads, prints and renders logs in protobuf
(`stream.source.otlp.compiled`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any

import attrs
import orjson
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from stream import native
from stream.definition.key import SourceKey
from stream.errors import UserError, without_frames
from stream.mapping.render import Renderer
from stream.ops.metrics.registry import SourceMeter
from stream.record.context import RecordContext
from stream.record.headers import RecordHeaders
from stream.sink.outcome import Stored
from stream.source.batch import MAX_ROWS_BYTES
from stream.source.http import responses
from stream.source.http.completions import Connection, Waited
from stream.source.http.content_decoding import Decoder
from stream.source.http.head import Head
from stream.source.http.parser import Request
from stream.source.http.result_document import is_unknown, status_of
from stream.source.http.route import Otlp
from stream.source.interfaces import RowWriter, SinkLookup, SinkWriter, SourceLookup
from stream.source.otlp import compiled
from stream.source.otlp.compiled import (
    CompiledSink,
    Printed,
    compiled_sinks,
    print_records,
    read_logs,
)
from stream.source.otlp.decode import Encoding, Export, Signal, decode_steps, read_encoding
from stream.source.otlp.flatten import Printer, Record, check_repeated_steps, flatten
from stream.source.otlp.response import Outcome, error_answer, export_answer
from stream.source.turns import BATCH_ROOM_SECONDS, Patience, Turns
from stream.source.without_sink import WithoutSink
from stream.tail.sampler import TailSampler

__all__ = ["OtlpHandler"]

_log = Logger(namespace="otlp-source")

RECORDS_AT_ONCE = 16
"""Number of records passed on in one step, which takes a few hundred microseconds."""

BYTES_AT_ONCE = 64 * 1024
"""Number of bytes passed on in one step, for records that are larger than most."""

RECORDS_BEFORE_ROOM = 64
"""Number of records that are passed on before the next check for room."""

_FAILED = 300
_BEARER = "bearer "


class OtlpHandler:
    """Answers OTLP exports.

    :param dispatcher: finds sources of type ``otlp``.
    :param clock: returns seconds since the epoch.
    :param client_ip: returns the sender's address of a request that a peer has sent.
    :param explain: returns the error to show for a failure, and the ID of its log message.
    :param warn: logs a message about rejected records, given its template and fields.
    :param taps: taps of live tails.
    :param meters: meters of the sources.
    :param without_sink: handles records of sources without an enabled sink.
    """

    def __init__(
        self,
        dispatcher: SourceLookup,
        router: SinkLookup,
        decoder: Decoder,
        turns: Turns,
        *,
        clock: Callable[[], float],
        client_ip: Callable[[str, Head], str],
        explain: Callable[[Failure], tuple[UserError, str]],
        warn: Callable[..., None],
        taps: TailSampler,
        meters: Mapping[SourceKey, SourceMeter],
        without_sink: WithoutSink,
    ) -> None:
        self._meters = meters
        self._without_sink = without_sink
        self._dispatcher = dispatcher
        self._router = router
        self._decoder = decoder
        self._turns = turns
        self._clock = clock
        self._client_ip = client_ip
        self._explain = explain
        self._warn = warn
        self._taps = taps

    def export(self, route: Otlp, request: Request, connection: Connection) -> None:
        """Answer *request*, immediately or later.

        If it isn't answered immediately, the connection's `pending` will answer it.

        Raises UserError: the request fails as a whole.
        """
        head = request.head
        sources = self.lookup(route, head)
        encoding = read_encoding(head.headers.content_type)
        export = _Export(
            Signal(route.signal),
            encoding,
            sources,
            int(self._clock() * 1000),
            self._client_ip(connection.peer_ip, head),
            head.headers.without_authorization,
        )
        key = route.project_id, route.source_id

        waited = Waited(connection)

        def failed(failure: Failure) -> bytes:
            return self.failed(failure, head)

        def take(body: bytes) -> None:
            steps = self._steps(export, body, waited)
            self._turns.work_for(waited, key, len(body), steps, failed)

        if head.encoding:
            self._decoder.decode(key, head.encoding, request.body, waited, take, failed)
        else:
            take(request.body)

    def failed(self, failure: Failure, head: Head) -> bytes:
        """Return the answer to an export that failed as a whole, for any reason.

        It has the encoding of the request, or JSON if that is unknown.
        """
        try:
            encoding = read_encoding(head.headers.content_type)
        except UserError:
            encoding = Encoding.JSON
        error, exception_id = self._explain(failure)
        return error_answer(encoding, error, exception_id)

    def lookup(self, route: Otlp, head: Head) -> Sequence[SourceKey]:
        """Return the sources that *route* leads to. Raises UserError."""
        if route.project_id is None:
            raise UserError(f'invalid project ID "{route.project}"')
        secret = route.secret or _bearer_token(head.headers)
        return self._dispatcher.lookup(route.project_id, route.source_id, secret)

    def _steps(
        self, export: _Export, body: bytes, waited: Waited
    ) -> Iterator[Deferred[Any] | None]:
        """Run all steps for *body* while the client waits."""
        logs = read_logs(export.signal, export.encoding, body)
        decoded: Export | None = None
        if logs is None:
            decoded = yield from _decoded(export, body, waited)
            if decoded is None:
                return
        without_sink = None
        if not any(self._router.eligible(source, "") for source in export.sources):
            without_sink = self._without_sink
            without_sink.check(export.sources)
        completion = _ExportCompletion(
            export, waited.connection, self._warn, self._meters, without_sink
        )
        waited.wait_for(completion)
        patience = self._turns.patience(BATCH_ROOM_SECONDS)
        done = 0
        if logs is not None:
            done = yield from self._pass_on_printed(completion, logs, waited, patience)
            if not waited.is_pending:
                return
            if done < len(logs):
                decoded = yield from _decoded(export, body, waited)
        if decoded is not None:
            records = islice(flatten(decoded), done, None)
            yield from self._pass_on_decoded(completion, records, waited, patience)
        if waited.is_pending:
            completion.all_handed_on()

    def _pass_on_decoded(
        self,
        completion: _ExportCompletion,
        flats: Iterator[Record],
        waited: Waited,
        patience: Patience,
    ) -> Iterator[Deferred[Any] | None]:
        """Pass on the records *flats* while the client waits."""
        export = completion.export
        printer = Printer()
        some: list[RecordContext] = []
        size = 0
        for number, flat in enumerate(flats, 1):
            record = _record(export, flat, printer.print(flat))
            some.append(record)
            size += len(record.body)
            if len(some) < RECORDS_AT_ONCE and size < BYTES_AT_ONCE:
                continue
            self._pass_on(completion, some)
            some, size = [], 0
            yield None
            if not waited.is_pending:
                return
            if number % RECORDS_BEFORE_ROOM < RECORDS_AT_ONCE:
                yield from self._room(export, patience)
                if not waited.is_pending:
                    return
        if some:
            self._pass_on(completion, some)

    def _pass_on_printed(
        self,
        completion: _ExportCompletion,
        logs: native.LogExport,
        waited: Waited,
        patience: Patience,
    ) -> Generator[Deferred[Any] | None, None, int]:
        """Pass on the records of *logs* while the client waits; return the number passed on.

        If not all are passed on, the Python code must pass on the others.
        """
        export = completion.export
        done = unchecked = 0
        while done < len(logs):
            sinks = self._sinks(export)
            targets = compiled_sinks(sinks, export.timestamp_ms)
            is_shown = self._is_shown(export)
            goes_singly = is_shown or None in targets
            printed = print_records(
                logs,
                targets,
                export.timestamp_ms,
                export.client_ip,
                export.headers,
                RECORDS_AT_ONCE if goes_singly else compiled.RECORDS_AT_ONCE,
                wants_bodies=is_shown,
            )
            if printed is None or not printed.count:
                break
            done += printed.count
            unchecked += printed.count
            self._pass_on_step(completion, sinks, targets, printed, is_shown=is_shown)
            if done == len(logs):
                break
            yield None
            if waited.is_pending and unchecked >= RECORDS_BEFORE_ROOM:
                unchecked = 0
                yield from self._room(export, patience)
            if not waited.is_pending:
                break
        return done

    def _is_shown(self, export: _Export) -> bool:
        """Return whether a tail may show a record of *export* now."""
        watched = [self._taps[each] for each in export.sources if each in self._taps]
        return any(not each.is_quiet(export.timestamp_ms) for each in watched)

    def _pass_on_step(
        self,
        completion: _ExportCompletion,
        sinks: Sequence[SinkWriter],
        targets: Sequence[CompiledSink | None],
        printed: Printed,
        *,
        is_shown: bool,
    ) -> None:
        """Pass *printed* to all *sinks*, in the form that each sink takes."""
        export = completion.export
        records = [
            _record(export, orjson.loads(body), body)
            for body in (() if printed.bodies is None else printed.bodies)
        ]
        if is_shown:
            for record in records:
                self._taps.offer(export.sources, record)
        elif self._taps:
            for source in export.sources:
                if source in self._taps:
                    self._taps[source].offered += printed.count
        if printed.rows is None:
            self._hand_on(completion, sinks, records)
            return
        blocks = [
            _Block(target.opened, target.renderer, rows)
            for target, rows in zip(targets, printed.rows, strict=True)
            if target is not None and rows is not None
        ]
        others = [sink for sink, target in zip(sinks, targets, strict=True) if target is None]
        if others:
            self._hand_on(completion, others, records, blocks)
        else:
            self._write_blocks(completion, blocks, printed.count, printed.size)

    def _room(self, export: _Export, patience: Patience) -> Iterator[Deferred[Any] | None]:
        """Wait until the sinks accept more records, because templates may take a long time."""
        for source in export.sources:
            for _, sink in self._router.eligible(source, export.signal.value):
                yield from patience.until_room(partial(_room_of, sink))

    def _sinks(self, export: _Export) -> list[SinkWriter]:
        return [
            sink
            for source in export.sources
            for _, sink in self._router.eligible(source, export.signal.value)
        ]

    def _pass_on(self, completion: _ExportCompletion, records: Sequence[RecordContext]) -> None:
        """Pass *records* to all sinks."""
        export = completion.export
        if self._taps:
            for record in records:
                self._taps.offer(export.sources, record)
        self._hand_on(completion, self._sinks(export), records)

    def _hand_on(
        self,
        completion: _ExportCompletion,
        sinks: Sequence[SinkWriter],
        records: Sequence[RecordContext],
        compiled_blocks: Sequence[_Block] = (),
    ) -> None:
        """Pass *records* to *sinks*, together if possible.

        :param compiled_blocks: rows of the same records for other sinks.
        """
        blocks = _rendered(sinks, records)
        if blocks is not None:
            size = sum(len(record.body) for record in records)
            self._write_blocks(completion, [*compiled_blocks, *blocks], len(records), size)
            return
        each = [completion.next_records(1, len(record.body)) for record in records]
        for block in compiled_blocks:
            for waiting in each:
                waiting.missing += 1
            _write(block, len(records), completion.export.timestamp_ms, _Shared(each))
        for record, waiting in zip(records, each, strict=True):
            for sink in sinks:
                waiting.missing += 1
                sink.write(record, waiting)
            waiting.one_less()

    def _write_blocks(
        self, completion: _ExportCompletion, blocks: Sequence[_Block], count: int, size: int
    ) -> None:
        """Write the rows of *count* records of *size* bytes to their sinks."""
        waiting = completion.next_records(count, size)
        for block in blocks:
            waiting.missing += 1
            _write(block, count, completion.export.timestamp_ms, waiting)
        waiting.one_less()


def _room_of(sink: SinkWriter) -> Deferred[None] | None:
    """Return `RowWriter.room` of the sink; ``None`` if no slice is open."""
    return None if sink.opened is None else sink.opened.room()


def _decoded(export: _Export, body: bytes, waited: Waited) -> Generator[None, None, Export | None]:
    """Decode *body* and check it in small steps; return ``None`` if the client no longer waits.

    Raises UserError: see `decode_steps` and `check_repeated_steps`.
    """
    decoding = decode_steps(export.signal, export.encoding, body)
    decoded: Export | None = None
    while decoded is None:
        try:
            yield next(decoding)
        except StopIteration as end:
            decoded = end.value
        if not waited.is_pending:
            return None
    for _ in check_repeated_steps(decoded):
        yield None
        if not waited.is_pending:
            return None
    return decoded


def _record(export: _Export, flat: Record, body: bytes) -> RecordContext:
    return RecordContext(
        export.timestamp_ms, export.client_ip, export.headers, body, export.signal.value, flat
    )


def _rendered(sinks: Sequence[SinkWriter], records: Sequence[RecordContext]) -> list[_Block] | None:
    """Return the rows of *records* for each of *sinks*, with their renderers.

    Return ``None`` if the records must be passed on one by one.
    """
    blocks = []
    try:
        for sink in sinks:
            if sink.opened is None:
                return None
            opened = sink.open(records[0].timestamp_ms)
            renderer = opened.renderer()
            if renderer.plan is not None or any(map(renderer.effort.takes_long, records)):
                return None
            rows = b"".join(map(renderer.row, records))
            if len(rows) > MAX_ROWS_BYTES:
                return None
            blocks.append(_Block(opened, renderer, rows))
    except UserError:
        return None
    return blocks


def _write(
    block: _Block, count: int, received_at: int, completion: _RecordsCompletion | _Shared
) -> None:
    """Write the rows of *count* records to their sink. Never raises."""
    try:
        block.opened.write_rows(block.rows, count, received_at, block.renderer, completion)
    except UserError as error:
        completion.failed(without_frames(error))
    except Exception as error:
        _log.failure("write record error: {reason}", reason=str(error))
        completion.failed(without_frames(error))


@attrs.frozen(eq=False)
class _Block:
    """The rows of some records for one sink."""

    opened: RowWriter
    renderer: Renderer
    rows: bytes


@attrs.frozen
class _Export:
    """The data that all records of an export share."""

    signal: Signal
    encoding: Encoding
    sources: Sequence[SourceKey]
    timestamp_ms: int
    client_ip: str
    headers: RecordHeaders


class _ExportCompletion:
    """Counts the outcomes of the records of one export, and answers it."""

    def __init__(
        self,
        export: _Export,
        connection: Connection,
        warn: Callable[..., None],
        meters: Mapping[SourceKey, SourceMeter],
        without_sink: WithoutSink | None,
    ) -> None:
        """:param without_sink: handler if no sink gets the records; otherwise ``None``."""
        self.export = export
        self._without_sink = without_sink
        self._meters = [meters[source] for source in export.sources]
        self._connection = connection
        self._warn = warn
        self._missing = 1  # one for the records that haven't been passed on yet
        self._records = 0
        self._rejected = 0
        self._status = 200
        self._first_error = ""
        self._first_reason = ""
        self._rows = 0
        self._stored = 0
        self._unknown = 0
        self._partly = 0

    def next_records(self, count: int, size: int) -> _RecordsCompletion:
        """Return the completion of *count* records of *size* bytes that sinks take together."""
        self._missing += 1
        self._records += count
        return _RecordsCompletion(self, count, size)

    def settled(self, status: int, reason: str, count: int, size: int, stored: Stored) -> None:
        """Count *count* records as answered by every sink, with *status* as the worst status.

        :param size: size of the records in bytes.
        :param stored: number of stored rows of all these records.
        """
        self._rows += stored.rows
        self._stored += stored.stored
        self._unknown += stored.unknown
        is_failed = status >= _FAILED
        if is_failed and stored.stored:
            self._partly += count
        for meter in self._meters:
            meter.answered(self.export.timestamp_ms, size, failed=is_failed, records=count)
        if is_failed:
            self._rejected += count
            self._status = max(self._status, status)
            if not self._first_error:
                self._first_error = f"sink write failed with status {status}"
                if status < 500:
                    self._first_error += f": {reason}"
                self._first_reason = reason
        self._one_less()

    def all_handed_on(self) -> None:
        self._one_less()

    def _one_less(self) -> None:
        self._missing -= 1
        if self._missing:
            return
        if self._rejected:
            self._report()
        if self._connection.pending is self:
            stored = Stored(self._rows, self._stored, self._unknown)
            outcome = Outcome(
                self._records, self._rejected, self._status, self._first_error, stored, self._partly
            )
            export = self.export
            answer = export_answer(export.signal, export.encoding, outcome)
            if self._without_sink is not None:
                self._without_sink.count(export.sources, self._records)
                answer = responses.without_sinks(answer)
            self._connection.finish(answer)

    def _report(self) -> None:
        self._warn(
            "{rejected} of {records} records of an export rejected, first error: {reason}",
            source=", ".join(map(str, self.export.sources)),
            signal=self.export.signal.value,
            rejected=self._rejected,
            records=self._records,
            reason=self._first_reason,
        )


class _RecordsCompletion:
    """The outcome of records that sinks take together, and the `Completion` of each of the sinks.

    :ivar missing: number of sinks that haven't answered, plus one while sinks may be added.
    """

    __slots__ = (
        "_all",
        "_count",
        "_failed",
        "_reason",
        "_size",
        "_status",
        "_stored",
        "_unknown",
        "missing",
    )

    def __init__(self, all_records: _ExportCompletion, count: int, size: int) -> None:
        self.missing = 1
        self._count = count
        self._size = size
        self._all = all_records
        self._status = 200
        self._reason = ""
        self._stored = 0
        self._failed = 0
        self._unknown = 0

    def stored(self) -> None:
        self._stored += 1
        self.one_less()

    def accepted(self, status: int) -> None:
        self._stored += 1
        self._status = max(self._status, status)
        self.one_less()

    def failed(self, error: Exception) -> None:
        self._failed += 1
        self._unknown += is_unknown(error)
        self._status = max(self._status, status_of(error))
        self._reason = self._reason or responses.error_message(error)
        self.one_less()

    def one_less(self) -> None:
        self.missing -= 1
        if not self.missing:
            count = self._count
            rows = Stored(
                count * (self._stored + self._failed), count * self._stored, count * self._unknown
            )
            self._all.settled(self._status, self._reason, count, self._size, rows)


class _Shared:
    """The completion of rows that one sink takes together and other sinks take one by one."""

    __slots__ = ("_each",)

    def __init__(self, each: Sequence[_RecordsCompletion]) -> None:
        self._each = each

    def stored(self) -> None:
        for completion in self._each:
            completion.stored()

    def accepted(self, status: int) -> None:
        for completion in self._each:
            completion.accepted(status)

    def failed(self, error: Exception) -> None:
        for completion in self._each:
            completion.failed(error)


def _bearer_token(headers: RecordHeaders) -> str:
    """Return the bearer token in the ``Authorization`` header; empty if there is none."""
    value = headers.map.get("Authorization", "")
    if value[: len(_BEARER)].lower() != _BEARER:
        return ""
    return value[len(_BEARER) :].strip()
