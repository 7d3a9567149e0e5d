"""Compressed bodies, batches and requests with a key, through the request handler."""

from __future__ import annotations

import gzip
import json
from collections.abc import Hashable
from typing import Any

import pytest
import zstandard
from twisted.internet.defer import Deferred

from stream.errors import UserError
from stream.mapping.columns import PathColumn, Template, TemplateColumn
from stream.record import large
from stream.source import batch as batch_module
from stream.source.batch import RECORDS_AT_ONCE
from stream.source.dispatcher import SourceEntry
from stream.source.http import batches
from stream.source.http.content_decoding import INLINE_BYTES
from stream.source.turns import ROOM_SECONDS, Steps, Turns
from tests.source.http.test_handler import KEY, PATH, SECRET, FakeConnection, FakeSink, Listener

LINES = "Content-Type: application/x-ndjson\r\n"
JSON = "Content-Type: application/json\r\n"
GZIP = "Content-Encoding: gzip\r\n"


@pytest.fixture
def sink() -> FakeSink:
    return FakeSink(columns=[PathColumn("a", path="a")])


@pytest.fixture
def listener(sink: FakeSink) -> Listener:
    listener = Listener()
    listener.router.sinks[KEY] = [("k", sink)]
    return listener


def result(listener: Listener, body: bytes, target: str = PATH, headers: str = LINES) -> Any:
    status, _, answer = listener.get(target, body, headers=headers)
    document = json.loads(answer)
    assert document["statusCode"] == status
    return document


def _document(listener: Listener, target: str, body: bytes, headers: str) -> Any:
    return json.loads(listener.get(target, body, headers=headers)[2])


# compressed bodies


def test_a_compressed_body_is_one_record(listener: Listener, sink: FakeSink) -> None:
    """A sink gets the decoded body."""
    answer = listener.get(body=gzip.compress(b'{"a":1}'), headers=JSON + GZIP)
    assert answer[::2] == (200, b"OK")
    assert sink.rows == [b'"1"\n']


def test_a_large_compressed_body_is_decoded_in_a_thread(listener: Listener, sink: FakeSink) -> None:
    """The answer is later but the same."""
    text = json.dumps({"a": 1, "b": "".join(chr(33 + i * i % 90) for i in range(60_000))}).encode()
    body = gzip.compress(text, 0)
    assert len(body) > INLINE_BYTES
    assert listener.get(body=body, headers=JSON + GZIP)[::2] == (200, b"OK")
    assert sink.records[0].body == text


@pytest.mark.parametrize("size", [10, 50_000])
def test_a_damaged_compressed_body_is_refused(listener: Listener, size: int) -> None:
    """The error is the client's, at once or from a thread."""
    status, _, body = listener.get(body=b"x" * size, headers=JSON + GZIP)
    assert (status, json.loads(body)["error"]) == (400, "stream.in.badRequest")


def test_a_bomb_is_refused(listener: Listener, sink: FakeSink) -> None:
    """The limit is that of the decoder."""
    status, _, body = listener.get(body=gzip.compress(bytes(200_000)), headers=JSON + GZIP)
    assert (status, json.loads(body)["error"]) == (413, "stream.in.bodyTooLarge")
    assert not sink.rows


def test_an_answer_for_a_lost_connection_is_dropped(listener: Listener, sink: FakeSink) -> None:
    """Nothing is written for a client that disconnects before its body is decoded."""
    pool = listener.pool
    pool.is_held = True
    assert listener.send(body=gzip.compress(b"{}" * 40_000, 0), headers=JSON + GZIP) is None
    listener.connection.pending = None
    pool.release()
    assert (listener.connection.answers, sink.rows) == ([], [])


def _large(monkeypatch: pytest.MonkeyPatch) -> bytes:
    monkeypatch.setattr(large, "LARGE_BYTES", 70_000)
    return json.dumps({"a": 1, "b": "x" * 80_000}).encode()


