"""A record that couldn't be rendered, as one line of a dead-letter file, and its way back.

A line has enough to send the record again once the mapping or the producer is corrected, but no
credentials.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import datetime

import attrs
import orjson

from stream.errors import UserError, record_error_name, record_message
from stream.record.context import RecordContext, datetime_text
from stream.values.redaction import MASK, shown_value

__all__ = ["DeadRecord", "time_of"]

_TIME = slice(len('{"time":"'), len('{"time":"2024-05-01T10:00:00.123Z'))


@attrs.frozen
class DeadRecord:
    """:ivar timestamp_ms: when it was received, milliseconds since the epoch.
    :ivar sink_id: which sink couldn't take it.
    :ivar error: the name of the failure, as the answer has it.
    :ivar headers: of the request, all of them.
    """

    timestamp_ms: int
    sink_id: str
    status: int
    error: str
    message: str
    client_ip: str
    headers: Mapping[str, str]
    body: bytes

    @classmethod
    def of(cls, sink_id: str, record: RecordContext, error: UserError) -> DeadRecord:
        return cls(
            record.timestamp_ms,
            sink_id,
            error.status,
            record_error_name(error.name),
            record_message(error),
            record.client_ip,
            record.headers.map,
            record.body,
        )

    def line(self) -> bytes:
        """A JSON object with a line feed. The body is text, or base64 if it isn't UTF-8."""
        try:
            body, encoding = self.body.decode(), "utf-8"
        except UnicodeDecodeError:
            body, encoding = base64.b64encode(self.body).decode(), "base64"
        members = {
            "time": datetime_text(self.timestamp_ms).decode(),
            "sinkId": self.sink_id,
            "statusCode": self.status,
            "error": self.error,
            "message": self.message,
            "clientIp": self.client_ip,
            "headers": {
                name: shown
                for name, value in self.headers.items()
                if (shown := shown_value(name, value)) != MASK
            },
            "bodyEncoding": encoding,
            "body": body,
        }
        return orjson.dumps(members, option=orjson.OPT_APPEND_NEWLINE)


def time_of(line: bytes) -> float | None:
    """Seconds since the epoch at which the record of *line* was received; ``None`` if it has none.

    Only the beginning of the line need be there.
    """
    try:
        return datetime.fromisoformat(line[_TIME].decode()).timestamp()
    except ValueError:
        return None
