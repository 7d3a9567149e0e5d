"""Answers as bytes: the ones that never change are made once, the others are put together here."""

from __future__ import annotations

import secrets
import string
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

import orjson

from stream.errors import UserError, record_error_name, record_message
from stream.record.headers import html_safe

__all__ = [
    "ACCEPTED",
    "CONTINUE",
    "HEALTH",
    "OK",
    "OPTIONS_HEALTH",
    "OPTIONS_INGEST",
    "REQUEST_TIMEOUT",
    "TOO_MANY_CONNECTIONS",
    "closing",
    "document",
    "error_envelope",
    "error_message",
    "error_name",
    "is_success",
    "keeping_alive",
    "method_not_allowed",
    "new_exception_id",
    "replayed",
    "response",
    "without_body",
]

SERVER = "Keboola/Stream/HTTPSource"
RETRY_AFTER_SECONDS = 1

_SUPPORT = (
    "Application error. Please contact our support support@keboola.com "
    "with exception id ({}) attached."
)
_ALPHANUMERIC = string.ascii_letters + string.digits


def response(
    status: int,
    body: bytes = b"",
    headers: Iterable[tuple[str, str]] = (),
    *,
    server: bool = True,
) -> bytes:
    """A whole answer.

    :param server: whether it says who answers; plain refusals don't.
    """
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Unknown"
    lines = [f"HTTP/1.1 {status} {phrase}"]
    if server:
        lines.append(f"Server: {SERVER}")
    lines += [f"{name}: {value}" for name, value in headers]
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        lines.append(f"Retry-After: {RETRY_AFTER_SECONDS}")
    lines += [f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode("latin-1", "replace") + body


def closing(answer: bytes) -> bytes:
    """*answer*, saying that the connection is closed after it."""
    return _with_header(answer, b"Connection: close")


def keeping_alive(answer: bytes) -> bytes:
    """*answer*, telling an HTTP/1.0 client that the connection stays."""
    return _with_header(answer, b"Connection: keep-alive")


def replayed(answer: bytes) -> bytes:
    """*answer*, saying that it was given before and nothing was written again."""
    return _with_header(answer, b"Idempotency-Replayed: true")


def _with_header(answer: bytes, line: bytes) -> bytes:
    """*answer* with one more header, the first."""
    return answer.replace(b"\r\n", b"\r\n" + line + b"\r\n", 1)


def is_success(answer: bytes) -> bool:
    """Whether the status of *answer* is one of success."""
    return answer.startswith(b"HTTP/1.1 2")


def without_body(answer: bytes) -> bytes:
    """*answer* to a HEAD request."""
    return answer[: answer.index(b"\r\n\r\n") + 4]


_PLAIN_TEXT = (("Content-Type", "text/plain"),)

OK = response(200, b"OK", _PLAIN_TEXT)
ACCEPTED = response(202, b"OK", _PLAIN_TEXT)
HEALTH = response(200, b"OK\n", _PLAIN_TEXT)
OPTIONS_HEALTH = response(200, headers=(("Allow", "GET, OPTIONS"),))
OPTIONS_INGEST = response(
    200,
    headers=(
        ("Allow", "OPTIONS, POST"),
        ("Access-Control-Allow-Methods", "OPTIONS, POST"),
        ("Access-Control-Allow-Headers", "*"),
        ("Access-Control-Expose-Headers", "*"),
        ("Access-Control-Allow-Origin", "*"),
    ),
)
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
REQUEST_TIMEOUT = response(408, b"request timeout", _PLAIN_TEXT, server=False)
TOO_MANY_CONNECTIONS = closing(
    response(
        503,
        b"The connection cannot be served because Server.Concurrency limit exceeded",
        _PLAIN_TEXT,
        server=False,
    )
)


def method_not_allowed(allow: str) -> bytes:
    """405 with an empty body."""
    return response(405, headers=(("Allow", allow),))


def new_exception_id() -> str:
    """An id to find the log entry of an error by."""
    return "keboola-stream-" + "".join(secrets.choice(_ALPHANUMERIC) for _ in range(15))


def error_name(error: BaseException, default: str = "internalError") -> str:
    """The error's name with the listener's prefix."""
    return record_error_name(error.name if isinstance(error, UserError) else default)


def error_message(error: BaseException) -> str:
    """What a sink's error tells the client."""
    return record_message(error) if isinstance(error, UserError) else "Internal error."


def error_envelope(error: BaseException, exception_id: str = "") -> bytes:
    """The answer to a request that failed as a whole.

    :param exception_id: shown when the status is 500 or above.
    """
    status = error.status if isinstance(error, UserError) else 500
    body: dict[str, Any] = {"statusCode": status, "error": error_name(error)}
    if status < 500:
        body["message"] = error_message(error)
    else:
        body["message"] = _SUPPORT.format(exception_id)
        body["exceptionId"] = exception_id
    return response(status, _json(body))


def document(status: int, members: Mapping[str, Any]) -> bytes:
    """A JSON answer with indented *members*."""
    return response(status, _json(members), (("Content-Type", "application/json"),))


def _json(members: Mapping[str, Any]) -> bytes:
    text = orjson.dumps(members, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE).decode()
    return html_safe(text).encode()
