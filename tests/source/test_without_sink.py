"""Sources without an enabled sink: their records are not stored, which is reported."""

from __future__ import annotations

import json
from typing import Any

import pytest
from twisted.logger import capturedLogs

from stream.source.dispatcher import SourceEntry
from tests.source.http.test_handler import KEY, PATH, SECRET, FakeSink, Listener
from tests.source.otlp.test_handler import BEARER, JSON, URL, export

LINES = "Content-Type: application/x-ndjson\r\n"

WAYS: dict[str, dict[str, Any]] = {
    "one record": {"body": b"{}", "headers": JSON},
    "a large record": {"body": b'{"a":"' + b"x" * 70_000 + b'"}', "headers": JSON},
    "a record with a key": {"body": b"{}", "headers": JSON + "Idempotency-Key: k\r\n"},
    "a batch": {"body": b"{}\n{}\n", "headers": LINES},
    "an export": {"target": URL, "body": export("a", "b"), "headers": BEARER + JSON},
}
COUNTS = {"a batch": 2, "an export": 2}


def _listener(*, refuses: bool = False) -> Listener:
    listener = Listener()
    for dispatcher, type in ((listener.dispatcher, "http"), (listener.otlp_dispatcher, "otlp")):
        entry: Any = SourceEntry(KEY, type, True, SECRET, refuses_without_sink=refuses)  # type: ignore[arg-type]
        dispatcher.put(entry)
    return listener


def _answer(listener: Listener, **request: Any) -> tuple[int, dict[str, str], bytes]:
    answer = listener.send(**request)
    for _ in range(50):
        if answer is not None:
            break
        listener.clock.advance(0.001)
        answer = listener.connection.answers.pop() if listener.connection.answers else None
    assert answer is not None
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return int(first.split()[1]), dict(line.split(": ", 1) for line in lines), body


def _counted(listener: Listener) -> float:
    family = listener.metrics.own("stream_source_without_sink_records")
    labels = {"project_id": "123", "branch_id": str(KEY.branch_id), "source_id": KEY.source_id}
    return float(family.labels(labels).value)


@pytest.mark.parametrize("way", WAYS)
def test_the_answer_says_that_there_is_no_sink(way: str) -> None:
    """The answer has an additional header, and the records are counted."""
    listener = _listener()
    status, headers, _ = _answer(listener, **WAYS[way])
    assert (status, headers["Stream-Sinks"]) == (200, "0")
    assert _counted(listener) == COUNTS.get(way, 1)


@pytest.mark.parametrize("way", WAYS)
def test_records_without_a_sink_can_be_refused(way: str) -> None:
    """With the setting, the answer is an error."""
    listener = _listener(refuses=True)
    status, headers, body = _answer(listener, **WAYS[way])
    assert status == 503
    assert "Stream-Sinks" not in headers
    assert json.loads(body)["error"] == "stream.in.noSink"
    assert _counted(listener) == 0


def test_a_record_with_a_sink() -> None:
    """The answer has no such header, for any value of the setting."""
    listener = _listener(refuses=True)
    listener.router.sinks[KEY] = [("k", FakeSink())]
    status, headers, _ = _answer(listener, body=b"{}")
    assert (status, "Stream-Sinks" in headers) == (200, False)
    assert _counted(listener) == 0


def test_the_log_warns_once_a_minute() -> None:
    """The number of records has no effect."""
    listener = _listener()
    with capturedLogs() as captured:
        for _ in range(5):
            _answer(listener, target=PATH, body=b"{}")
        assert len(captured) == 1
        assert captured[0]["source_id"] == str(KEY)
        listener.clock.advance(60)
        _answer(listener, body=b"{}")
    assert len(captured) == 2
    assert captured[1]["suppressed"] == 4
