"""The result document, which shows the outcome of a request at each sink of each source."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Any

from stream.definition.key import SourceKey
from stream.errors import UserError
from stream.sink.outcome import ACCEPTED, PROCESSED, Stored
from stream.source.http import responses

__all__ = [
    "Outcome",
    "count_stored",
    "is_unknown",
    "outcome_members",
    "result_document",
    "status_of",
]

_WRITE_FAILED = "stream.in.writeFailed"

SinkOutcome = tuple[str, int, Exception | None]
"""The ID of a sink, its status, and its error, if any."""

Outcome = Sequence[tuple[SourceKey, Sequence[SinkOutcome]]]
"""Sources in the order of the answer, with the outcomes of their sinks."""


def count_stored(outcome: Iterable[tuple[int, Exception | None]]) -> Stored:
    """Return how many rows are stored, and how many rows the sinks were given.

    :param outcome: for each sink the number of its rows, and its error, if any.
    """
    rows = stored = unknown = 0
    for given, error in outcome:
        rows += given
        if error is None:
            stored += given
        elif is_unknown(error):
            unknown += given
    return Stored(rows, stored, unknown)


def is_unknown(error: Exception) -> bool:
    """Return whether it is unknown after *error* if the row is stored."""
    return status_of(error) == HTTPStatus.INTERNAL_SERVER_ERROR


def status_of(error: Exception) -> int:
    """Return the HTTP status of the answer to *error*."""
    return error.status if isinstance(error, UserError) else 500


def result_document(outcome: Outcome, status: int) -> bytes:
    """Return the answer, with *status*, that shows the outcome of one record."""
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
    """Return the member ``sources`` of the result document."""
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
