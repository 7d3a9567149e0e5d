"""Exports through the listener's handler."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from twisted.logger import capturedLogs

from stream.errors import UserError
from stream.mapping.columns import BodyColumn, Mapping, PathColumn, Template, TemplateColumn
from stream.mapping.render import compile_renderer
from stream.record.context import RecordContext
from stream.source.dispatcher import SourceEntry
from stream.source.http.handler import IngestHandler
from stream.source.interfaces import IAnswer
from stream.source.otlp import handler
from stream.source.otlp.decode import Encoding, Signal, decode_request
from stream.source.otlp.handler import INLINE_BYTES
from tests.source.http.test_handler import KEY, SECRET, FakeConnection, FakeSink, Listener
from tests.source.otlp.test_flatten import logs

URL = "/otlp/123/my-source/v1/logs"
WITH_SECRET = f"/otlp/123/my-source/{SECRET}/v1/logs"
BEARER = f"Authorization: bearer {SECRET}\r\n"
JSON = "Content-Type: application/json\r\n"
PROTOBUF = "Content-Type: application/x-protobuf\r\n"


class PickySink(FakeSink):
    """Refuses records whose body text is a status."""

    def write(self, record: RecordContext, answer: IAnswer, /) -> int | None:
        text = str(record.body_map["body"])
        if text.isdigit():
            raise UserError("refused", status=int(text))
        return super().write(record, answer)


@pytest.fixture
def listener() -> Listener:
    listener = Listener()
    listener.dispatcher.clear()
    listener.otlp_dispatcher.put(SourceEntry(KEY, "otlp", True, SECRET))
    listener.router.sinks[KEY] = [("k", PickySink())]
    return listener


def sink(listener: Listener) -> FakeSink:
    first = listener.router.sinks[KEY][0][1]
    assert isinstance(first, FakeSink)
    return first


def export(*bodies: str) -> bytes:
    """A request with a log record for each body."""
    records = [{"body": {"stringValue": body}} for body in bodies]
    return json.dumps(logs(*records)).encode()


def protobuf(*bodies: str) -> bytes:
    encoded: bytes = decode_request(Signal.LOGS, Encoding.JSON, export(*bodies)).SerializeToString()
    return encoded


def test_everything_stored(listener: Listener) -> None:
    """The empty success in the encoding of the request; the sink sees flat records."""
    status, headers, body = listener.get(URL, export("a", "b"), headers=BEARER + JSON)
    assert (status, headers["Content-Type"], body) == (200, "application/json", b"{}")
    status, headers, body = listener.get(WITH_SECRET, protobuf("c"), headers=PROTOBUF)
    assert (status, headers["Content-Type"], body) == (200, "application/x-protobuf", b"")
    records = sink(listener).records
    assert [record.body_map["body"] for record in records] == ["a", "b", "c"]
    assert listener.router.signals == ["logs"] * 3
    assert "Authorization" not in records[0].headers.map
    assert json.loads(records[0].body)["scope"]["version"] == "1.2.3"


def test_compressed_export(listener: Listener) -> None:
    """Decoded at once or later, with the bound of the listener."""
    gzipped = BEARER + PROTOBUF + "Content-Encoding: gzip\r\n"
    assert listener.get(URL, gzip.compress(protobuf("a")), headers=gzipped)[0] == 200
    large = gzip.compress(protobuf(*["x" * 100] * 500), 0)
    assert listener.get(URL, large, headers=gzipped)[0] == 200
    assert listener.get(URL, gzip.compress(bytes(200_000)), headers=gzipped)[0] == 413
    assert listener.get(URL, b"no gzip", headers=gzipped)[0] == 400
    assert len(sink(listener).records) == 501


def test_partial_success(listener: Listener) -> None:
    """Some records stored: a success that counts the others."""
    body = export("a", "500", "b", "400")
    status, _, answer = listener.get(URL, body, headers=BEARER + JSON)
    message = "2 of 4 records rejected; first error: sink write failed with status 500"
    assert status == 200
    assert json.loads(answer) == {
        "partialSuccess": {"rejectedLogRecords": "2", "errorMessage": message}
    }
    status, _, answer = listener.get(URL, protobuf("a", "500"), headers=BEARER + PROTOBUF)
    response = ExportLogsServiceResponse()
    response.ParseFromString(answer)
    assert response.partial_success.rejected_log_records == 1


@pytest.mark.parametrize(("statuses", "expected"), [(("400", "503"), 503), (("429",), 429)])
def test_everything_rejected(listener: Listener, statuses: tuple[str, ...], expected: int) -> None:
    """The highest status without a body; with a hint when to come again where that may help."""
    status, headers, body = listener.get(URL, export(*statuses), headers=BEARER + JSON)
    assert (status, body, headers["Retry-After"]) == (expected, b"", "1")
    assert "Content-Type" not in headers


def test_any_of_several_sinks_rejects(listener: Listener) -> None:
    """A record counts once, however many sinks refuse it."""
    listener.router.sinks[KEY] += [("l", PickySink()), ("m", FakeSink(202))]
    _, _, answer = listener.get(URL, export("500", "a"), headers=BEARER + JSON)
    assert json.loads(answer)["partialSuccess"]["rejectedLogRecords"] == "1"


def test_what_several_sinks_have_stored(listener: Listener) -> None:
    """A header counts rows, the message counts rejected records that aren't lost everywhere."""
    listener.router.sinks[KEY] += [("l", FakeSink())]
    status, headers, answer = listener.get(URL, export("503", "a", "400"), headers=BEARER + JSON)
    assert (status, headers["Stream-Stored"]) == (200, "4/6")
    partial = json.loads(answer)["partialSuccess"]
    assert partial["rejectedLogRecords"] == "2"
    assert partial["errorMessage"].endswith("; other sinks have stored 2 of them")
    status, headers, _ = listener.get(URL, export("503", "500"), headers=BEARER + JSON)
    assert (status, headers["Stream-Stored"]) == (503, "2/4; unknown=1")
    assert "Stream-Stored" not in listener.get(URL, export("a"), headers=BEARER + JSON)[1]


