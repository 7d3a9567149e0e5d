"""A body as it came, made ready to be read as its content type says."""

from __future__ import annotations

from stream.record.charset import find_charset, without_bom
from stream.record.headers import BodyKind, RecordHeaders

__all__ = ["ready_body"]


def ready_body(headers: RecordHeaders, body: bytes) -> bytes:
    """*body* as columns get it.

    No kind of text that is parsed begins with a byte order mark. JSON is UTF-8, whatever is
    declared (RFC 8259); only what isn't, and comes with another charset, is read in that one. Forms
    keep theirs, since it also counts for what is escaped in them.
    """
    kind = headers.kind
    if kind is BodyKind.OTHER:
        return body
    body = without_bom(body)
    if not headers.charset or kind is BodyKind.FORM:
        return body
    try:
        charset = find_charset(headers.charset)
    except LookupError:
        return body
    if charset is None:
        return body
    try:
        body.decode()
    except UnicodeDecodeError:
        return charset.decode(body).encode()
    return body
