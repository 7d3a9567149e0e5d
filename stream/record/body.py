"""Preparation of a received body for parsing by its content type."""

from __future__ import annotations

from collections.abc import Generator

from stream.record.charset import find_charset, is_utf8_steps, without_bom
from stream.record.headers import BodyKind, RecordHeaders
from stream.record.steps import result_of

__all__ = ["ready_body", "ready_steps"]


def ready_body(headers: RecordHeaders, body: bytes) -> bytes:
    """Return *body* in the form that columns read; see `ready_steps`."""
    return result_of(ready_steps(headers, body))


def ready_steps(headers: RecordHeaders, body: bytes) -> Generator[None, None, bytes]:
    """Return *body* in the form that columns read, in small steps.

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
    if charset is None or (yield from is_utf8_steps(body)):
        return body
    return (yield from charset.utf8_steps(body))
