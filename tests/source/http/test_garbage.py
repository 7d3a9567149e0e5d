"""Requests create no reference cycles, since garbage collections are rare under load."""

from __future__ import annotations

import gc
import gzip
from collections.abc import Iterator
from typing import Any

import pytest

from stream.errors import UserError
from stream.mapping.columns import PathColumn
from stream.source.dispatcher import SourceEntry
from tests.source.http.test_handler import KEY, PATH, SECRET, FakeSink, Listener

_LINES = "Content-Type: application/x-ndjson\r\n"
_JSON = "Content-Type: application/json\r\n"
_FORM = "Content-Type: application/x-www-form-urlencoded\r\n"
_GZIP = "Content-Encoding: gzip\r\n"
_PROTOBUF = "Content-Type: application/x-protobuf\r\n"
_OTLP = f"/otlp/123/my-source/{SECRET}/v1/logs"
_EXPORT = b'{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"severityText":"x"}]}]}]}'
_USER = (PathColumn("p", path="user"),)


class _Busy(FakeSink):
    """A sink that raises a new error each time."""

    def __init__(self, error: type[Exception]) -> None:
        super().__init__()
        self._error = error

    def _answer(self, completion: Any) -> None:
        raise self._error("no pipeline is ready")


@pytest.fixture(scope="module", autouse=True)
def _few_objects() -> Iterator[None]:
    """Limit collections to the objects of these tests."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.parametrize(
    ("sinks", "request_"),
    [
        ([FakeSink()], {"body": b"{}"}),
        ([FakeSink(), FakeSink()], {"body": b"{}"}),
        ([FakeSink(), FakeSink(202)], {"body": b"{}", "target": PATH + "?verbose=true"}),
        ([_Busy(UserError)], {"body": b"{}"}),
        ([_Busy(UserError), FakeSink()], {"body": b"{}"}),
        ([FakeSink(columns=_USER)], {"body": b"no json", "headers": _JSON}),
        ([FakeSink(columns=_USER)], {"body": b"no json"}),
        ([FakeSink()], {"body": b"{}\n" * 50, "headers": _LINES}),
        ([FakeSink(), _Busy(UserError)], {"body": b"{}\n" * 50, "headers": _LINES}),
        ([FakeSink(columns=_USER)], {"body": b'{"user":1}\nx\n', "headers": _LINES}),
        ([FakeSink()], {"body": b"{" * 50, "headers": _LINES}),
        (
            [FakeSink()],
            {"body": gzip.compress(b"{}"), "headers": "Content-Encoding: gzip\r\n"},
        ),
        ([FakeSink()], {"body": b"{}", "headers": "Content-Encoding: gzip\r\n"}),
        ([FakeSink()], {"body": b"{}", "headers": "Idempotency-Key: a\r\n"}),
        # Batches, large records and exports that are refused as a whole, at once or in a thread.
        ([FakeSink()], {"body": b"\n" * 20_000, "headers": _LINES}),
        ([FakeSink()], {"body": b"[1,", "target": PATH + "?batch=true", "headers": _JSON}),
        ([FakeSink(columns=_USER)], {"body": b"a" * 5000, "headers": _FORM}),
        ([FakeSink()], {"body": b"a[b=1&" * 1000, "headers": _FORM}),
        ([FakeSink(columns=_USER)], {"body": b"a[b=1&" * 1000, "headers": _FORM}),
        ([FakeSink(columns=_USER)], {"body": b"[" * 70_000, "headers": _JSON}),
        ([FakeSink(columns=_USER)], {"body": b'{"user":1e400}', "headers": _JSON}),
        ([FakeSink()], {"body": gzip.compress(b"\n" * 99_999, 0), "headers": _LINES + _GZIP}),
        ([FakeSink()], {"body": gzip.compress(b"\n" * 150_000, 0), "headers": _LINES + _GZIP}),
        ([FakeSink()], {"body": b"no gzip" * 5000, "headers": _LINES + _GZIP}),
        ([FakeSink()], {"target": _OTLP, "body": b"{}", "headers": _JSON}),
        ([FakeSink()], {"target": _OTLP, "body": b"[]", "headers": _JSON}),
        ([FakeSink()], {"target": _OTLP, "body": _EXPORT, "headers": _JSON}),
        ([_Busy(UserError)], {"target": _OTLP, "body": _EXPORT, "headers": _JSON}),
        ([FakeSink()], {"target": _OTLP, "body": b"\xff" * 100_000, "headers": _PROTOBUF}),
        ([FakeSink()], {"target": "/stream/123/another/" + "K" * 48}),
        ([FakeSink()], {"target": "/nowhere"}),
    ],
    ids=lambda value: None,
)
def test_no_reference_cycles(sinks: list[FakeSink], request_: dict[str, Any]) -> None:
    """The objects of a request are freed when it is answered, even after a failure."""
    listener = Listener()
    listener.otlp_dispatcher.put(SourceEntry(KEY, "otlp", True, SECRET))
    listener.router.sinks[KEY] = [(str(i), sink) for i, sink in enumerate(sinks)]

    def send() -> None:
        assert listener.send(**request_) is not None
        listener.clock.advance(0)
        for sink in sinks:
            for kept in (sink.rows, sink.records, sink.blocks, sink.dead):
                kept.clear()

    send()
    gc.collect()
    gc.disable()
    try:
        for _ in range(5):
            send()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        assert [type(x).__name__ for x in gc.garbage] == []
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
