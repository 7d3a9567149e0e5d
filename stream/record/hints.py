"""Hints for producers whose bodies can't be rendered. Pure."""

from __future__ import annotations

import orjson

from stream.record.context import RecordContext
from stream.record.headers import BodyKind

__all__ = ["hint_for"]

MAX_HINTED_BYTES = 64 * 1024
"""Maximum size of a body that gets a hint; guessing about a larger one would take too long."""

_BLANKS = b" \t\r\n\xef\xbb\xbf"

LOOKS_LIKE_JSON = 'the body looks like JSON: send it with "Content-Type: application/json"'
IS_AN_ARRAY = (
    "the body is a JSON array: to store its items as separate records, add the parameter "
    '"batch=true" to the URL and send it with "Content-Type: application/json"'
)
IS_LINES = (
    "the body has a JSON document in each line: to store them as separate records, send it "
    'with "Content-Type: application/x-ndjson"'
)
LOOKS_LIKE_A_FORM = (
    'the body looks like a form: send it with "Content-Type: application/x-www-form-urlencoded"'
)


def hint_for(record: RecordContext) -> str:
    """Return the hint for the producer of *record*, which can't be rendered.

    The hint is empty if the body suggests nothing, if it is large, and if the record isn't a
    received body (OTLP).
    """
    if record.signal or len(record.body) > MAX_HINTED_BYTES:
        return ""
    body = record.body
    start = body[:64].lstrip(_BLANKS)[:1]
    kind = record.headers.kind
    if kind in (BodyKind.FORM, BodyKind.OTHER):
        if start == b"[" and _is_json(body):
            return IS_AN_ARRAY
        return LOOKS_LIKE_JSON if start == b"{" else ""
    if start == b"[":
        return IS_AN_ARRAY
    first, _, others = body.strip(_BLANKS).partition(b"\n")
    if others and _is_json(first):
        return IS_LINES
    if start and start.isalpha() and b"=" in body and not _is_json(body):
        return LOOKS_LIKE_A_FORM
    return ""


def _is_json(text: bytes) -> bool:
    try:
        orjson.loads(text.strip(_BLANKS))
    except orjson.JSONDecodeError:
        return False
    return True
