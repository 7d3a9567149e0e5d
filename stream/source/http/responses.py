"""Answers as bytes; constant answers are created once, the others are composed here.

Note [Any origin]: pages of any origin may send records and read the answers (CORS). Access to a
source requires the secret in its URL or in ``Authorization``, never a cookie, so a page gains
nothing from its visitor's credentials. The answer to a request without ``Origin`` allows ``*``. The
answer to a request with an ``Origin`` names that origin and allows credentials. Browsers treat
``*`` as a refusal if the page requested credentials, as ``navigator.sendBeacon`` always does.
"""

from __future__ import annotations

import re
import secrets
import string
from collections.abc import Iterable, Mapping
from email.utils import formatdate
from http import HTTPStatus
from typing import Any

import orjson

from stream.errors import UserError, record_error_name, record_message, sentence
from stream.record.errors import UnsupportedEncoding
from stream.record.headers import html_safe
from stream.sink.outcome import Stored

__all__ = [
    "ACCEPTED",
    "CONTINUE",
    "HEALTH",
    "OK",
    "OPTIONS_ANY",
    "REQUEST_TIMEOUT",
    "STORED",
    "TOO_MANY_CONNECTIONS",
    "closing",
    "date_line",
    "dated",
    "document",
    "error_envelope",
    "error_headers",
    "error_members",
    "error_message",
    "error_name",
    "for_origin",
    "hint_member",
    "is_success",
    "keeping_alive",
    "method_not_allowed",
    "new_exception_id",
    "options",
    "replayed",
    "response",
    "stored_header",
    "without_body",
    "without_sinks",
]

SERVER = "Keboola/Stream/HTTPSource"
RETRY_AFTER_SECONDS = 1
STORED = "Stream-Stored"
"""The header of answers to requests that were only partly stored."""

ALLOWED_HEADERS = ("Authorization", "Content-Type", "Content-Encoding", "Idempotency-Key")
"""Request headers that a page may always send."""

EXPOSED_HEADERS = (
    "Accept-Encoding, Allow, Date, Idempotency-Replayed, Retry-After, Server, Stream-Sinks, "
    "Stream-Stored"
)
"""Headers of an answer that a page may read, in addition to the standard ones."""

MAX_REQUESTED_HEADERS = 64
"""Maximum number of additional headers that a preflight request may ask for."""

PREFLIGHT_SECONDS = 7200
"""How long a browser may cache the answer to a preflight request; Chromium's maximum."""

_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,128}")
_ANY_ORIGIN = b"\r\nAccess-Control-Allow-Origin: *\r\n"
_ONE_ORIGIN = (
    b"\r\nAccess-Control-Allow-Origin: %s"
    b"\r\nAccess-Control-Allow-Credentials: true"
    b"\r\nAccess-Control-Expose-Headers: " + EXPOSED_HEADERS.encode() + b"\r\nVary: Origin\r\n"
)

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
    """Return a complete answer except for its ``Date``; see `dated`.

    :param server: whether to add the header ``Server``; plain refusals don't have it.
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
    lines.append("Access-Control-Allow-Origin: *")
    if body:
        lines.append("X-Content-Type-Options: nosniff")
    lines += [f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode("latin-1", "replace") + body


def closing(answer: bytes) -> bytes:
    """Return *answer* with the header that announces that the connection will be closed."""
    return _with_header(answer, b"Connection: close")


def keeping_alive(answer: bytes) -> bytes:
    """Return *answer* with the header that keeps an HTTP/1.0 client's connection open."""
    return _with_header(answer, b"Connection: keep-alive")


def replayed(answer: bytes) -> bytes:
    """Return *answer* with the header that marks it as repeated, with nothing written again."""
    return _with_header(answer, b"Idempotency-Replayed: true")


def date_line(timestamp: float) -> bytes:
    """Return the ``Date`` header of *timestamp*, seconds since the epoch, for `dated`."""
    return b"\r\nDate: " + formatdate(timestamp, usegmt=True).encode() + b"\r\n"


def dated(answer: bytes, line: bytes) -> bytes:
    """Return *answer* with its ``Date``.

    :param line: result of `date_line`, which is created once a second to save time.
    """
    return answer.replace(b"\r\n", line, 1)


def for_origin(answer: bytes, origin: bytes) -> bytes:
    """Return *answer* for a page of *origin*; see Note [Any origin]."""
    return answer.replace(_ANY_ORIGIN, _ONE_ORIGIN % origin, 1)


def _with_header(answer: bytes, line: bytes) -> bytes:
    """Return *answer* with *line* added as the first header."""
    return answer.replace(b"\r\n", b"\r\n" + line + b"\r\n", 1)


