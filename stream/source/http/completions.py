"""Requests that are waiting for their sinks, the last stage of the ingestion path.

Each class here implements or creates a `stream.sink.outcome.Completion`. The sinks call the
completion, which answers the request on its connection.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import attrs

from stream.definition.key import SourceKey
from stream.ops.metrics.registry import SourceMeter
from stream.sink.outcome import ACCEPTED, PROCESSED
from stream.source.http import responses
from stream.source.http.result_document import result_document, status_of
from stream.source.interfaces import SinkWriter

__all__ = [
    "Connection",
    "FanOutCompletion",
    "Received",
    "ReportFailure",
    "SingleCompletion",
    "SinkCompletion",
    "Targets",
    "Waited",
]


class Connection(Protocol):
    """The part of a connection that the stages of its requests use.

    :ivar pending: the completion that the connection is waiting for. A completion that is called
        too late, after a timeout or a lost connection, finds another value and drops its answer.
    :ivar peer_ip: IP address of the peer.
    """

    pending: object
    peer_ip: str

    def finish(self, answer: bytes, /) -> None:
        """Send the answer to the pending request. All requests are answered by this method."""


Targets = Sequence[tuple[SourceKey, Sequence[tuple[str, SinkWriter]]]]
"""Sources with the IDs and writers of their sinks."""

ReportFailure = Callable[[SourceKey, int, Sequence[tuple[str, Exception]]], None]
"""Called with a source, the number of its sinks, and the IDs and errors of failed sinks."""


class Waited:
    """The pending answer of a connection, while its request is in progress.

    :ivar connection: connection of the client.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._awaited: object = None  # if ``None``, the object itself, without a reference cycle
        connection.pending = self

    @property
    def is_pending(self) -> bool:
        """Whether the client is still waiting."""
        return self.connection.pending is (self if self._awaited is None else self._awaited)

    def wait_for(self, completion: object) -> None:
        """Wait for *completion* from now on."""
        self._awaited = self.connection.pending = completion

    def finish(self, answer: bytes) -> None:
        """Answer the request, unless the client has disconnected."""
        if self.is_pending:
            self.connection.finish(answer)


@attrs.define(eq=False)  # created for each record; a frozen class would take three times as long
class Received:
    """The meter of a request with several sinks, which is counted when all have answered.

    :ivar meters: meters of the request's sources.
    :ivar at: receive time, milliseconds since the epoch.
    :ivar size: size of the body in bytes.
    """

    meters: Mapping[SourceKey, SourceMeter]
    at: int
    size: int

    def stored(self, source: SourceKey) -> None:
        """Count the record as stored by every sink of *source*."""
        self.meters[source].stored(self.at, self.size)

    def answered(self, source: SourceKey, *, failed: bool, records: int = 1) -> None:
        """Count the records as answered by every sink of *source*."""
        self.meters[source].answered(self.at, self.size, failed=failed, records=records)


class SingleCompletion:
    """A request for one sink of one source, the most common case.

    :param meter: meter of the source.
    :param at: receive time, milliseconds since the epoch.
    :param size: size of the body in bytes.
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
        connection = self._connection
        if connection.pending is self:
            if self._verbose:
                self._finish_with_document(PROCESSED, None)
            else:
                connection.finish(responses.OK)

    def accepted(self, status: int) -> None:
        self._meter.stored(self._at, self._size)
        if self._connection.pending is not self:
            return
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
            result_document([(self._source, [(self._sink_id, status, error)])], status)
        )


class _AllCompletions(Protocol):
    """The common part of the completions of one request."""

    def one_more(self) -> None:
        """Handle the answer of a sink."""


class SinkCompletion:
    """The completion of one of several sinks.

    :ivar status: HTTP status of the sink's answer; 0 until the sink has answered.
    """

    __slots__ = ("_all", "error", "sink_id", "status")

    def __init__(self, all_completions: _AllCompletions, sink_id: str) -> None:
        self._all = all_completions
        self.sink_id = sink_id
        self.status = 0
        self.error: Exception | None = None

    def stored(self) -> None:
        if not self.status:
            self.status = PROCESSED
            self._all.one_more()

    def accepted(self, status: int) -> None:
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

    Every record of a source with two sinks uses this class. Therefore it allocates nothing that a
    plain "OK" doesn't need, and leaves no reference cycle. Otherwise the garbage collector would
    pause the process for tens of milliseconds, several times a second.

    :param targets: sources in the order of the answer, with their sinks.
    :param received: counts the request in the metrics.

    :ivar sources: completions of the sinks of each source.
    :ivar writers: writers of all sinks, each with its completion.
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
            completions = []
            for sink_id, writer in sinks:
                completion = SinkCompletion(self, sink_id)
                completions.append(completion)
                self.writers.append((writer, completion))
            self.sources.append((source, completions))
        self._missing = len(self.writers)

    def one_more(self) -> None:
        """Handle the answer of a sink."""
        self._missing -= 1
        if not self._missing:
            self._all_there()
            self.sources.clear()
            self.writers.clear()

    def _all_there(self) -> None:
        status = PROCESSED
        failed = False
        for source, completions in self.sources:
            errors = []
            for completion in completions:
                if completion.status > status:
                    status = completion.status
                if completion.error is not None:
                    errors.append((completion.sink_id, completion.error))
            if not errors:
                self._received.stored(source)
            else:
                failed = True
                self._received.answered(source, failed=True)
                self._report(source, len(completions), errors)
        if self._connection.pending is not self:
            return
        if not failed and not self._verbose and status in (PROCESSED, ACCEPTED):
            self._connection.finish(responses.ACCEPTED if status == ACCEPTED else responses.OK)
            return
        outcome = [
            (source, [(each.sink_id, each.status, each.error) for each in completions])
            for source, completions in self.sources
        ]
        self._connection.finish(result_document(outcome, status))

    def refused(self) -> None:
        """Refuse the record, because no source has a sink for it."""
        for source, _ in self.sources:
            self._received.answered(source, failed=True)

    def nothing_to_wait_for(self) -> bytes:
        """Answer a request whose sources have no sink for the record."""
        for source, _ in self.sources:
            self._received.answered(source, failed=False)
        if not self._verbose:
            return responses.OK
        return result_document([(source, []) for source, _ in self.sources], PROCESSED)
