"""Records as shown in a tail."""

from __future__ import annotations

import base64
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.record.context import RecordContext
from stream.record.headers import RecordHeaders
from stream.tail.shown_record import shown_record
from stream.values.redaction import MASK


def shown(body: bytes, limit: int = 1000, **headers: Any) -> dict[str, Any]:
    raw = tuple((n.replace("_", "-").encode(), v.encode()) for n, v in headers.items())
    record = RecordContext(1714557600123, "203.0.113.7", RecordHeaders(raw), body)
    plain: dict[str, Any] = orjson.loads(shown_record(record, limit))
    return plain


def test_a_record() -> None:
    """A record is shown with all received data, the time and the origin."""
    assert shown(b'{"a":1}', Content_Type="application/json", X_Trace="7") == {
        "timestamp": "2024-05-01T10:00:00.123Z",
        "ip": "203.0.113.7",
        "headers": {"Content-Type": "application/json", "X-Trace": "7"},
        "body": '{"a":1}',
        "isBase64": False,
        "bodyBytes": 7,
        "isCut": False,
    }


@pytest.mark.parametrize(
    "name", ["Authorization", "Cookie", "X-StorageApi-Token", "X-Api-Key", "X_Hub_Signature_256"]
)
def test_secrets_are_masked(name: str) -> None:
    """Credentials are masked before a record leaves the process."""
    plain = shown(b"x", 1000, **{name: "hunter2-hunter2"})
    assert "hunter2" not in orjson.dumps(plain).decode()
    assert list(plain["headers"].values()) == [MASK]


def test_long_bodies_are_truncated() -> None:
    """A body is truncated between characters, and its full length is included."""
    plain = shown("aäö".encode(), 2)
    assert (plain["body"], plain["isCut"], plain["bodyBytes"]) == ("a", True, 5)


def test_a_binary_body() -> None:
    """A body that isn't text is shown as base64."""
    plain = shown(b"\xff\x00")
    assert (plain["isBase64"], base64.b64decode(plain["body"])) == (True, b"\xff\x00")


@given(st.binary(max_size=200), st.integers(1, 100))
def test_any_body_can_be_shown(body: bytes, limit: int) -> None:
    """Any body is shown as one line of text."""
    headers = RecordHeaders(((b"X-A", body[:20]),))
    line = shown_record(RecordContext(0, "::1", headers, body), limit)
    plain = orjson.loads(line)
    assert b"\n" not in line
    text = plain["body"]
    assert body.startswith(base64.b64decode(text) if plain["isBase64"] else text.encode())
    assert len(text) <= 2 * limit + 4