def test_a_large_record_waits_for_memory(
    listener: Listener, sink: FakeSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The body is in memory anyway, so the producer isn't asked to send it again."""
    body = _large(monkeypatch)
    sink.templates.is_full = True
    assert listener.send(body=body, headers=JSON) is None
    assert not sink.rows
    sink.templates.release()
    listener.clock.advance(0)
    (answer,) = listener.connection.answers
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert sink.rows == [b'"1"\n']


def test_a_large_record_does_not_wait_forever(
    listener: Listener, sink: FakeSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record is refused as not stored before the request times out."""
    body = _large(monkeypatch)
    sink.templates.is_full = True
    sink.outcome = UserError("too many records wait", status=503, name="overloaded")
    assert listener.send(body=body, headers=JSON) is None
    listener.clock.advance(ROOM_SECONDS)
    listener.clock.advance(0)
    (answer,) = listener.connection.answers
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"Retry-After: 1\r\n" in answer
    assert b"too many records wait" in answer.lower()


@pytest.mark.parametrize(
    ("size", "count", "is_at_once"),
    [(70_000, 1, False), (60_000, 1, True), (40_000, 2, False), (10, 5, False), (10, 4, True)],
)
def test_a_record_for_many_sinks_takes_turns(
    size: int, count: int, is_at_once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rendering a small record for many sinks takes as long as rendering a large one for one."""
    sizes: list[int] = []
    work = Turns.work

    def counted(turns: Turns, key: Hashable, size: int, steps: Steps) -> Deferred[None]:
        sizes.append(size)
        return work(turns, key, size, steps)

    monkeypatch.setattr(Turns, "work", counted)
    sinks = [FakeSink(columns=[PathColumn("a", path="a")]) for _ in range(count)]
    listener = Listener()
    listener.router.sinks[KEY] = [(f"k{number}", sink) for number, sink in enumerate(sinks)]
    body = json.dumps({"a": 1, "b": "x" * size}).encode()
    assert listener.get(body=body, headers=JSON)[::2] == (200, b"OK")
    assert [sink.rows for sink in sinks] == [[b'"1"\n']] * count
    assert sizes == ([] if is_at_once else [len(body)])


def test_a_cancelled_large_record(
    listener: Listener, sink: FakeSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record isn't written when there is memory again."""
    body = _large(monkeypatch)
    sink.templates.is_full = True
    assert listener.send(body=body, headers=JSON) is None
    listener.connection.pending = None
    sink.templates.release()
    listener.clock.advance(0)
    assert (listener.connection.answers, sink.rows) == ([], [])


# batches


def test_lines_are_stored_as_one_block(listener: Listener, sink: FakeSink) -> None:
    """All rows are one block, and the answer counts them."""
    assert result(listener, b'{"a":1}\n{"a":2}\n') == {
        "statusCode": 200,
        "message": "Accepted 2/2 records.",
        "accepted": 2,
        "rejected": 0,
    }
    assert sink.blocks == [(b'"1"\n"2"\n', 2)]


def test_an_array_is_a_batch_on_request(listener: Listener, sink: FakeSink) -> None:
    """Without the parameter an array is one record."""
    assert result(listener, b'[{"a":1.0},{"a":2}]', PATH + "?batch=true", JSON)["accepted"] == 2
    assert sink.blocks == [(b'"1.0"\n"2"\n', 2)]
    listener.get(PATH, b'{"a":[1]}', headers=JSON)
    assert sink.rows == [b'"[1]"\n']


def test_lines_can_be_one_record(listener: Listener) -> None:
    """With ``batch=false`` the body is one record."""
    sink = FakeSink()
    listener.router.sinks[KEY] = [("k", sink)]
    assert listener.get(PATH + "?batch=false", b"1\n2", headers=LINES)[0] == 200
    assert (sink.rows, sink.blocks) == ([b'"1\n2"\n'], [])


@pytest.mark.parametrize("value", ["1", "TRUE", "yes", "On"])
def test_spellings_of_true(listener: Listener, sink: FakeSink, value: str) -> None:
    """Every common spelling requests a batch."""
    result(listener, b'{"a":1}\n{"a":2}\n', f"{PATH}?batch={value}")
    assert sink.blocks == [(b'"1"\n"2"\n', 2)]


@pytest.mark.parametrize("query", ["batch=", "batch", "batch=2", "batch=tru", "batch=null"])
def test_an_ambiguous_batch_is_refused(listener: Listener, sink: FakeSink, query: str) -> None:
    """Several records aren't stored as one."""
    document = _document(listener, PATH + "?" + query, b'{"a":1}\n{"a":2}\n', headers=LINES)
    assert (document["statusCode"], document["error"]) == (400, "stream.in.badRequest")
    assert "please use true or false" in document["message"]
    assert not sink.blocks and not sink.rows


def test_cloud_events_are_batches(listener: Listener, sink: FakeSink) -> None:
    """The content type of CloudEvents declares a batch; the parameter takes precedence."""
    body, content_type = (
        b'[{"a":1},{"a":2}]',
        "Content-Type: application/cloudevents-batch+json\r\n",
    )
    assert result(listener, body, headers=content_type)["accepted"] == 2
    assert sink.blocks == [(b'"1"\n"2"\n', 2)]
    assert listener.get(PATH + "?batch=false", body, headers=content_type)[0] == 400


BOM = "\ufeff".encode()


@pytest.mark.parametrize(
    ("body", "headers", "target", "rows"),
    [
        (b'{"a":1}', JSON, PATH, [b'"1"\n']),
        (b"a=1", "Content-Type: application/x-www-form-urlencoded\r\n", PATH, [b'"""1"""\n']),
        (b'{"a":1}\n{"a":2}', LINES, PATH, [b'"1"\n"2"\n']),
        (b'[{"a":1},{"a":2}]', JSON, PATH + "?batch=true", [b'"1"\n"2"\n']),
    ],
)
@pytest.mark.parametrize("is_compressed", [False, True])
def test_a_byte_order_mark_is_skipped(
    listener: Listener,
    sink: FakeSink,
    body: bytes,
    headers: str,
    target: str,
    rows: list[bytes],
    is_compressed: bool,
) -> None:
    """The mark is skipped before any body that is parsed."""
    body = BOM + body
    if is_compressed:
        body, headers = gzip.compress(body), headers + GZIP
    assert listener.get(target, body, headers=headers)[0] == 200
    assert sink.rows + [rows for rows, _ in sink.blocks] == rows


@pytest.mark.parametrize(
    ("body", "charset", "row"),
    [
        ('{"a":"ü"}'.encode("latin-1"), "iso-8859-1", '"""ü"""\n'),
        ('{"a":"ü"}'.encode(), "iso-8859-1", '"""ü"""\n'),
        ('{"a":"ü"}'.encode(), "klingon", '"""ü"""\n'),
        (b'{"b":"%b","a":"\xfc"}' % (b"\x81" * 40_000), "windows-1252", '"""ü"""\n'),
        (b'{"b":"%b","a":"\xfc"}' % (b"x" * 60_000), "iso-8859-1", '"""ü"""\n'),
    ],
    ids=["latin", "UTF-8", "unknown", "undefined bytes", "large"],
)
def test_json_is_utf_8_with_any_charset(
    listener: Listener, sink: FakeSink, body: bytes, charset: str, row: str
) -> None:
    """Other text is decoded with the declared charset."""
    headers = f"Content-Type: application/json; charset={charset}\r\n"
    assert listener.get(body=body, headers=headers)[0] == 200
    assert sink.rows == [row.encode()]


def test_text_that_is_too_large_in_utf_8_is_refused(listener: Listener, sink: FakeSink) -> None:
    """The limit of decoded bodies also applies to text in another charset."""
    headers = "Content-Type: application/json; charset=koi8-r\r\n"
    assert listener.get(body=b'{"a":1,"b":"%b"}' % (b"\xb3" * 45_000), headers=headers)[0] == 200
    assert listener.get(body=b'{"a":1,"b":"%b"}' % (b"\xb3" * 55_000), headers=headers)[0] == 413


@pytest.mark.parametrize("content_type", ["text/plain", "Text/Plain; charset=UTF-8"])
def test_text_is_json_if_the_source_says_so(
    listener: Listener, sink: FakeSink, content_type: str
) -> None:
    """Amazon SNS and pages that use ``sendBeacon`` send JSON as text."""
    headers = f"Content-Type: {content_type}\r\n"
    assert listener.get(body=b'{"a":1}', headers=headers)[0] == 415
    listener.dispatcher.put(SourceEntry(KEY, "http", True, SECRET, reads_text_as_json=True))
    assert listener.get(body=BOM + b'{"a":1.0}', headers=headers)[0] == 200
    assert sink.rows == [b'"1.0"\n']
    assert sink.records[-1].headers.map["Content-Type"] == content_type
    assert result(listener, b'[{"a":1}]', PATH + "?batch=true", headers)["accepted"] == 1
    assert listener.get(body=b'{"a":1}', headers="Content-Type: text/csv\r\n")[0] == 415


def test_rejected_lines_are_listed(listener: Listener, sink: FakeSink) -> None:
    """The other lines are stored, and the answer is 207 to differ from complete success."""
    document = result(listener, b'{"a":1}\n{}\nbroken\n\n{"b":1}\n')
    assert document["statusCode"] == 207
    assert document["error"] == "stream.in.recordsRejected"
    assert document["message"] == "Accepted 1/4 records."
    assert (document["accepted"], document["rejected"]) == (1, 3)
    missing, broken = document["errors"]
    assert missing == {
        "branchId": 111,
        "sinkId": "k",
        "statusCode": 400,
        "error": "stream.in.badRequest",
        "message": 'Cannot convert column "a" to CSV value:\n- Path "a" not found in the body.',
        "lines": [2, 5],
    }
    assert broken["lines"] == [3]
    assert sink.blocks == [(b'"1"\n', 1)]


def test_a_batch_of_rejected_records(listener: Listener, sink: FakeSink) -> None:
    """Nothing is stored, so the answer is a plain client error; items have indexes."""
    document = result(listener, b"[{}]", PATH + "?batch=true", JSON)
    assert (document["statusCode"], document["errors"][0]["indexes"]) == (400, [0])
    assert sink.blocks == []


def test_a_failing_sink_fails_the_whole_batch(listener: Listener, sink: FakeSink) -> None:
    """Rejected records are still listed, since retrying them is useless."""
    sink.outcome = UserError("row not stored", status=503, name="notStored")
    document = result(listener, b'{"a":1}\n{}\n')
    assert document["statusCode"] == 503
    assert document["error"] == "stream.in.writeFailed"
    counts = (document["accepted"], document["rejected"], document["failed"])
    assert counts == (0, 1, 1)
    assert document["message"] == "Accepted 0/2 records. Row not stored."
    assert document["sources"][0]["sinks"][0]["message"] == "Row not stored."


def test_the_answer_waits_for_the_block(listener: Listener, sink: FakeSink) -> None:
    """The answer is sent when the block is stored, as for a single record."""
    sink.outcome = "wait"
    assert listener.send(PATH, b'{"a":1}\n', headers=LINES) is None
    sink.waiting[0].stored()
    assert len(listener.connection.answers) == 1


def test_sinks_that_do_not_wait_answer_202(listener: Listener, sink: FakeSink) -> None:
    """The weaker guarantee determines the status."""
    sink.outcome = 202
    assert result(listener, b'{"a":1}\n')["statusCode"] == 202


def test_several_sinks_reject_separately(listener: Listener) -> None:
    """A record counts as stored only if every sink has it; the verbose answer lists each sink."""
    listener.router.sinks[KEY].append(("m", FakeSink()))
    document = result(listener, b'{"a":1}\nbroken\n', PATH + "?verbose=true")
    assert (document["statusCode"], document["accepted"], document["rejected"]) == (207, 1, 1)
    assert [sink["sinkId"] for sink in document["sources"][0]["sinks"]] == ["k", "m"]


def test_partly_stored_batches(listener: Listener, sink: FakeSink) -> None:
    """If a sink lacks records, the answer has the number for each sink."""
    other = FakeSink()
    listener.router.sinks[KEY].append(("m", other))
    body = b'{"a":1}\n{}\n{"a":3}\n'

    def answer() -> tuple[int, str, list[int]]:
        status, headers, text = listener.get(PATH, body, headers=LINES)
        sinks = json.loads(text)["sources"][0]["sinks"]
        return status, headers["Stream-Stored"], [each["stored"] for each in sinks]

    assert answer() == (207, "5/6", [2, 3])
    sink.outcome = UserError("full", status=507)
    assert answer() == (507, "3/6", [0, 3])
    sink.outcome = UserError("error when waiting for sync", status=500)
    assert answer() == (500, "3/6; unknown=2", [0, 3])
    other.outcome = UserError("row not stored", status=503)
    sink.outcome = UserError("row not stored", status=503)
    assert answer() == (503, "0/6", [0, 0])


def test_records_that_one_sink_rejects_and_another_stores(
    listener: Listener, sink: FakeSink
) -> None:
    """The batch isn't a failure as a whole, since a retry would duplicate the stored rows."""
    listener.router.sinks[KEY].append(("m", FakeSink()))
    status, headers, text = listener.get(PATH, b"{}\n{}\n", headers=LINES)
    document = json.loads(text)
    assert (status, headers["Stream-Stored"]) == (207, "2/4")
    assert (document["accepted"], document["rejected"]) == (0, 2)


def test_rejected_records_are_kept_after_the_others_are_stored(
    listener: Listener, sink: FakeSink
) -> None:
    """A batch that is retried as a whole contains its rejected records again."""
    sink.outcome = UserError("no pipeline is ready", status=503, name="noPipelineReady")
    assert result(listener, b'{"a":1}\nbroken\n')["statusCode"] == 503
    assert sink.dead == []
    sink.outcome = 200
    assert result(listener, b'{"a":1}\nbroken\n')["statusCode"] == 207
    assert result(listener, b"broken too\n")["statusCode"] == 400
    assert sink.dead == [(b"broken", "badRequest"), (b"broken too", "badRequest")]


# templates that need the engine


def _with_templates(listener: Listener, content: str = "Body('a') + 1") -> FakeSink:
    template = TemplateColumn("t", template=Template("jsonnet", content))
    sink = FakeSink(columns=[template])
    listener.router.sinks[KEY].append(("t", sink))
    return sink


def _finish(listener: Listener, *sinks: FakeSink) -> None:
    """Finish all evaluations, piece by piece."""
    while listener.connection.pending is not None:
        assert any(sink.templates.waiting for sink in sinks)
        for sink in sinks:
            sink.templates.release()
        listener.clock.advance(0)


def test_templates_of_a_batch_are_evaluated_first(listener: Listener, sink: FakeSink) -> None:
    """The records are evaluated in parts, and the block is written when all are rendered."""
    slow = _with_templates(listener)
    count = 2 * RECORDS_AT_ONCE + 3
    lines = [b'{"a":%d}' % number for number in range(count)]
    lines[5] = b'{"a":1,"b":1'
    lines[70] = b"{}"
    assert listener.send(PATH, b"\n".join(lines), headers=LINES) is None
    assert not sink.blocks and not slow.blocks
    assert len(slow.templates.waiting) == 1
    _finish(listener, slow)
    document = json.loads(listener.connection.answers[-1].partition(b"\r\n\r\n")[2])
    assert (document["statusCode"], document["accepted"]) == (207, count - 2)
    assert [rows for _, rows in slow.blocks] == [count - 2]
    assert slow.blocks[0][0].startswith(b'"1"\n"2"\n"3"\n"4"\n"5"\n"7"\n')
    rejected = [each for each in document["errors"] if each["sinkId"] == "t"]
    assert sorted(line for each in rejected for line in each["lines"]) == [6, 71]


def test_no_capacity_for_the_templates_of_a_batch(listener: Listener, sink: FakeSink) -> None:
    """The sink with templates gets none of the batch, and other sinks get it."""
    full = _with_templates(listener)
    full.templates.refusal = UserError("full", status=503, name="overloaded")
    body = b"\n".join([b'{"a":1}'] * 200)
    status, headers, _ = listener.get(PATH, body, headers=LINES)
    assert status == 503
    assert headers["Retry-After"] == "1"
    assert headers["Stream-Stored"] == "200/400"
    assert not full.blocks


def test_templates_of_a_cancelled_batch(listener: Listener, sink: FakeSink) -> None:
    """The results are discarded."""
    slow = _with_templates(listener)
    assert listener.send(PATH, b'{"a":1}\n{"a":2}', headers=LINES) is None
    listener.connection.pending = None
    slow.templates.release()
    listener.clock.advance(0)
    assert not slow.blocks and not sink.blocks
    assert not slow.templates.waiting


def test_slow_templates_of_a_batch(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    """The batch exceeds its total time, and must be split."""
    monkeypatch.setattr(batch_module, "MAX_TEMPLATE_SECONDS", 0.0)
    slow = _with_templates(listener)
    listener.router.sinks[KEY] = [("t", slow)]
    assert listener.send(PATH, b'{"a":1}\n{"a":2}', headers=LINES) is None
    _finish(listener, slow)
    answer = listener.connection.answers[-1]
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"please split it" in answer
    assert not slow.blocks


def test_a_batch_without_a_sink(listener: Listener) -> None:
    """The batch is accepted and dropped, like a single record."""
    listener.router.sinks[KEY] = []
    document = result(listener, b"{}\n")
    assert (document["statusCode"], document["message"]) == (200, "No enabled sink found.")


def test_an_empty_batch(listener: Listener, sink: FakeSink) -> None:
    """A batch without records succeeds."""
    assert result(listener, b"\n")["message"] == "Accepted 0/0 records."
    assert sink.blocks == []


def test_a_batch_of_another_type_is_refused(listener: Listener) -> None:
    """Only two content types define the boundaries of records."""
    document = result(listener, b"a", PATH + "?batch=true", "Content-Type: text/plain\r\n")
    assert (document["statusCode"], document["error"]) == (415, "stream.in.unsupportedMediaType")


def test_too_many_records_are_refused(listener: Listener, sink: FakeSink) -> None:
    """No record of such a batch is stored."""
    document = result(listener, b"{}\n" * 1001)
    assert (document["statusCode"], document["error"]) == (413, "stream.in.batchTooLarge")
    assert sink.blocks == []


def test_a_long_batch_lets_others_take_turns(
    sink: FakeSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch is processed for a few milliseconds at a time."""
    monkeypatch.setattr(batches, "LINES_BYTES_AT_ONCE", 512)
    listener = Listener()
    listener.router.sinks[KEY] = [("k", sink)]
    ticks = iter(range(10_000))
    monkeypatch.setattr(listener.clock, "seconds", lambda: next(ticks) * 0.004)
    turns = []

    def call_later(delay: float, work: Any, *args: Any) -> None:
        assert delay == 0
        turns.append((work, args))

    monkeypatch.setattr(listener.clock, "callLater", call_later)
    assert listener.send(PATH, b'{"a":1}\n' * 1000, headers=LINES) is None
    for work, args in turns:
        assert sink.blocks == [] or work is turns[-1][0]
        work(*args)
    assert len(turns) > 2
    assert sink.blocks[0][1] == 1000


def test_a_compressed_batch(listener: Listener, sink: FakeSink) -> None:
    """A batch can be compressed."""
    body = gzip.compress(b'{"a":1}\n' * 10)
    assert result(listener, body, PATH, LINES + GZIP)["accepted"] == 10
    assert sink.blocks[0][1] == 10


# keys


def test_the_same_key_is_not_written_twice(listener: Listener, sink: FakeSink) -> None:
    """Single records and batches are recognised; another key is another request."""
    for key in ("one", "one", "two"):
        headers = f"{JSON}Idempotency-Key: {key}\r\n"
        assert listener.get(body=b'{"a":1}', headers=headers)[::2] == (200, b"OK")
    assert len(sink.rows) == 2


def test_a_key_belongs_to_the_decoded_body(listener: Listener, sink: FakeSink) -> None:
    """A client may compress each attempt differently, or not at all."""
    body = b'{"a":1}'
    attempts = [(gzip.compress(body, mtime=at), GZIP) for at in (1, 2)]
    attempts += [(zstandard.compress(body), "Content-Encoding: zstd\r\n"), (body, "")]
    for number, (content, encoding) in enumerate(attempts):
        status, headers, _ = listener.get(
            body=content, headers=f"{JSON}{encoding}Idempotency-Key: one\r\n"
        )
        assert (status, "Idempotency-Replayed" in headers) == (200, number > 0)
    assert len(sink.rows) == 1
    other = [(b'{"a":2}', JSON), (body, "Content-Type: text/plain\r\n")]
    for content, content_type in other:
        keyed = f"{content_type}Idempotency-Key: one\r\n"
        assert listener.get(body=content, headers=keyed)[0] == 422


def test_a_failed_attempt_is_executed_again(listener: Listener, sink: FakeSink) -> None:
    """A failure isn't kept for its key."""
    headers = f"{JSON}Idempotency-Key: one\r\n"
    sink.outcome = UserError("full", status=503)
    assert listener.get(body=b'{"a":1}', headers=headers)[0] == 503
    sink.outcome = 200
    assert listener.get(body=b'{"a":1}', headers=headers)[0] == 200


@pytest.mark.parametrize("content_type", [JSON, LINES])
def test_a_retry_writes_only_missing_rows(
    listener: Listener, sink: FakeSink, content_type: str
) -> None:
    """Rows that one sink has stored aren't stored there again."""
    other = FakeSink(UserError("full", status=507))
    listener.router.sinks[KEY].append(("m", other))
    headers = f"{content_type}Idempotency-Key: one\r\n"

    def attempt() -> tuple[int, str | None]:
        status, answered, _ = listener.get(body=b'{"a":1}', headers=headers)
        return status, answered.get("Stream-Stored")

    def written(sink: FakeSink) -> int:
        return len(sink.rows) + len(sink.blocks)

    assert attempt() == (507, "1/2")
    other.outcome = UserError("row not stored", status=503)
    assert attempt() == (503, "1/2")
    before = written(other)
    other.outcome = 200
    assert attempt() == (200, None)
    assert attempt() == (200, None)
    assert (written(sink), written(other)) == (1, before + 1)


def test_another_body_after_a_failure(listener: Listener, sink: FakeSink) -> None:
    """Another body with the same key is refused, as after a success."""
    listener.router.sinks[KEY].append(("m", FakeSink(UserError("full", status=507))))
    headers = f"{JSON}Idempotency-Key: one\r\n"
    assert listener.get(body=b'{"a":1}', headers=headers)[0] == 507
    assert listener.get(body=b'{"a":2}', headers=headers)[0] == 422
    assert len(sink.rows) == 1


def test_a_wrong_secret_is_refused_before_the_key(listener: Listener) -> None:
    """A kept answer needs the right secret."""
    headers = f"{JSON}Idempotency-Key: one\r\n"
    listener.get(body=b'{"a":1}', headers=headers)
    status, *_ = listener.get(PATH[:-1] + "x", b'{"a":1}', headers=headers)
    assert status == 404


def test_a_retry_on_a_new_connection_waits_for_the_first(
    listener: Listener, sink: FakeSink
) -> None:
    """The first connection broke while the record was being stored."""
    headers = f"{JSON}Idempotency-Key: one\r\n"
    sink.outcome = "wait"
    assert listener.send(body=b'{"a":1}', headers=headers) is None
    listener.connection.pending = None
    listener.connection = FakeConnection()
    assert listener.send(body=b'{"a":1}', headers=headers) is None
    sink.waiting[0].stored()
    assert len(listener.connection.answers) == 1
    assert len(sink.rows) == 1


@pytest.mark.parametrize(
    ("body", "headers"),
    [(b"{}\n" * 1001, LINES), (b"no gzip", JSON + GZIP), (b"n" * 20_000, JSON + GZIP)],
)
def test_refused_requests_are_counted(listener: Listener, body: bytes, headers: str) -> None:
    """A refused request of a known source counts as one failed record, with its bytes."""
    status, _, _ = listener.get(PATH, body, headers=headers)
    assert status in (400, 413)
    page = listener.metrics.page().decode()
    assert _sample(page, "source_record_duration_milliseconds_count") == 1
    assert _sample(page, "source_in_bytes_B_total") == len(body)


def test_an_empty_batch_counts_nothing(listener: Listener) -> None:
    """It has no record, so its bytes don't count either."""
    assert result(listener, b"\n\n")["accepted"] == 0
    page = listener.metrics.page().decode()
    assert [line for line in page.splitlines() if "has_error=" in line] == []


def _sample(page: str, name: str) -> float:
    """Return the number of failed records, or of their bytes."""
    (line,) = [line for line in page.splitlines() if name in line and 'has_error="true"' in line]
    return float(line.rpartition(" ")[2])