def test_answer_waits_for_the_sinks(listener: Listener) -> None:
    """An export is answered when its last record is."""
    sink(listener).outcome = "wait"
    assert listener.send(URL, export("a", "b"), headers=BEARER + JSON) is None
    first, second = sink(listener).waiting
    second.stored()
    assert listener.connection.answers == []
    first.stored()
    assert len(listener.connection.answers) == 1


@pytest.mark.parametrize("body", [b"{}", b'{"resourceLogs":[]}'])
def test_empty_export(listener: Listener, body: bytes) -> None:
    """Nothing to do, nothing wrong."""
    assert listener.get(URL, body, headers=BEARER + JSON)[::2] == (200, b"{}")


def test_no_sink(listener: Listener) -> None:
    """Without a sink that takes the signal a record counts as stored."""
    listener.router.sinks[KEY] = []
    assert listener.get(URL, export("a"), headers=BEARER + JSON)[::2] == (200, b"{}")


@pytest.mark.parametrize(
    ("target", "headers", "status", "error"),
    [
        ("/otlp/foo/my-source/v1/logs", BEARER + JSON, 400, "badRequest"),
        (URL, JSON, 404, "noSourceFound"),
        (URL, f"Authorization: Basic {SECRET}\r\n" + JSON, 404, "noSourceFound"),
        (URL.replace("my-source", "other"), BEARER + JSON, 404, "noSourceFound"),
        ("/otlp/123/my-source/v1/profiles", BEARER + JSON, 404, "routeNotFound"),
        ("/otlp/123/my-source/v2/logs", BEARER + JSON, 404, "routeNotFound"),
        (f"/stream/123/my-source/{SECRET}", JSON, 404, "noSourceFound"),
        (URL, BEARER + "Content-Type: text/plain\r\n", 415, "unsupportedMediaType"),
    ],
)
def test_refusals(listener: Listener, target: str, headers: str, status: int, error: str) -> None:
    """In the order of project, source, content type; always as JSON."""
    found, _, body = listener.get(target, export("a"), headers=headers)
    assert (found, json.loads(body)["error"]) == (status, f"stream.in.{error}")


