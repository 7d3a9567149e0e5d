"""A rejected record in the forms in which it is kept and shown. Pure.

Note [Frames]: each record is one line that consists of a checksum, the part that a list shows, a
tab, and the rest. JSON contains neither tabs nor line feeds, so a list can be made without reading
any body. A line with a wrong checksum was being written or erased during a crash, and is skipped.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import attrs
import orjson
from isal import isal_zlib

from stream.errors import UserError, record_error_name, record_message, shortened
from stream.record.context import UNPARSED, RecordContext, datetime_text
from stream.record.headers import BodyKind, RecordHeaders
from stream.record.jsontree import parse_json
from stream.values.redaction import shown_value

__all__ = [
    "ERASED",
    "Kept",
    "Noted",
    "Outline",
    "erased",
    "frame",
    "id_of",
    "kept_of",
    "listed_headers",
    "outline_of",
    "read_frame",
    "shown_headers",
]

MAX_MESSAGE_CHARACTERS = 2000
EXCERPT_CHARACTERS = 200
_EXCERPT_BYTES = 4 * EXCERPT_CHARACTERS
MAX_LISTED_HEADERS = 50
"""Maximum number of headers that a list shows per record."""
MAX_LISTED_NAME = 64
MAX_LISTED_VALUE = 200
_HEADERS = b'"headers":'
_BEHIND_HEADERS = b'],"isJson":'

ERASED = b"#"
"""The byte that fills an erased frame."""

_CHECKSUM = 8


@attrs.frozen(eq=False)
class Noted:
    """A rejected record before it is written, with the data that the reactor has collected.

    :ivar at: receive time, milliseconds since the epoch.
    :ivar reason: name of the error, as in the response.
    :ivar column: name of the column; empty if the whole record is unreadable.
    :ivar public_message: message for users who may see statistics but no records.
    """

    at: int
    status: int
    reason: str
    column: str
    message: str
    public_message: str
    client_ip: str
    headers: RecordHeaders
    signal: str
    body: bytes

    @classmethod
    def of(cls, record: RecordContext, error: UserError) -> Noted:
        """Return the form to keep of *record*, which failed with *error*."""
        return cls(
            record.timestamp_ms,
            error.status,
            record_error_name(error.name),
            error.column,
            shortened(record_message(error), MAX_MESSAGE_CHARACTERS),
            shortened(record_message(error, quoting=False), MAX_MESSAGE_CHARACTERS),
            record.client_ip,
            record.headers,
            record.signal,
            record.body,
        )


Headers = list[tuple[str, str]]


def shown_headers(headers: RecordHeaders) -> Headers:
    """Return names and values of headers as they are kept, without secrets."""
    return [(name, shown_value(name, value)) for name, value in headers.map.items()]


def frame(noted: Noted, id: str, headers: Headers) -> bytes:
    """Return the line of *noted*; see Note [Frames].

    :param headers: headers of the record, without secrets.
    """
    body = noted.body
    outline = {
        "id": id,
        "at": noted.at,
        "status": noted.status,
        "reason": noted.reason,
        "column": noted.column,
        "message": noted.message,
        "excerpt": body[:_EXCERPT_BYTES].decode("utf-8", "replace")[:EXCERPT_CHARACTERS],
        "contentType": noted.headers.content_type,
        "size": len(body),
    }
    rest: dict[str, Any] = {
        "ip": noted.client_ip,
        "headers": headers,
        "isJson": noted.headers.kind is BodyKind.JSON,
        "signal": noted.signal,
    }
    try:
        rest["body"] = body.decode()
    except UnicodeDecodeError:
        rest["base64"] = base64.b64encode(body).decode()
    line = b"%b\t%b" % (_dump(outline), _dump(rest))
    return b"%08x%b\n" % (_checksum(line), line)


def _dump(plain: Any) -> bytes:
    try:
        return orjson.dumps(plain)
    except orjson.JSONEncodeError:  # a text contains half of a surrogate pair
        return orjson.dumps(_clean(plain))


def _clean(plain: Any) -> Any:
    if isinstance(plain, str):
        return plain.encode("utf-8", "replace").decode()
    if isinstance(plain, Mapping):
        return {name: _clean(item) for name, item in plain.items()}
    if isinstance(plain, list | tuple):
        return [_clean(item) for item in plain]
    return plain


def _checksum(data: bytes) -> int:
    crc: int = isal_zlib.crc32(data)
    return crc


def erased(size: int) -> bytes:
    """Return an empty frame of *size* bytes that replaces an erased one of the same size."""
    return ERASED * (size - 1) + b"\n"


@attrs.frozen(kw_only=True)
class Outline:
    """A kept record as shown in a list.

    :ivar id: ID of the record, unique in the cluster; later records have greater IDs.
    :ivar at: receive time, milliseconds since the epoch.
    :ivar excerpt: beginning of the body.
    :ivar size: size of the body in bytes.
    """

    id: str
    at: int
    status: int
    reason: str
    column: str
    message: str
    excerpt: str
    content_type: str
    size: int

    def view(self, node_id: str) -> dict[str, Any]:
        """Return the outline in the API's form."""
        return {
            "id": self.id,
            "nodeId": node_id,
            "time": datetime_text(self.at).decode(),
            "statusCode": self.status,
            "reason": self.reason,
            "column": self.column,
            "message": self.message,
            "excerpt": self.excerpt,
            "contentType": self.content_type,
            "size": self.size,
        }


