"""Rejected records for tests."""

from __future__ import annotations

from stream.definition.key import SinkKey
from stream.errors import NestedError, UserError
from stream.record.context import RecordContext
from stream.record.headers import RecordHeaders
from stream.rejected.record import Noted, frame, shown_headers
from stream.storage.model.entity import QuarantineLimits
from stream.values.bytesize import ByteSize
from stream.values.duration import Duration

NOW = 1714557600.123
KEY = SinkKey(123, 456, "my-source", "my-sink")
LIMITS = QuarantineLimits(ByteSize(64 * 1024), Duration.of_seconds(3600))
ERROR = NestedError('cannot convert column "p" to CSV value', ['path "a" not found in the body'])
ERROR.column = "p"
HEADERS = (
    (b"content-type", b"application/json"),
    (b"authorization", b"Bearer hunter2-hunter2"),
    (b"Cookie", b"a=b"),
    (b"X-StorageApi-Token", b"hunter2-hunter2"),
    (b"user-agent", b"curl"),
)


def record(body: bytes = b'{"b":1}', at: float = NOW, headers: object = HEADERS) -> RecordContext:
    """Return a record received at *at*, seconds since the epoch."""
    return RecordContext(
        int(at * 1000),
        "203.0.113.7",
        RecordHeaders(headers),  # type: ignore[arg-type]
        body,
    )


def noted(body: bytes = b'{"b":1}', at: float = NOW, error: UserError = ERROR) -> Noted:
    return Noted.of(record(body, at), error)


def line(id: str, body: bytes = b'{"b":1}', at: float = NOW, error: UserError = ERROR) -> bytes:
    """Return the frame of a record."""
    each = noted(body, at, error)
    return frame(each, id, shown_headers(each.headers))
