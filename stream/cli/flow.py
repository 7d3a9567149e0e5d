"""The flow of records through sinks, computed from answers of the API. Pure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import attrs

from stream.client.events import Event

__all__ = ["SinkFlow", "flows", "live_counts", "rates"]

Key = tuple[str, str]
"""Source id and sink id."""


@attrs.frozen
class SinkFlow:
    """The flow of records through one sink to its table.

    :ivar files: number of files that are not imported, by state.
    :ivar oldest: receive time of the oldest record that is not in the table yet.
    :ivar read_at: monotonic time at which the state was read.
    """

    key: Key
    state: str
    records: int
    in_table: int
    bytes: int
    oldest: str | None
    files: Mapping[str, int]
    rejected: int | None
    error: str
    read_at: float

    def row(self, per_second: float | None, now: float) -> dict[str, Any]:
        """Return the row that is shown for the sink.

        :param now: seconds since the epoch.
        """
        return {
            "sourceId": self.key[0],
            "sinkId": self.key[1],
            "state": self.state,
            "recordsPerSecond": None if per_second is None else round(per_second, 1),
            "records": self.records,
            "inTable": self.in_table,
            "waiting": max(0, self.records - self.in_table),
            "oldestSeconds": _age(self.oldest, now),
            "bytes": self.bytes,
            "files": dict(self.files),
            "rejected": self.rejected,
            "error": self.error,
        }


def _age(moment: str | None, now: float) -> float | None:
    try:
        return None if not moment else max(0.0, now - datetime.fromisoformat(moment).timestamp())
    except ValueError:
        return None


def flows(
    source: Mapping[str, Any], state_of: Callable[[Any], str], read_at: float
) -> list[SinkFlow]:
    """Return the flows of the sinks of *source*, an entry of the aggregation."""
    return [
        _flow(source["sourceId"], sink, state_of(sink), read_at)
        for sink in source.get("sinks") or ()
    ]


def _flow(source_id: str, sink: Mapping[str, Any], state: str, read_at: float) -> SinkFlow:
    statistics = sink.get("statistics") or {}
    total = statistics.get("total") or {}
    levels = statistics.get("levels") or {}
    waiting = [level for name, level in levels.items() if name != "target"]
    files = [file for file in statistics.get("files") or () if file.get("state") != "imported"]
    rejected = statistics.get("rejected") or sink.get("rejected") or {}
    moments = [level["firstRecordAt"] for level in waiting if level.get("firstRecordAt")]
    return SinkFlow(
        key=(source_id, sink["sinkId"]),
        state=state,
        records=total.get("recordsCount", 0),
        in_table=(levels.get("target") or {}).get("recordsCount", 0),
        bytes=sum(level.get("compressedSize", 0) for level in waiting),
        oldest=min(moments, default=None),
        files=Counter(file.get("state", "") for file in files),
        rejected=rejected.get("count"),
        error=_error(files, rejected),
        read_at=read_at,
    )


def _error(files: Sequence[Mapping[str, Any]], rejected: Mapping[str, Any]) -> str:
    """Return the problem to show: one that blocks files, otherwise the last rejected record."""
    for file in files:
        if file.get("retryReason"):
            return f"attempt {file.get('retryAttempt', '?')}: {file['retryReason']}"
    last = rejected.get("lastError") or {}
    return str(last.get("message") or last.get("reason") or "")


def rates(before: Iterable[SinkFlow], now: Iterable[SinkFlow]) -> dict[Key, float]:
    """Return the records per second between two readings."""
    earlier = {flow.key: flow for flow in before}
    found = {}
    for flow in now:
        last = earlier.get(flow.key)
        if last is not None and flow.read_at > last.read_at:
            came = max(0, flow.records - last.records)
            found[flow.key] = came / (flow.read_at - last.read_at)
    return found


def live_counts(events: Iterable[Event]) -> dict[Key, float]:
    """Return the records per second of each sink, from the first two events with counters.

    Raises ValueError: the events end before the second one.
    """
    first: dict[Key, int] = {}
    began = 0.0
    for event in events:
        if event.name != "counters":
            continue
        counters = json.loads(event.data)
        at = datetime.fromisoformat(str(counters["time"])).timestamp()
        counts = {
            (source["sourceId"], sink["sinkId"]): int(sink.get("records", 0))
            for source in counters.get("sources") or ()
            for sink in source.get("sinks") or ()
        }
        if not began:
            first, began = counts, at
        elif at > began:
            # Later events contain only the sinks that have changed.
            return {
                key: max(0, counts.get(key, count) - count) / (at - began)
                for key, count in first.items()
            }
    raise ValueError("the live events have ended")
