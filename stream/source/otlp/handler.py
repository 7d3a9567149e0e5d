"""Exports of OpenTelemetry: from a request on one of the OTLP routes to its answer.

All records of an export are handed to their sinks, some milliseconds' worth at a time so that
others have their turn, and the export is answered when every sink has answered for every record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import attrs
import orjson
from twisted.logger import Logger
from twisted.python.failure import Failure

from stream.definition.key import SourceKey
from stream.errors import UserError
from stream.record.context import RecordContext
from stream.record.headers import RecordHeaders, html_safe
from stream.source.http.answers import Connection, status_of, write_record
from stream.source.http.head import Head
from stream.source.http.parser import Request
from stream.source.http.route import Otlp
from stream.source.http.special import SLICE_SECONDS, Decoder
from stream.source.interfaces import IDispatcher, IRouter
from stream.source.otlp.decode import Encoding, Signal, decode_request, read_encoding
from stream.source.otlp.flatten import Record, flatten
from stream.source.otlp.response import Outcome, export_answer

__all__ = ["OtlpHandler"]

_log = Logger(namespace="otlp-source")

_FAILED = 300
_DECODED = (b"gzip", b"zstd")
_BEARER = "bearer "


class OtlpHandler:
    """Answers exports.

    :param dispatcher: finds sources of type ``otlp``.
    :param clock: seconds since the epoch.
    :param client_ip: who sent a request that came from a peer.
    :param failed: the answer to a request that fails as a whole.
    """

    def __init__(
        self,
        dispatcher: IDispatcher,
        router: IRouter,
        decoder: Decoder,
        reactor: Any,
        *,
        clock: Callable[[], float],
        client_ip: Callable[[str, Head], str],
        failed: Callable[[Failure], bytes],
    ) -> None:
        self._dispatcher = dispatcher
        self._router = router
        self._decoder = decoder
        self._reactor = reactor
        self._clock = clock
        self._client_ip = client_ip
        self._failed = failed

    def export(self, route: Otlp, request: Request, connection: Connection) -> bytes | None:
        """Answer *request*, or set the connection's `pending` to what will answer it.

        :returns: the answer if it is known at once.
        :raises UserError: the request fails as a whole.
        """
        if route.project_id is None:
            raise UserError(f'invalid project ID "{route.project}"')
        head = request.head
        secret = route.secret or _bearer_token(head.headers)
        sources = self._dispatcher.lookup(route.project_id, route.source_id, secret)
        encoding = read_encoding(head.headers.content_type)
        export = _Export(
            Signal(route.signal),
            encoding,
            sources,
            int(self._clock() * 1000),
            self._client_ip(connection.peer_ip, head),
            _without_authorization(head.headers),
        )

        def take(body: bytes) -> None:
            decoded = decode_request(export.signal, export.encoding, body)
            answer = _ExportAnswer(export, connection)
            connection.pending = answer
            self._work(answer, flatten(export.signal, decoded))

        if head.encoding in _DECODED:
            return self._decoder.answer(head.encoding, request.body, connection, take, self._failed)
        take(request.body)
        return None

    def _work(self, answer: _ExportAnswer, records: Iterator[Record]) -> None:
        """Hand on records for a while."""
        try:
            end = self._reactor.seconds() + SLICE_SECONDS
            for record in records:
                self._write(answer, record)
                if self._reactor.seconds() > end:
                    self._reactor.callLater(0, self._work, answer, records)
                    return
        except Exception:
            answer.crash(self._failed(Failure()))
        else:
            answer.all_handed_on()

    def _write(self, answer: _ExportAnswer, flat: Record) -> None:
        export = answer.export
        record = RecordContext(
            export.timestamp_ms,
            export.client_ip,
            export.headers,
            html_safe(orjson.dumps(flat).decode()).encode(),
            export.signal.value,
            flat,
        )
        waiting = answer.next_record()
        for source in export.sources:
            for _, sink in self._router.eligible(source, export.signal.value):
                waiting.missing += 1
                write_record(sink, record, waiting, _log)
        waiting.one_less()


@attrs.frozen
class _Export:
    """What all records of an export share."""

    signal: Signal
    encoding: Encoding
    sources: Sequence[SourceKey]
    timestamp_ms: int
    client_ip: str
    headers: RecordHeaders


class _ExportAnswer:
    """Counts what becomes of the records of one export, and answers it."""

    def __init__(self, export: _Export, connection: Connection) -> None:
        self.export = export
        self._connection = connection
        self._missing = 1  # for those that aren't handed on yet
        self._records = 0
        self._rejected = 0
        self._status = 200
        self._first_error = ""

    def next_record(self) -> _RecordAnswer:
        self._missing += 1
        self._records += 1
        return _RecordAnswer(self)

    def settled(self, status: int) -> None:
        """Every sink has answered for one record, with *status* as the worst."""
        if status >= _FAILED:
            self._rejected += 1
            self._status = max(self._status, status)
            self._first_error = self._first_error or f"sink write failed with status {status}"
        self._one_less()

    def all_handed_on(self) -> None:
        self._one_less()

    def crash(self, answer: bytes) -> None:
        """The fault is ours; what was handed on may be stored."""
        if self._connection.pending is self:
            self._connection.finish(answer)

    def _one_less(self) -> None:
        self._missing -= 1
        if not self._missing and self._connection.pending is self:
            outcome = Outcome(self._records, self._rejected, self._status, self._first_error)
            export = self.export
            self._connection.finish(export_answer(export.signal, export.encoding, outcome))


class _RecordAnswer:
    """What becomes of one record. Plays `stream.source.interfaces.IAnswer` for each of its sinks.

    :ivar missing: sinks that haven't answered, and one more while others may be added.
    """

    __slots__ = ("_all", "_status", "missing")

    def __init__(self, all_records: _ExportAnswer) -> None:
        self.missing = 1
        self._all = all_records
        self._status = 200

    def stored(self) -> None:
        self.one_less()

    def accepted(self, status: int) -> None:
        self._status = max(self._status, status)
        self.one_less()

    def failed(self, error: Exception) -> None:
        self._status = max(self._status, status_of(error))
        self.one_less()

    def one_less(self) -> None:
        self.missing -= 1
        if not self.missing:
            self._all.settled(self._status)


def _bearer_token(headers: RecordHeaders) -> str:
    """The token of the ``Authorization`` header; empty without one."""
    value = headers.map.get("Authorization", "")
    if value[: len(_BEARER)].lower() != _BEARER:
        return ""
    return value[len(_BEARER) :].strip()


def _without_authorization(headers: RecordHeaders) -> RecordHeaders:
    """It holds the source's secret."""
    return RecordHeaders(
        tuple((name, value) for name, value in headers.raw if name.lower() != b"authorization")
    )
