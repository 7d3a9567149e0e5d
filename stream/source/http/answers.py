"""Requests that wait for their sinks, and the result document."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Protocol

import attrs
from twisted.logger import Logger

from stream.definition.key import SourceKey
from stream.errors import UserError, let_go
from stream.ops.metrics.registry import SourceMeter
from stream.record.context import RecordContext
from stream.sink.outcome import Stored
from stream.source.http import responses
from stream.source.interfaces import IAnswer, ISinkWriter

__all__ = [
    "ACCEPTED",
    "PROCESSED",
    "Connection",
    "FanOutCompletion",
    "Received",
    "ReportFailure",
    "SingleAnswer",
    "SinkAnswer",
    "Targets",
    "count_stored",
    "is_unknown",
    "outcome_members",
    "status_of",
    "write_record",
]

PROCESSED = 200
ACCEPTED = 202
_WRITE_FAILED = "stream.in.writeFailed"


class Connection(Protocol):
    """What an answer needs of the connection that its request came on.

    :ivar pending: what the connection waits for. An answer that comes too late, after a timeout or
        a lost connection, finds something else there, and is dropped.
    :ivar peer_ip: the other side's address.
    """

    pending: object
    peer_ip: str

    def finish(self, answer: bytes, /) -> None:
        """Send the answer to the pending request."""


Targets = Sequence[tuple[SourceKey, Sequence[tuple[str, ISinkWriter]]]]
"""Sources with the ids of their sinks, and what writes to these."""

ReportFailure = Callable[[SourceKey, int, Sequence[tuple[str, Exception]]], None]
"""Source, number of its sinks, and ids and errors of those that failed."""


@attrs.define(eq=False)  # one is made for each record: a frozen one takes three times as long
class Received:
    """A request with several answers to wait for, to be counted when they are all there.

    :ivar meters: of its sources.
    :ivar at: milliseconds since the epoch.
    :ivar size: bytes of its body.
    """

    meters: Mapping[SourceKey, SourceMeter]
    at: int
    size: int

    def stored(self, source: SourceKey) -> None:
        """Every sink of *source* has stored the record."""
        self.meters[source].stored(self.at, self.size)

    def answered(self, source: SourceKey, *, failed: bool, records: int = 1) -> None:
        """Every sink of *source* has answered."""
        self.meters[source].answered(self.at, self.size, failed=failed, records=records)


class SingleAnswer:
    """A request for one sink of one source: the usual case, kept as cheap as can be.

    :param meter: of the source.
    :param at: when the request was received, milliseconds since the epoch.
    :param size: bytes of its body.
    """

    __slots__ = (
        "_at",
        "_connection",
        "_meter",
        "_report",
        "_sink_id",
        "_size",
        "_source",
        "_verbose",
    )

    def __init__(
        self,
        connection: Connection,
        source: SourceKey,
        sink_id: str,
        verbose: bool,
        report: ReportFailure,
        meter: SourceMeter,
        at: int,
        size: int,
    ) -> None:
        self._meter = meter
        self._at = at
        self._size = size
        self._connection = connection
        self._source = source
        self._sink_id = sink_id
        self._verbose = verbose
        self._report = report

    def stored(self) -> None:
        self._meter.stored(self._at, self._size)
        if self._connection.pending is self:
            if self._verbose:
                self._finish_with_document(PROCESSED, None)
            else:
                self._connection.finish(responses.OK)

    def accepted(self, status: int) -> None:
        """The sink doesn't wait, and says so with *status*."""
        self._meter.stored(self._at, self._size)
        if self._verbose or status not in (PROCESSED, ACCEPTED):
            self._finish_with_document(status, None)
        else:
            self._connection.finish(responses.ACCEPTED if status == ACCEPTED else responses.OK)

    def failed(self, error: Exception) -> None:
        self._meter.answered(self._at, self._size, failed=True)
        self._report(self._source, 1, ((self._sink_id, error),))
        if self._connection.pending is self:
            self._finish_with_document(status_of(error), error)

    def _finish_with_document(self, status: int, error: Exception | None) -> None:
        self._connection.finish(
            _document([(self._source, [(self._sink_id, status, error)])], status)
        )


class _Answers(Protocol):
    """All answers to a request, told of each."""

    def one_more(self) -> None:
        """A sink has answered."""


class SinkAnswer:
    """The answer of one of several sinks.

    :ivar status: 0 until there is one.
    """

    __slots__ = ("_all", "error", "sink_id", "status")

    def __init__(self, all_answers: _Answers, sink_id: str) -> None:
        self._all = all_answers
        self.sink_id = sink_id
        self.status = 0
        self.error: Exception | None = None

    def stored(self) -> None:
        if not self.status:
            self.status = PROCESSED
            self._all.one_more()

    def accepted(self, status: int) -> None:
        """The sink doesn't wait, and says so with *status*."""
        if not self.status:
            self.status = status
            self._all.one_more()

    def failed(self, error: Exception) -> None:
        if not self.status:
            self.status = status_of(error)
            self.error = error
            self._all.one_more()