def without_sinks(answer: bytes) -> bytes:
    """Return *answer* with the header that says that no sink received the records."""
    return _with_header(answer, b"Stream-Sinks: 0")


def is_success(answer: bytes) -> bool:
    """Return whether the status of *answer* is a success."""
    return answer.startswith(b"HTTP/1.1 2")


def without_body(answer: bytes) -> bytes:
    """Return *answer* to a HEAD request, without its body."""
    return answer[: answer.index(b"\r\n\r\n") + 4]


_PLAIN_TEXT = (("Content-Type", "text/plain"),)

OK = response(200, b"OK", _PLAIN_TEXT)
ACCEPTED = response(202, b"OK", _PLAIN_TEXT)
HEALTH = response(200, b"OK\n", _PLAIN_TEXT)
OPTIONS_ANY = response(200, headers=(("Allow", "GET, OPTIONS, POST"),))
"""The answer to ``OPTIONS *``."""
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


def options(allow: str, requested: str) -> bytes:
    """Return the answer to ``OPTIONS``, for browsers and others.

    :param allow: allowed methods.
    :param requested: the header ``Access-Control-Request-Headers``; its valid names are allowed,
        too.
    """
    known = {name.lower() for name in ALLOWED_HEADERS}
    names = list(ALLOWED_HEADERS)
    for part in requested.split(","):
        name = part.strip()
        if len(names) >= len(ALLOWED_HEADERS) + MAX_REQUESTED_HEADERS:
            break
        if name.lower() not in known and _HEADER_NAME.fullmatch(name):
            known.add(name.lower())
            names.append(name)
    return response(
        200,
        headers=(
            ("Allow", allow),
            ("Access-Control-Allow-Methods", allow),
            ("Access-Control-Allow-Headers", ", ".join(names)),
            ("Access-Control-Max-Age", str(PREFLIGHT_SECONDS)),
        ),
    )


def method_not_allowed(allow: str) -> bytes:
    """Return the 405 answer with the allowed methods."""
    error = UserError(
        f"the method is not allowed here, the allowed methods are: {allow}",
        status=405,
        name="methodNotAllowed",
    )
    return error_envelope(error, headers=(("Allow", allow),))


def new_exception_id() -> str:
    """Return an ID by which the log message of an error can be found."""
    return "keboola-stream-" + "".join(secrets.choice(_ALPHANUMERIC) for _ in range(15))


def error_name(error: BaseException, default: str = "internalError") -> str:
    """Return the error's name with the listener's prefix."""
    return record_error_name(error.name if isinstance(error, UserError) else default)


def error_message(error: BaseException) -> str:
    """Return the text that describes a sink's error to the client."""
    return record_message(error) if isinstance(error, UserError) else "Internal error."


def error_envelope(
    error: BaseException, exception_id: str = "", headers: Iterable[tuple[str, str]] = ()
) -> bytes:
    """Return the answer to a request that failed as a whole.

    :param exception_id: shown when the status is 500 or above.
    :param headers: additional headers.
    """
    members = error_members(error, exception_id)
    return document(members["statusCode"], members, (*headers, *error_headers(error)))


def error_members(error: BaseException, exception_id: str = "") -> dict[str, Any]:
    """Return the members of an answer that describe *error*.

    :param exception_id: shown when the status is 500 or above.
    """
    status = error.status if isinstance(error, UserError) else 500
    members: dict[str, Any] = {"statusCode": status, "error": error_name(error)}
    if status < 500:
        members["message"] = error_message(error)
        members |= hint_member(error)
    else:
        members["message"] = _SUPPORT.format(exception_id)
        members["exceptionId"] = exception_id
    return members


def error_headers(error: BaseException) -> tuple[tuple[str, str], ...]:
    """Return the headers of the answer about *error*."""
    if isinstance(error, UnsupportedEncoding):
        return (("Accept-Encoding", ", ".join(error.supported)),)
    return ()


def document(
    status: int, members: Mapping[str, Any], headers: Iterable[tuple[str, str]] = ()
) -> bytes:
    """Return a JSON answer with indented *members*.

    :param headers: additional headers.
    """
    return response(status, _json(members), (("Content-Type", "application/json"), *headers))


def stored_header(stored: Stored) -> tuple[tuple[str, str], ...]:
    """Return the header with the number of stored rows; nothing if all rows are stored."""
    return () if stored.is_all else ((STORED, str(stored)),)


def hint_member(error: BaseException | None) -> dict[str, str]:
    """Return the member with the producer's probable intention, if *error* has one."""
    hint = error.hint if isinstance(error, UserError) else ""
    return {"hint": sentence(hint)} if hint else {}


def _json(members: Mapping[str, Any]) -> bytes:
    text = orjson.dumps(members, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE).decode()
    return html_safe(text).encode()
