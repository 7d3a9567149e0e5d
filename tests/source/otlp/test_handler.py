"""Exports through the listener's request handler."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from twisted.logger import capturedLogs

from stream.errors import UserError
from stream.mapping import effort
from stream.mapping.columns import BodyColumn, Mapping, PathColumn, Template, TemplateColumn
from stream.mapping.render import Renderer, compile_renderer
from stream.record.context import RecordContext
from stream.sink.outcome import Completion
from stream.source.dispatcher import SourceEntry
from stream.source.http.handler import IngestHandler
from stream.source.otlp.decode import Signal
from stream.source.otlp.handler import RECORDS_AT_ONCE
from tests.source.http.test_handler import KEY, SECRET, FakeSink, Listener
from tests.source.otlp.test_flatten import as_protobuf, logs
from tests.templates.inprocess import row

URL = "/otlp/123/my-source/v1/logs"
WITH_SECRET = f"/otlp/123/my-source/{SECRET}/v1/logs"
BEARER = f"Authorization: bearer {SECRET}\r\n"
JSON = "Content-Type: application/json\r\n"
PROTOBUF = "Content-Type: application/x-protobuf\r\n"


class PickySink(FakeSink):
    """A sink that refuses records whose body text is a status, and takes single records only."""

    def renderer(self) -> Renderer:
        raise UserError("not several at once", status=503)

    def take(self, record: RecordContext, completion: Completion) -> None:
        text = str(record.body_map["body"])
        if text.isdigit():
            raise UserError("refused", status=int(text))
        super().take(record, completion)


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
    """Return a request with a log record for each body."""
    records = [{"body": {"stringValue": body}} for body in bodies]
    return json.dumps(logs(*records)).encode()


def protobuf(*bodies: str) -> bytes:
    return as_protobuf(Signal.LOGS, json.loads(export(*bodies)))


def test_everything_stored(listener: Listener) -> None:
    """The answer is the empty success in the encoding of the request; the sink gets flat
    records.
    """
    status, headers, body = listener.get(URL, export("a", "b"), headers=BEARER + JSON)
    assert (status, headers["Content-Type"], body) == (200, "application/json", b"{}")
    status, headers, body = listener.get(WITH_SECRET, protobuf("c"), headers=PROTOBUF)
    assert (status, headers["Content-Type"], body) == (200, "application/x-protobuf", b"")
    records = sink(listener).records
    assert [record.body_map["body"] for record in records] == ["a", "b", "c"]
    assert [signal for signal in listener.router.signals if signal] == ["logs"] * 2
    assert "Authorization" not in records[0].headers.map
    assert json.loads(records[0].body)["scope"]["version"] == "1.2.3"


def test_compressed_export(listener: Listener) -> None:
    """The export is decoded at once or in a thread, with the limit of the listener."""
    gzipped = BEARER + PROTOBUF + "Content-Encoding: gzip\r\n"
    assert listener.get(URL, gzip.compress(protobuf("a")), headers=gzipped)[0] == 200
    large = gzip.compress(protobuf(*["x" * 100] * 500), 0)
    assert listener.get(URL, large, headers=gzipped)[0] == 200
    assert listener.get(URL, gzip.compress(bytes(200_000)), headers=gzipped)[0] == 413
    assert listener.get(URL, b"no gzip", headers=gzipped)[0] == 400
    assert len(sink(listener).records) == 501


def test_a_long_export_waits_for_capacity(listener: Listener) -> None:
    """Templates may be slow: the export resumes when there is capacity, unless it was cancelled."""
    picky = sink(listener)
    picky.templates.is_full = True
    body = export(*["x"] * 500)
    assert listener.send(WITH_SECRET, body, headers=JSON) is None
    while len(picky.records) < 60 and listener.clock.getDelayedCalls():
        listener.clock.advance(0)
    listener.clock.pump([0.0] * 50)
    assert 0 < len(picky.records) < 128
    picky.templates.release()
    listener.clock.pump([0.0] * 200)
    assert len(picky.records) == 500
    assert listener.connection.answers[-1].startswith(b"HTTP/1.1 200 ")


def test_partial_success(listener: Listener) -> None:
    """The answer is a success that counts the rejected records."""
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


def status_of(body: bytes) -> tuple[int, str, str]:
    """Return code, message and machine-readable name of a ``google.rpc.Status``."""
    status, info = Status(), ErrorInfo()
    status.ParseFromString(body)
    assert status.details[0].Unpack(info)
    return status.code, status.message, info.reason


@pytest.mark.parametrize(
    ("statuses", "expected", "code", "reason"),
    [
        (("400", "503"), 503, 14, "2 of 2 records rejected; first error: sink write failed with "),
        (("429",), 429, 8, "1 of 1 records rejected; first error: sink write failed with status "),
        (("400",), 400, 3, "first error: sink write failed with status 400: Refused."),
        (("500",), 500, 13, "first error: sink write failed with status 500."),
    ],
)
def test_everything_rejected(
    listener: Listener, statuses: tuple[str, ...], expected: int, code: int, reason: str
) -> None:
    """The answer has the highest status, a reason, and a delay if a retry may help."""
    status, headers, body = listener.get(URL, export(*statuses), headers=BEARER + JSON)
    assert (status, headers["Content-Type"]) == (expected, "application/json")
    assert ("Retry-After" in headers) is (expected in (429, 503))
    document = json.loads(body)
    assert (document["code"], document["error"]) == (code, "stream.in.recordsRejected")
    assert reason in document["message"]
    status, headers, body = listener.get(URL, protobuf(*statuses), headers=BEARER + PROTOBUF)
    assert (status, headers["Content-Type"]) == (expected, "application/x-protobuf")
    assert status_of(body) == (code, document["message"], "stream.in.recordsRejected")


def test_several_sinks_reject_a_record(listener: Listener) -> None:
    """The record counts once."""
    listener.router.sinks[KEY] += [("l", PickySink()), ("m", FakeSink(202))]
    _, _, answer = listener.get(URL, export("500", "a"), headers=BEARER + JSON)
    assert json.loads(answer)["partialSuccess"]["rejectedLogRecords"] == "1"


def test_rows_of_several_sinks_are_counted(listener: Listener) -> None:
    """A header counts rows; the message counts rejected records, and those stored by other
    sinks.
    """
    listener.router.sinks[KEY] += [("l", FakeSink())]
    status, headers, answer = listener.get(URL, export("503", "a", "400"), headers=BEARER + JSON)
    assert (status, headers["Stream-Stored"]) == (200, "4/6")
    partial = json.loads(answer)["partialSuccess"]
    assert partial["rejectedLogRecords"] == "2"
    assert partial["errorMessage"].endswith("; other sinks have stored 2 of them")
    status, headers, _ = listener.get(URL, export("503", "500"), headers=BEARER + JSON)
    assert (status, headers["Stream-Stored"]) == (503, "2/4; unknown=1")
    assert "Stream-Stored" not in listener.get(URL, export("a"), headers=BEARER + JSON)[1]


def test_records_are_handled_in_parts(listener: Listener) -> None:
    """Each sink gets some records at a time, in order; the answer waits for all of them."""
    sinks = [FakeSink("wait"), FakeSink("wait", (PathColumn("b", path="body", raw_string=True),))]
    listener.router.sinks[KEY] = [("k", sinks[0]), ("l", sinks[1])]
    bodies = [f"r{number}" for number in range(2 * RECORDS_AT_ONCE + 1)]
    assert listener.send(URL, export(*bodies), headers=BEARER + JSON) is None
    listener.clock.pump([0.0] * 10)
    for each in sinks:
        assert [count for _, count in each.blocks] == [RECORDS_AT_ONCE, RECORDS_AT_ONCE, 1]
        assert not each.records
    rows = b"".join(text for text, _ in sinks[1].blocks)
    assert rows == b"".join(b'"%b"\n' % body.encode() for body in bodies)
    first, *rest = [completion for each in sinks for completion in each.waiting]
    for completion in rest:
        completion.stored()
    assert listener.connection.answers == []
    first.stored()
    assert listener.connection.answers[-1].startswith(b"HTTP/1.1 200 ")


def test_a_sink_that_accepts_no_rows(listener: Listener) -> None:
    """Each record counts as rejected once, and the rows of other sinks are stored."""
    full = FakeSink(UserError("no pipeline is ready", status=503))
    listener.router.sinks[KEY] = [("k", FakeSink()), ("l", full)]
    status, headers, body = listener.get(URL, export("a", "b"), headers=BEARER + JSON)
    assert (status, headers["Stream-Stored"]) == (503, "2/4")
    assert json.loads(body)["message"].startswith("2 of 2 records rejected; first error: ")
    assert "other sinks have stored 2 of them" in json.loads(body)["message"]


def test_a_sink_that_fails_later(listener: Listener) -> None:
    """Rows that were written together have the same outcome."""
    waits = FakeSink("wait")
    listener.router.sinks[KEY] = [("k", waits)]
    assert listener.send(URL, export("a", "b", "c"), headers=BEARER + JSON) is None
    waits.waiting.pop().failed(UserError("row not stored", status=503))
    answer = listener.connection.answers[-1]
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"3 of 3 records rejected" in answer
    assert b"Stream-Stored: 0/3" in answer


def test_a_row_that_can_not_be_rendered(listener: Listener) -> None:
    """The other records of its part are written one by one."""
    picky = FakeSink(columns=(PathColumn("b", path="body.name", raw_string=True),))
    listener.router.sinks[KEY] = [("k", picky)]
    document = logs({"body": {"stringValue": "no name"}}, named("a"), named("b"))
    body = json.dumps(document).encode()
    status, _, answer = listener.get(URL, body, headers=BEARER + JSON)
    assert status == 200
    assert json.loads(answer)["partialSuccess"]["rejectedLogRecords"] == "1"
    assert picky.rows == [b'"a"\n', b'"b"\n']
    assert not picky.blocks


@pytest.mark.parametrize("is_long", [True, False])
def test_a_record_that_takes_long(
    listener: Listener, is_long: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The records of its part are written one by one, so that the engine can render it."""
    monkeypatch.setattr(effort, "MAX_PRINTED", 20 if is_long else 50)
    template = Template("jsonnet", "Body('body')")
    slow = FakeSink(columns=[TemplateColumn(f"t{n}", template=template) for n in range(9)])
    listener.router.sinks[KEY] = [("k", slow)]
    values = [{"intValue": "1"}] * 4
    document = logs({"body": {"stringValue": "a"}}, {"body": {"arrayValue": {"values": values}}})
    body = json.dumps(document).encode()
    assert listener.get(URL, body, headers=BEARER + JSON)[0] == 200
    assert len(slow.records) == (2 if is_long else 0)
    assert [count for _, count in slow.blocks] == ([] if is_long else [2])


