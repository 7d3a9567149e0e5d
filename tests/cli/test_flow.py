"""The flow of records, computed from the API's answers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stream.cli.flow import flows, live_counts, rates
from stream.client.events import Event

_WAITING = {
    "firstRecordAt": "2026-05-01T10:00:00.000Z",
    "recordsCount": 3,
    "compressedSize": 100,
    "uncompressedSize": 300,
}
_STATISTICS: dict[str, Any] = {
    "total": {"recordsCount": 10},
    "levels": {
        "local": {**_WAITING, "firstRecordAt": "2026-05-01T10:00:07.000Z"},
        "staging": _WAITING,
        "target": {**_WAITING, "recordsCount": 4, "firstRecordAt": "2026-04-01T10:00:00.000Z"},
    },
    "files": [
        {"state": "imported", "retryReason": "old"},
        {"state": "writing"},
        {"state": "importing", "retryAttempt": 2, "retryReason": "No table."},
    ],
}


def _flow(at: float = 0.0, **statistics: Any) -> Any:
    sink = {"sinkId": "orders", "statistics": {**_STATISTICS, **statistics}}
    [flow] = flows({"sourceId": "shop", "sinks": [sink]}, lambda _: "enabled", at)
    return flow


def test_a_sink() -> None:
    """Waiting records aren't in a table yet, and the oldest one determines the age."""
    row = _flow().row(1.26, 1777629630.0)
    assert row == {
        "sourceId": "shop",
        "sinkId": "orders",
        "state": "enabled",
        "recordsPerSecond": 1.3,
        "records": 10,
        "inTable": 4,
        "waiting": 6,
        "oldestSeconds": 30.0,
        "bytes": 200,
        "files": {"writing": 1, "importing": 1},
        "rejected": None,
        "error": "attempt 2: No table.",
    }


def test_rejected_records() -> None:
    """Rejected records are shown if no file has an error."""
    rejected = {"count": 7, "lastError": {"reason": "x", "message": "No path."}}
    row = _flow(files=[], rejected=rejected).row(None, 0.0)
    assert (row["rejected"], row["error"], row["recordsPerSecond"]) == (7, "No path.", None)


def test_a_service_without_statistics() -> None:
    """The statistics are shown as unknown, and the command doesn't fail."""
    [flow] = flows({"sourceId": "s", "sinks": [{"sinkId": "x"}]}, lambda _: "enabled", 0.0)
    assert flow.row(None, 0.0)["records"] == 0
    assert flows({"sourceId": "s"}, lambda _: "", 0.0) == []


def test_rates() -> None:
    """Rates are computed between two readings; a reset of statistics gives no negative rate."""
    earlier, later = _flow(1.0), _flow(3.0, total={"recordsCount": 30})
    assert rates([earlier], [later]) == {("shop", "orders"): 10.0}
    assert rates([later], [_flow(9.0)]) == {("shop", "orders"): 0.0}
    assert rates([], [later]) == {}


def _counters(second: int, **sinks: int) -> Event:
    shown = [{"sinkId": sink_id, "records": records} for sink_id, records in sinks.items()]
    time = f"2026-05-01T10:00:0{second}.000Z"
    return Event(
        "counters", json.dumps({"time": time, "sources": [{"sourceId": "shop", "sinks": shown}]})
    )


def test_live_counts() -> None:
    """Two readings of the counters give the rates; unchanged counters are left out of the second
    one.
    """
    events = [Event("file", "{}"), _counters(1, a=5, b=5), _counters(3, a=25)]
    assert live_counts(events) == {("shop", "a"): 10.0, ("shop", "b"): 0.0}
    with pytest.raises(ValueError, match="ended"):
        live_counts(events[:2])