def test_other_methods(listener: Listener) -> None:
    """As on the routes of HTTP sources."""
    status, headers, body = listener.get(URL, method="OPTIONS")
    assert (status, headers["Access-Control-Allow-Origin"], body) == (200, "*", b"")
    status, headers, _ = listener.get(URL, method="GET")
    assert (status, headers["Allow"]) == (405, "OPTIONS, POST")


@pytest.fixture
def turns(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, Any]]:
    """What is put off, while each look at the clock takes three milliseconds."""
    ticks = iter(range(10_000))
    put_off: list[tuple[Any, Any]] = []
    monkeypatch.setattr(listener.clock, "seconds", lambda: next(ticks) * 0.003)
    monkeypatch.setattr(
        listener.clock, "callLater", lambda delay, work, *args: put_off.append((work, args))
    )
    return put_off


def test_long_export_lets_others_have_their_turn(
    listener: Listener, turns: list[tuple[Any, Any]]
) -> None:
    """It is handed on for a few milliseconds at a time, and answered once."""
    body = export(*[f"r{i}" for i in range(20)])
    assert listener.send(URL, body, headers=BEARER + JSON) is None
    for work, args in turns:
        assert listener.connection.answers == []
        work(*args)
    assert len(turns) > 2
    assert len(listener.connection.answers) == 1
    assert len(sink(listener).records) == 20


def large(count: int = 600) -> bytes:
    body = export(*["x" * 50] * count)
    assert len(body) > INLINE_BYTES[Encoding.JSON]
    return body


def second_connection(listener: Listener) -> FakeConnection:
    """What was waited for goes on on the connection before."""
    connection, listener.connection = listener.connection, FakeConnection()
    return connection


def test_large_exports_are_decoded_elsewhere_one_after_another(listener: Listener) -> None:
    """The second begins when all records of the first are handed on."""
    listener.pool.is_held = True
    assert listener.send(URL, large(), headers=BEARER + JSON) is None
    first = second_connection(listener)
    assert listener.send(URL, large(), headers=BEARER + JSON) is None
    listener.pool.is_held = False
    listener.pool.release()
    assert len(first.answers) == 1
    assert (listener.connection.answers, len(sink(listener).records)) == ([], 600)
    listener.clock.advance(0)
    assert len(listener.connection.answers) == 1
    assert len(sink(listener).records) == 1200