def named(name: str) -> dict[str, Any]:
    """Return a log record whose body is an object with a name."""
    values = [{"key": "name", "value": {"stringValue": name}}]
    return {"body": {"kvlistValue": {"values": values}}}


def test_the_answer_waits_for_the_sinks(listener: Listener) -> None:
    """An export is answered when its last record is."""
    sink(listener).outcome = "wait"
    assert listener.send(URL, export("a", "b"), headers=BEARER + JSON) is None
    first, second = sink(listener).waiting
    second.stored()
    assert listener.connection.answers == []
    first.stored()
    assert len(listener.connection.answers) == 1


@pytest.mark.parametrize("body", [b"{}", b'{"resourceLogs":[]}'])
def test_an_empty_export(listener: Listener, body: bytes) -> None:
    """An export without records succeeds."""
    assert listener.get(URL, body, headers=BEARER + JSON)[::2] == (200, b"{}")


def test_no_sink_for_the_signal(listener: Listener) -> None:
    """A record without a sink for its signal counts as stored."""
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
def test_refusals_have_the_encoding_of_the_request(
    listener: Listener, target: str, headers: str, status: int, error: str
) -> None:
    """Project, source and content type are checked in this order."""
    found, answered, body = listener.get(target, export("a"), headers=headers)
    document = json.loads(body)
    assert (found, document["error"]) == (status, f"stream.in.{error}")
    assert answered["Content-Type"] == "application/json"
    if JSON not in headers or error == "routeNotFound" or "/stream/" in target:
        return
    found, answered, body = listener.get(target, b"", headers=headers.replace(JSON, PROTOBUF))
    assert (found, answered["Content-Type"]) == (status, "application/x-protobuf")
    assert status_of(body) == (document["code"], document["message"], document["error"])