_ID_AT = _CHECKSUM + len('{"id":"')


def id_of(line: bytes) -> str:
    """Return the ID at the beginning of a frame, which may be damaged; empty if there is none."""
    return line[_ID_AT : line.find(b'"', _ID_AT)].decode("utf-8", "replace")


def outline_of(line: bytes) -> Outline | None:
    """Return the outline of the frame *line*; ``None`` if it is erased or damaged."""
    if line[:1] == ERASED or not _is_whole(line):
        return None
    plain = orjson.loads(line[_CHECKSUM : line.index(b"\t")])
    return Outline(
        id=plain["id"],
        at=plain["at"],
        status=plain["status"],
        reason=plain["reason"],
        column=plain["column"],
        message=plain["message"],
        excerpt=plain["excerpt"],
        content_type=plain["contentType"],
        size=plain["size"],
    )


def _is_whole(line: bytes) -> bool:
    try:
        expected = int(line[:_CHECKSUM], 16)
    except ValueError:
        return False
    return line[-1:] == b"\n" and expected == _checksum(line[_CHECKSUM:-1])


@attrs.frozen(kw_only=True)
class Kept:
    """A kept record with all its data.

    :ivar headers: names and values of the headers, without secrets.
    :ivar is_json: whether the body is read as JSON, regardless of the headers.
    """

    outline: Outline
    client_ip: str
    headers: Headers
    is_json: bool
    signal: str
    body: bytes

    @property
    def id(self) -> str:
        """The ID of the record."""
        return self.outline.id

    def view(self, node_id: str) -> dict[str, Any]:
        """Return the whole record in the API's form."""
        view = self.outline.view(node_id)
        view["ip"] = self.client_ip
        view["headers"] = dict(self.headers)
        if self.signal:
            view["signal"] = self.signal
        try:
            view["body"] = self.body.decode()
        except UnicodeDecodeError:
            view["body"] = base64.b64encode(self.body).decode()
            view["bodyEncoding"] = "base64"
        return view

    def record(self) -> RecordContext:
        """Return the record as its sink received it, with its time, address and headers."""
        raw = tuple((name.encode(), value.encode()) for name, value in self.headers)
        headers = RecordHeaders(raw)
        if self.is_json and headers.kind is not BodyKind.JSON:
            headers = headers.of_json
        body_map = parse_json(self.body) if self.signal else UNPARSED
        return RecordContext(
            self.outline.at, self.client_ip, headers, self.body, self.signal, body_map
        )


def listed_headers(line: bytes) -> dict[str, str]:
    """Return the headers of a frame, shortened for a list; the body isn't read."""
    # Quotes inside JSON strings are escaped, so these are members.
    start = line.index(_HEADERS, line.index(b"\t")) + len(_HEADERS)
    found = orjson.loads(line[start : line.index(_BEHIND_HEADERS, start) + 1])
    return {
        shortened(name, MAX_LISTED_NAME): shortened(value, MAX_LISTED_VALUE)
        for name, value in found[:MAX_LISTED_HEADERS]
    }


def kept_of(line: bytes) -> Kept | None:
    """Return the record of the frame *line*; ``None`` if it is erased or damaged."""
    outline = outline_of(line)
    return None if outline is None else read_frame(line, outline)


def read_frame(line: bytes, outline: Outline) -> Kept:
    """Return the record of a frame whose *outline* is already known."""
    rest = orjson.loads(line[line.index(b"\t") + 1 : -1])
    body = base64.b64decode(rest["base64"]) if "base64" in rest else rest["body"].encode()
    return Kept(
        outline=outline,
        client_ip=rest["ip"],
        headers=[(name, value) for name, value in rest["headers"]],
        is_json=rest["isJson"],
        signal=rest["signal"],
        body=body,
    )
