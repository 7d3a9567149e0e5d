"""Preparation of a received body for parsing by its content type."""

from __future__ import annotations

from stream.record.charset import find_charset, without_bom
from stream.record.headers import BodyKind, RecordHeaders

__all__ = ["ready_body"]


def ready_body(headers: RecordHeaders, body: bytes) -> bytes:
    """Return *body* in the form that columns read.

    A byte order mark is removed, because parsers don't accept it. JSON is UTF-8 regardless of the
    declared charset (RFC 8259). It is decoded with a declared charset only if it isn't valid UTF-8.
    Forms keep their charset, which also applies to escaped text.
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
