"""A record as it is shown to whoever watches its source: bounded, and without secrets."""

from __future__ import annotations

import base64
import codecs
import re

import orjson

from stream.record.context import RecordContext, datetime_text

__all__ = ["MASK", "MAX_SHOWN_BODY_BYTES", "shown_record"]

MASK = "***"
"""In the place of the value of a header that may be a secret."""

MAX_SHOWN_BODY_BYTES = 16 * 1024
_MAX_HEADERS = 64
_MAX_NAME_CHARS = 128
_MAX_VALUE_CHARS = 512

_SECRET = re.compile(
    r"auth|cookie|token|secret|passw|api-?key|access-?key|signature|credential|session|jwt",
    re.IGNORECASE,
)
"""In the name of a header whose value nobody should see. Rather one too many."""


def shown_record(record: RecordContext, max_body_bytes: int) -> bytes:
    """*record* as a JSON object on one line.

    :param max_body_bytes: the rest of the body is left out.
    """
    body = record.body
    is_cut = len(body) > max_body_bytes
    text = _text(body[:max_body_bytes], is_cut)
    plain = {
        "timestamp": datetime_text(record.timestamp_ms).decode(),
        "ip": record.client_ip,
        **({"signal": record.signal} if record.signal else {}),
        "headers": _headers(record.headers.map),
        "body": base64.b64encode(body[:max_body_bytes]).decode() if text is None else text,
        "isBase64": text is None,
        "bodyBytes": len(body),
        "isCut": is_cut,
    }
    return orjson.dumps(plain)


def _text(body: bytes, is_cut: bool) -> str | None:
    """*body* as text, without a character that the cut went through; ``None`` if it isn't text."""
    try:
        return codecs.getincrementaldecoder("utf-8")().decode(body, final=not is_cut)
    except UnicodeDecodeError:
        return None


def _headers(headers: dict[str, str]) -> dict[str, str]:
    return {
        name[:_MAX_NAME_CHARS]: MASK if _SECRET.search(name) else value[:_MAX_VALUE_CHARS]
        for name, value in list(headers.items())[:_MAX_HEADERS]
    }
