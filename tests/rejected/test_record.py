"""Frames of rejected records: stored and shown content, and damaged lines."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.errors import UserError
from stream.mapping.render import RowTooBig
from stream.record.context import RecordContext
from stream.record.headers import BodyKind, RecordHeaders
from stream.rejected.record import (
    MAX_MESSAGE_CHARACTERS,
    Noted,
    erased,
    frame,
    kept_of,
    outline_of,
    shown_headers,
)
from stream.tail.shown_record import shown_record
from tests.effort import examples
from tests.rejected.samples import ERROR, HEADERS, NOW, line, record


def test_a_record_is_shown_completely() -> None:
    """A record is shown in the form of the API, without credentials."""
    kept = kept_of(line("id-1"))
    assert kept is not None
    assert kept.view("node-1") == {
        "id": "id-1",
        "nodeId": "node-1",
        "time": "2024-05-01T10:00:00.123Z",
        "statusCode": 400,
        "reason": "stream.in.badRequest",
        "column": "p",
        "message": 'Cannot convert column "p" to CSV value:\n- Path "a" not found in the body.',
        "excerpt": '{"b":1}',
        "contentType": "application/json",
        "size": 7,
        "ip": "203.0.113.7",
        "headers": {
            "Authorization": "***",
            "Content-Type": "application/json",
            "Cookie": "***",
            "User-Agent": "curl",
            "X-Storageapi-Token": "***",
        },
        "body": '{"b":1}',
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[(name, "hunter2-hunter2") for name in ("X-Auth-Token", "Api_Key", "X-Hub-Signature-256")],
        *[(name, "hunter2-hunter2") for name in ("apikey", "SESSION", "x_client_secret", "X-Key")],
        ("X-Original-Uri", "/stream/123/my-source/hunter2-hunter2"),
        ("Referer", "https://me:hunter2-hunter2@host/"),
    ],
)
def test_a_kept_record_hides_what_the_tail_hides(name: str, value: str) -> None:
    """The policy is the same, and hidden values aren't on the disk either."""
    headers = RecordHeaders(((name.encode(), value.encode()), (b"X-Seen", b"hunter1")))
    given = RecordContext(int(NOW * 1000), "::1", headers, b"{}")
    kept = frame(Noted.of(given, ERROR), "id", shown_headers(headers))
    for shown in (kept, shown_record(given, 100)):
        assert b"hunter2" not in shown
        assert b"hunter1" in shown


def test_a_binary_body_is_shown_in_base64() -> None:
    """The body is decoded to the same bytes."""
    kept = kept_of(line("id", b"\xff\x00", error=RowTooBig("b", 1024)))
    assert kept is not None
    assert kept.record().body == b"\xff\x00"
    view = kept.view("node-1")
    assert (view["bodyEncoding"], view["body"]) == ("base64", "/wA=")
    assert (view["statusCode"], view["reason"], view["column"]) == (
        413,
        "stream.in.payloadTooLarge",
        "b",
    )


def test_a_replayed_record_equals_the_original() -> None:
    """Time, address, headers and the type of the body are the same; secret headers are masked."""
    original = record()
    kept = kept_of(line("id"))
    assert kept is not None
    again = kept.record()
    assert (again.timestamp_ms, again.client_ip) == (original.timestamp_ms, original.client_ip)
    assert again.headers.map == original.headers.map | {
        "Authorization": "***",
        "Cookie": "***",
        "X-Storageapi-Token": "***",
    }
    assert again.json == {"b": 1}


def test_an_element_of_a_batch_is_parsed_as_json() -> None:
    """The content type of the request has no effect."""
    lines = RecordHeaders(((b"content-type", b"application/x-ndjson"),))
    element = RecordContext(1, "::1", lines.of_json, b'{"a":1}')
    kept = kept_of(frame(Noted.of(element, ERROR), "id", shown_headers(element.headers)))
    assert kept is not None
    assert kept.record().headers.kind is BodyKind.JSON
    assert kept.record().body_map == {"a": 1}


def test_an_otlp_record() -> None:
    """The record has its signal, and paths of its columns refer to the flattened body."""
    headers = RecordHeaders(((b"content-type", b"application/x-protobuf"),))
    given = RecordContext(1, "::1", headers, b'{"a":1}', "logs", {"a": 1})
    kept = kept_of(frame(Noted.of(given, ERROR), "id", shown_headers(headers)))
    assert kept is not None
    again = kept.record()
    assert (again.signal, again.body_map, again.is_json_tree) == ("logs", {"a": 1}, False)
    assert kept.view("n")["signal"] == "logs"


def test_a_long_message_is_shortened() -> None:
    """The message may contain data of the producer."""
    outline = outline_of(line("id", error=UserError("x" * 1_000_000)))
    assert outline is not None
    assert len(outline.message) == MAX_MESSAGE_CHARACTERS + 1


@given(at=st.integers(0, 10_000), by=st.integers(1, 255))
@settings(max_examples=examples(60), deadline=None)
def test_a_damaged_line_is_skipped(at: int, by: int) -> None:
    """A line is damaged whichever byte of it has changed."""
    good = line("id")
    place = at % len(good)
    bad = bytearray(good)
    bad[place] ^= by
    assert outline_of(bytes(bad)) is None or int(bad[:8], 16) == int(good[:8], 16)
    assert outline_of(good[: max(1, place)]) is None
    assert outline_of(erased(len(good))) is None
    assert len(erased(len(good))) == len(good)


@given(body=st.binary(max_size=300), text=st.text(max_size=50))
@settings(max_examples=examples(60), deadline=None)
def test_any_body_and_header(body: bytes, text: str) -> None:
    """All values are restored, including invalid UTF-8 and lone surrogates."""
    headers = RecordHeaders(((b"X-Text", text.encode("utf-8", "surrogatepass")), *HEADERS))
    given = record(body, headers=headers.raw)
    written = frame(Noted.of(given, UserError(text)), "id", [("X-Text", text)])
    assert written.count(b"\n") == 1
    kept = kept_of(written)
    assert kept is not None
    assert kept.body == body
