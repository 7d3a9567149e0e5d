"""Sends events about sources, slices and files in the background; failures are only logged."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import ensureDeferred
from twisted.logger import Logger

from stream.authority import SourceChange
from stream.concurrency.deadline import within
from stream.definition.key import SinkKey
from stream.storage.model.statistics import Statistics
from stream.target.keboola.client import StorageApi
from stream.target.keboola.event import Event, EventParams, EventStatistics
from stream.values.token import Token

__all__ = ["EventSender"]

_log = Logger()


class EventSender:
    """Sends the events that users see in Keboola.

    :param timeout: time limit of sending in seconds; nothing waits for the event to be sent.
    """

    def __init__(self, api: StorageApi, timeout: float, reactor: Any) -> None:
        self._api = api
        self._timeout = timeout
        self._reactor = reactor

    def send(
        self,
        token: Token,
        operation: str,
        done: str,
        sink: SinkKey,
        *,
        seconds: float,
        error: Exception | None,
        statistics: Statistics | None = None,
    ) -> None:
        """Send an event about work on a sink.

        :param operation: name of the operation, for example ``sliceUpload``.
        :param done: name of the operation as shown to users, for example ``Slice upload``.
        :param seconds: duration of the operation.
        """
        event = Event(
            component=f"keboola.stream.{operation}",
            message=f"{done} done." if error is None else f"{done} failed.",
            duration=seconds,
            params=EventParams(sink.project_id, sink.branch_id, sink.source_id, sink.sink_id),
            error=None if error is None else str(error),
            statistics=_event_statistics(statistics),
        )
        self._send(token, event)

    def send_source_change(self, token: Token, change: SourceChange) -> None:
        """Send the event about a change of a source, or about the failure of the change."""
        key = change.key
        event = Event(
            component=f"keboola.stream.source{change.verb.capitalize()}",
            message=f"Source {change.verb} {'done' if change.error is None else 'failed'}.",
            duration=change.seconds,
            params=EventParams(
                key.project_id, key.branch_id, key.source_id, source_name=change.name
            ),
            error=None if change.error is None else str(change.error),
        )
        self._send(token, event)

    def _send(self, token: Token, event: Event) -> None:
        sending = ensureDeferred(self._api.send_event(token, event))
        within(sending, self._timeout, self._reactor, "sending an event")
        sending.addErrback(
            lambda failure: _log.warn("cannot send an event: {error}", error=failure.value)
        )


def _event_statistics(statistics: Statistics | None) -> EventStatistics | None:
    if (
        statistics is None
        or statistics.first_record_at is None
        or statistics.last_record_at is None
    ):
        return None
    return EventStatistics(
        first_record_at=statistics.first_record_at,
        last_record_at=statistics.last_record_at,
        records_count=statistics.records_count,
        slices_count=statistics.slices_count,
        uncompressed_size=statistics.uncompressed_size,
        compressed_size=statistics.compressed_size,
        staging_size=statistics.staging_size,
    )