@pytest.mark.parametrize(
    ("headers", "body", "status", "message"),
    [
        (PROTOBUF, b"\xff\xff\xff", 400, "Cannot decode OTLP logs payload"),
        (PROTOBUF + "Content-Encoding: gzip\r\n", b"x", 400, "Cannot decompress gzip body"),
        (PROTOBUF + "Content-Encoding: deflate\r\n", b"", 415, "Unsupported content encoding"),
        (
            PROTOBUF + "Content-Encoding: gzip\r\n",
            gzip.compress(bytes(200_000)),
            413,
            "Request body",
        ),
    ],
)
def test_exports_that_can_not_be_parsed(
    listener: Listener, headers: str, body: bytes, status: int, message: str
) -> None:
    """The status has the kind of error for an exporter."""
    found, answered, body = listener.get(URL, body, headers=BEARER + headers)
    assert (found, answered["Content-Type"]) == (status, "application/x-protobuf")
    code, text, _ = status_of(body)
    assert (code, text[: len(message)]) == (3, message)
    assert ("Accept-Encoding" in answered) is (status == 415)


def test_shared_parts_are_counted_before_the_first_record(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An export whose shared parts are too large is refused as a whole: no record is passed on."""
    monkeypatch.setattr("stream.source.otlp.flatten.MAX_REPEATED_BYTES", 1000)
    document = json.loads(export("a", "b", "c"))
    text = {"key": "k", "value": {"stringValue": "x" * 600}}
    document["resourceLogs"][0]["resource"] = {"attributes": [text]}
    status, _, body = listener.get(URL, json.dumps(document).encode(), headers=BEARER + JSON)
    assert (status, sink(listener).records) == (413, [])
    assert "counted once for each record" in json.loads(body)["message"]


@pytest.mark.parametrize("encoding", ["x-gzip", "identity, gzip", "GZIP"])
def test_names_of_encodings(listener: Listener, encoding: str) -> None:
    """The names of gzip are those of HTTP sources."""
    headers = f"{BEARER}{PROTOBUF}Content-Encoding: {encoding}\r\n"
    assert listener.get(URL, gzip.compress(protobuf("a")), headers=headers)[0] == 200
    assert len(sink(listener).records) == 1


def test_other_methods(listener: Listener) -> None:
    """Other methods are refused as by HTTP sources."""
    status, headers, body = listener.get(URL, method="OPTIONS")
    assert (status, headers["Access-Control-Allow-Origin"], body) == (200, "*", b"")
    status, headers, _ = listener.get(URL, method="GET")
    assert (status, headers["Allow"]) == (405, "OPTIONS, POST")


@pytest.fixture
def turns(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return the postponed work, with a clock that advances two milliseconds per read."""
    ticks = iter(range(10_000))
    put_off: list[Any] = []
    monkeypatch.setattr(listener.clock, "seconds", lambda: next(ticks) * 0.002)
    monkeypatch.setattr(listener.clock, "callLater", lambda delay, work: put_off.append(work))
    return put_off


def test_a_long_export_lets_others_take_turns(listener: Listener, turns: list[Any]) -> None:
    """The export is handled for a few milliseconds at a time, and answered once."""
    body = export(*[f"r{i}" for i in range(100)])
    assert listener.send(URL, body, headers=BEARER + JSON) is None
    for work in turns:
        assert not listener.connection.answers or work is turns[-1]
        work()
    assert len(turns) > 2
    assert len(listener.connection.answers) == 1
    assert len(sink(listener).records) == 100


def test_a_cancelled_export(listener: Listener, turns: list[Any]) -> None:
    """After a timeout the remaining records aren't handled."""
    assert listener.send(URL, export(*["r"] * 100), headers=BEARER + JSON) is None
    while not sink(listener).records:
        turns.pop(0)()
    listener.connection.pending = None
    for work in turns:
        work()
    assert len(sink(listener).records) < 50
    assert listener.connection.answers == []


def test_doubles_are_printed_the_same_in_both_encodings(listener: Listener) -> None:
    """Integral doubles have no fraction, in the record and in its columns."""
    render = compile_renderer(Mapping((PathColumn("b", path="body"), BodyColumn("r"))), 10_000).row
    document = logs({"body": {"doubleValue": 3.0}})
    encoded = as_protobuf(Signal.LOGS, document)
    for headers, data in ((JSON, json.dumps(document).encode()), (PROTOBUF, encoded)):
        assert listener.get(URL, data, headers=BEARER + headers)[0] == 200
        row = render(sink(listener).records[-1])
        assert row.startswith(b'"3","{')
        assert b'""body"":3,' in row


def test_rejected_records_are_logged(listener: Listener) -> None:
    """Rejected records are logged once per export, with the first reason."""
    with capturedLogs() as logged:
        listener.get(URL, export("500", "a", "400"), headers=BEARER + JSON)
    [entry] = [event for event in logged if "rejected" in event["log_format"]]
    assert (entry["rejected"], entry["records"], entry["reason"]) == (2, 3, "Refused.")
    assert SECRET not in str(entry)


def test_an_unexpected_error(listener: Listener) -> None:
    """A sink that fails rejects the record, without a published reason."""
    broken = sink(listener)
    broken.outcome = ZeroDivisionError("division by zero")
    status, _, body = listener.get(URL, export("a"), headers=BEARER + JSON)
    assert (status, json.loads(body)["code"]) == (500, 13)
    assert b"division" not in body
    assert isinstance(listener.handler, IngestHandler)


def test_an_example_with_all_columns(listener: Listener) -> None:
    """The cells of paths and a template over a flat record are compared."""
    record = {
        "timeUnixNano": "1717243200000000000",
        "severityNumber": 9,
        "body": {"stringValue": "User login successful"},
        "attributes": [
            {"key": "user.id", "value": {"stringValue": "u-42"}},
            {"key": "request.id", "value": {"stringValue": "req-abc123"}},
        ],
    }
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
    renderer = compile_renderer(Mapping(columns), 10_000)
    expected = (
        b'"2024-06-01T12:00:00Z","9","User login successful","u-42","",'
        b'"{""user.id"":""u-42"",""request.id"":""req-abc123""}",""""""\n'
    )
    body = as_protobuf(Signal.LOGS, logs(record))
    for headers, data in ((PROTOBUF, body), (JSON, json.dumps(logs(record)).encode())):
        assert listener.get(URL, data, headers=BEARER + headers)[0] == 200
        assert row(renderer, sink(listener).records[-1]) == expected