def test_large_exports_that_nobody_waits_for_are_given_up(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While they wait, and while they are decoded; those behind them have their turn."""
    decoded: list[int] = []

    def decode(signal: Signal, encoding: Encoding, body: bytes) -> Any:
        decoded.append(len(body))
        return decode_request(signal, encoding, body)

    monkeypatch.setattr(handler, "decode_request", decode)
    listener.pool.is_held = True
    lost = []
    for _ in range(300):
        assert listener.send(URL, large(), headers=BEARER + JSON) is None
        lost.append(second_connection(listener))
    assert listener.send(URL, large(700), headers=BEARER + JSON) is None
    for connection in lost:
        connection.pending = None
    listener.pool.is_held = False
    listener.pool.release()
    for _ in lost:
        listener.clock.advance(0)
    assert decoded == [len(large()), len(large(700))]
    assert not any(connection.answers for connection in lost)
    assert len(listener.connection.answers) == 1
    assert len(sink(listener).records) == 700


def test_too_many_large_exports(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are to come again; one alone is always taken."""
    monkeypatch.setattr(handler, "MAX_LARGE_BYTES", 1)
    listener.pool.is_held = True
    assert listener.send(URL, large(), headers=BEARER + JSON) is None
    first = second_connection(listener)
    status, headers, _ = listener.get(URL, large(), headers=BEARER + JSON)
    assert (status, headers["Retry-After"]) == (503, "1")
    listener.pool.is_held = False
    listener.pool.release()
    listener.clock.advance(0)
    assert len(first.answers) == 1
    assert listener.get(URL, large(), headers=BEARER + JSON)[0] == 200


def test_large_export_that_cannot_be_read(listener: Listener) -> None:
    """Refused as a small one; the next is read."""
    status, _, body = listener.get(URL, large()[:-1], headers=BEARER + JSON)
    assert (status, json.loads(body)["error"]) == (400, "stream.in.badRequest")
    listener.clock.advance(0)
    assert listener.get(URL, large(), headers=BEARER + JSON)[0] == 200


def test_export_that_nobody_waits_for_is_not_handed_on_further(
    listener: Listener, turns: list[tuple[Any, Any]]
) -> None:
    """After a timeout the rest of its records costs nothing."""
    assert listener.send(URL, export(*["r"] * 20), headers=BEARER + JSON) is None
    listener.connection.pending = None
    [(work, args)] = turns
    work(*args)
    assert len(turns) == 1
    assert len(sink(listener).records) < 5
    assert listener.connection.answers == []


def test_doubles_are_printed_alike_in_both_encodings(listener: Listener) -> None:
    """Whole ones without a fraction, in the record and in its columns."""
    render = compile_renderer(Mapping((PathColumn("b", path="body"), BodyColumn("r"))), 10_000).row
    document = json.dumps(logs({"body": {"doubleValue": 3.0}})).encode()
    encoded = decode_request(Signal.LOGS, Encoding.JSON, document).SerializeToString()
    for headers, data in ((JSON, document), (PROTOBUF, encoded)):
        assert listener.get(URL, data, headers=BEARER + headers)[0] == 200
        row = render(sink(listener).records[-1])
        assert row.startswith(b'"3","{')
        assert b'""body"":3,' in row


def test_rejected_records_are_logged(listener: Listener) -> None:
    """Once for an export, with the first reason."""
    with capturedLogs() as logged:
        listener.get(URL, export("500", "a", "400"), headers=BEARER + JSON)
    [entry] = [event for event in logged if "rejected" in event["log_format"]]
    assert (entry["rejected"], entry["records"], entry["reason"]) == (2, 3, "Refused.")
    assert SECRET not in str(entry)


def test_fault_of_ours(listener: Listener) -> None:
    """A sink that crashes rejects the record; the exporter may try again."""
    broken = sink(listener)
    broken.write = lambda *_: 1 // 0  # type: ignore[method-assign]
    status, _, body = listener.get(URL, export("a"), headers=BEARER + JSON)
    assert (status, body) == (500, b"")
    assert isinstance(listener.handler, IngestHandler)


def test_worked_example(listener: Listener) -> None:
    """Paths and a template over a flat record, cell for cell."""
    record = {
        "timeUnixNano": "1717243200000000000",
        "severityNumber": 9,
        "body": {"stringValue": "User login successful"},
        "attributes": [
            {"key": "user.id", "value": {"stringValue": "u-42"}},
            {"key": "request.id", "value": {"stringValue": "req-abc123"}},
        ],
    }
    request = decode_request(Signal.LOGS, Encoding.JSON, json.dumps(logs(record)).encode())
    user = Template("jsonnet", "Body('attributes')['user.id']")
    columns = (
        PathColumn("t", path="timestamp", raw_string=True),
        PathColumn("s", path="severity_number"),
        PathColumn("b", path="body", raw_string=True),
        TemplateColumn("u", template=user, raw_string=True),
        PathColumn("i", path="trace_id", raw_string=True, default_value=""),
        PathColumn("a", path="attributes"),
        PathColumn("o", path="observed_timestamp"),
    )
    render = compile_renderer(Mapping(columns), 10_000).row
    expected = (
        b'"2024-06-01T12:00:00Z","9","User login successful","u-42","",'
        b'"{""user.id"":""u-42"",""request.id"":""req-abc123""}",""""""\n'
    )
    body = request.SerializeToString()
    for headers, data in ((PROTOBUF, body), (JSON, json.dumps(logs(record)).encode())):
        assert listener.get(URL, data, headers=BEARER + headers)[0] == 200
        assert render(sink(listener).records[-1]) == expected
