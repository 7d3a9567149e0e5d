"""Events in the project's event log. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import attrs
import orjson

from stream.values.utctime import format_time

__all__ = ["Event", "EventParams", "EventStatistics"]


@attrs.frozen
class EventParams:
    """The subject of an event.

    :param sink_id: ID of the sink; ``""`` in events about a source.
    :param source_name: name of the source; omitted if empty.
    """

    project_id: int
    branch_id: int
    source_id: str
    sink_id: str = ""
    source_name: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the event's parameters as JSON for the API."""
        params: dict[str, Any] = {
            "branchId": self.branch_id,
            "projectId": self.project_id,
            "sinkId": self.sink_id,
            "sourceId": self.source_id,
            "streamId": f"{self.project_id}/{self.branch_id}/{self.source_id}",
        }
        if self.source_name:
            params["sourceName"] = self.source_name
        return params


@attrs.frozen
class EventStatistics:
    """The counts, and the sizes in bytes, of a slice or file."""

    first_record_at: datetime
    last_record_at: datetime
    records_count: int
    slices_count: int
    uncompressed_size: int
    compressed_size: int
    staging_size: int

    def to_json(self) -> dict[str, Any]:
        """Return the statistics as JSON for the API."""
        return {
            "firstRecordAt": format_time(self.first_record_at),
            "lastRecordAt": format_time(self.last_record_at),
            "recordsCount": self.records_count,
            "slicesCount": self.slices_count,
            "uncompressedSize": self.uncompressed_size,
            "compressedSize": self.compressed_size,
            "stagingSize": self.staging_size,
        }


@attrs.frozen
class Event:
    """An event in the project's event log.

    :param component: name of the component, for example ``keboola.stream.sliceUpload``.
    :param message: text for users.
    :param duration: duration in seconds; the API gets it in whole seconds.
    :param params: the subject of the event.
    :param error: why the operation failed; ``None`` if it succeeded.
    :param statistics: statistics of the moved data; omitted if there was none, or after a failure.
    """

    component: str
    message: str
    duration: float
    params: EventParams
    error: str | None = None
    statistics: EventStatistics | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the request's body, in which params and results are strings that contain JSON."""
        return {
            "component": self.component,
            "message": self.message,
            "type": "info" if self.error is None else "error",
            "duration": int(self.duration),
            "runId": "",
            "params": orjson.dumps(self.params.to_json()).decode(),
            "results": orjson.dumps(self._results()).decode(),
        }

    def _results(self) -> dict[str, Any] | None:
        if self.error is not None:
            return {"error": self.error}
        if self.statistics is not None and self.statistics.records_count > 0:
            return {"statistics": self.statistics.to_json()}
        return None
