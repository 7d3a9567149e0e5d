"""A record as a tail shows it, limited in size and without secrets."""

from __future__ import annotations

import base64
import codecs

import orjson

from stream.record.context import RecordContext, datetime_text
from stream.values.redaction import shown_value

__all__ = ["MAX_SHOWN_BODY_BYTES", "shown_record"]

MAX_SHOWN_BODY_BYTES = 16 * 1024
_MAX_HEADERS = 64
_MAX_NAME_CHARS = 128
_MAX_VALUE_CHARS = 512
_LONGEST_SECRET_CHARS = 4096
"""Characters read after the shown part of a value, so that no beginning of a secret is shown.
"""


def shown_record(record: RecordContext, max_body_bytes: int) -> bytes:
    """Return *record* as a JSON object on one line.

    :param max_body_bytes: maximum size of the body; the rest is omitted.
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
    """Return *body* as text, without a character that the cut splits; ``None`` if it isn't text."""
    try:
        return codecs.getincrementaldecoder("utf-8")().decode(body, final=not is_cut)
    except UnicodeDecodeError:
        return None


def _headers(headers: dict[str, str]) -> dict[str, str]:
    return {
        name[:_MAX_NAME_CHARS]: _value(name, value)
        for name, value in list(headers.items())[:_MAX_HEADERS]
    }


def _value(name: str, value: str) -> str:
    return shown_value(name, value[: _MAX_VALUE_CHARS + _LONGEST_SECRET_CHARS])[:_MAX_VALUE_CHARS]