class FanOutCompletion:
    """A request for any number of sinks of any number of sources.

    Every record of a source with two sinks comes this way, so nothing is made here that isn't
    needed by an answer that tells nothing but "OK", and no circle of references is left behind:
    the garbage collector would stop everything for tens of milliseconds, several times a second.

    :param targets: sources sorted as they are to be shown, with their sinks.
    :param received: counts the request.

    :ivar sources: the answers of each source's sinks.
    :ivar writers: of all sinks, each with the answer that it is to give.
    """

    __slots__ = (
        "_connection",
        "_missing",
        "_received",
        "_report",
        "_verbose",
        "sources",
        "writers",
    )

    def __init__(
        self,
        connection: Connection,
        targets: Targets,
        verbose: bool,
        report: ReportFailure,
        received: Received,
    ) -> None:
        self._received = received
        self._connection = connection
        self._verbose = verbose
        self._report = report
        self.sources = []
        self.writers = []
        for source, sinks in targets:
            answers = []
            for sink_id, writer in sinks:
                answer = SinkAnswer(self, sink_id)
                answers.append(answer)
                self.writers.append((writer, answer))
            self.sources.append((source, answers))
        self._missing = len(self.writers)

    def one_more(self) -> None:
        """A sink has answered."""
        self._missing -= 1
        if not self._missing:
            self._all_there()
            self.sources.clear()
            self.writers.clear()

    def _all_there(self) -> None:
        status = PROCESSED
        failed = False
        for source, answers in self.sources:
            errors = []
            for answer in answers:
                if answer.status > status:
                    status = answer.status
                if answer.error is not None:
                    errors.append((answer.sink_id, answer.error))
            if not errors:
                self._received.stored(source)
            else:
                failed = True
                self._received.answered(source, failed=True)
                self._report(source, len(answers), errors)
        if self._connection.pending is not self:
            return
        if not failed and not self._verbose and status in (PROCESSED, ACCEPTED):
            self._connection.finish(responses.ACCEPTED if status == ACCEPTED else responses.OK)
            return
        outcome = [
            (source, [(answer.sink_id, answer.status, answer.error) for answer in answers])
            for source, answers in self.sources
        ]
        self._connection.finish(_document(outcome, status))

    def nothing_to_wait_for(self) -> bytes:
        """The answer if no source has a sink that takes the record."""
        for source, _ in self.sources:
            self._received.answered(source, failed=False)
        if not self._verbose:
            return responses.OK
        return _document([(source, []) for source, _ in self.sources], PROCESSED)


def write_record(sink: ISinkWriter, record: RecordContext, answer: IAnswer, log: Logger) -> None:
    """Hand *record* to *sink*; *answer* is told what becomes of it, at once or later."""
    try:
        status = sink.write(record, answer)
    except UserError as error:
        answer.failed(let_go(error))
    except Exception as error:
        log.failure("write record error: {reason}", reason=str(error))
        answer.failed(let_go(error))
    else:
        if status is not None:
            answer.accepted(status)


def count_stored(outcome: Iterable[tuple[int, Exception | None]]) -> Stored:
    """*outcome* has the rows that a sink was given, and its error, if it has one."""
    rows = stored = unknown = 0
    for given, error in outcome:
        rows += given
        if error is None:
            stored += given
        elif is_unknown(error):
            unknown += given
    return Stored(rows, stored, unknown)


def is_unknown(error: Exception) -> bool:
    """Whether *error* leaves open if the row is stored."""
    return status_of(error) == HTTPStatus.INTERNAL_SERVER_ERROR


def status_of(error: Exception) -> int:
    """The status that answers *error*."""
    return error.status if isinstance(error, UserError) else 500


SinkOutcome = tuple[str, int, Exception | None]
Outcome = Sequence[tuple[SourceKey, Sequence[SinkOutcome]]]


def _document(outcome: Outcome, status: int) -> bytes:
    every = [sink for _, sinks in outcome for sink in sinks]
    members = _summary(every, status)
    if len(every) == 1 and every[0][2] is not None:
        error = every[0][2]
        members["message"] = responses.error_message(error)
        members |= responses.hint_member(error)
    members["sources"] = outcome_members(outcome)
    stored = count_stored((1, error) for _, _, error in every)
    return responses.document(status, members, responses.stored_header(stored))


def outcome_members(outcome: Outcome) -> list[dict[str, Any]]:
    """What became of a request at each sink of each source, for the result document."""
    sources = []
    for source, sinks in outcome:
        members: dict[str, Any] = {
            "projectId": source.project_id,
            "sourceId": source.source_id,
            "branchId": source.branch_id,
            **_summary(sinks, max([PROCESSED, *(sink[1] for sink in sinks)])),
        }
        if sinks:
            members["sinks"] = [_sink_members(*sink) for sink in sinks]
        sources.append(members)
    return sources


def _summary(sinks: Sequence[SinkOutcome], status: int) -> dict[str, Any]:
    count = len(sinks)
    stored = sum(1 for sink in sinks if sink[2] is None)
    if not count:
        return {"statusCode": status, "message": "No enabled sink found."}
    if stored == count:
        message = f"Successfully written to {count}/{count} sinks."
        return {"statusCode": status, "message": message}
    message = f"Written to {stored}/{count} sinks."
    return {"statusCode": status, "error": _WRITE_FAILED, "message": message}


def _sink_members(sink_id: str, status: int, error: Exception | None) -> dict[str, Any]:
    if error is None:
        message = "accepted" if status == ACCEPTED else "processed"
        return {"sinkId": sink_id, "statusCode": status, "message": message}
    return {
        "sinkId": sink_id,
        "statusCode": status,
        "error": responses.error_name(error, "genericError"),
        "message": responses.error_message(error),
        **responses.hint_member(error),
    }
