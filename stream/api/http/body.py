"""The JSON body of a request."""

from __future__ import annotations

import json
import math
import re
from codecs import BOM_UTF8
from itertools import islice
from typing import Any, NoReturn

import attrs

from stream.api.spec.schema import DecodeError, Object, problems_error
from stream.errors import MAX_FAULTS, Fault, UserError, shortened
from stream.record.jsontree import has_more_values

__all__ = ["BRACKETS_OF_MANY", "MAX_DEPTH", "MAX_VALUES", "ReadBody", "decode_json", "read_body"]

MAX_DEPTH = 100
"""Maximum nesting of objects and arrays."""

MAX_VALUES = 10_000
"""Maximum number of values in a body.

The largest sink has about a tenth as many. Reading and checking a value blocks the event loop for a
microsecond.
"""

BRACKETS_OF_MANY = 10 * MAX_DEPTH
"""Number of brackets whose levels are checked in a body with too many values."""

_TEXTS = ("text/plain", "text/html")
"""Media types of plain texts, which no operation accepts."""
_BLANKS = " \t\r\n"
_WORDS = re.compile(r'"(?:[^"\\]++|\\.)*+"?|-?[A-Za-z]++|(-?[0-9][0-9.eE+-]*+)', re.DOTALL)
_LEADING_ZERO = re.compile(r"0[0-9]")
_TO_BRACKET = re.compile(r'(?:[^"\[\]{}]++|"(?:[^"\\]++|\\.)*+"?)*+(?:([\[\]{}])|\Z)', re.DOTALL)
"""A bracket outside of strings, or the end, with all text before it; always matches."""

_WORDING = {
    "Expecting value": "a value is expected",
    "Expecting property name enclosed in double quotes": (
        "the name of a member in double quotes is expected"
    ),
    "Illegal trailing comma before end of object": "there is no member after the comma",
    "Illegal trailing comma before end of array": "there is no item after the comma",
    "Expecting ':' delimiter": "a colon is expected",
    "Expecting ',' delimiter": "a comma, or the end of the object or array, is expected",
    "Invalid control character at": "control characters must be escaped",
    "Invalid \\escape": "the escape sequence is invalid",
    "Invalid \\uXXXX escape": "four hexadecimal digits are expected",
}
"""The decoder's messages in the wording of this API."""


@attrs.frozen
class ReadBody:
    """A request's body, checked against the operation's schema.

    :ivar value: the checked value, with only the known members.
    :ivar unknown: unknown members, at most `MAX_FAULTS` of them.
    """

    value: dict[str, Any]
    unknown: tuple[Fault, ...] = ()


def read_body(
    schema: Object, data: bytes, content_type: str, content_encoding: str = ""
) -> ReadBody:
    """Return the checked value of the first JSON document in *data*.

    Raises UserError: the body is missing, invalid, or doesn't match the schema.

    :param content_type: media type of the body; empty means JSON.
    :param content_encoding: value of the header ``Content-Encoding``.
    """
    essence = content_type.partition(";")[0].strip().lower()
    if essence in _TEXTS:
        raise DecodeError(
            f"can't decode {essence} to an object: please send the body as application/json",
            param="body",
        )
    if essence and essence != "application/json" and not essence.endswith("+json"):
        raise UserError(f"unsupported media type {shortened(essence)}", name="unsupportedMediaType")
    if content_encoding.strip().lower() not in ("", "identity"):
        raise UserError(
            f'unsupported content encoding "{shortened(content_encoding)}", '
            "please send the body as it is",
            status=415,
            name="unsupportedContentEncoding",
        )
    text = data.removeprefix(BOM_UTF8).decode("utf-8", "replace")
    if not text.lstrip(_BLANKS):
        raise UserError("missing required payload", name="missingPayload")
    value = decode_json(text)
    if value is None:
        value = {}
    read: dict[str, Any] = schema.read(value, "body")
    problems = list(schema.check(read, "body"))
    if problems:
        raise problems_error(problems)
    unknown = []
    for fault in schema.unknown(value, "body"):
        unknown.append(fault)
        if len(unknown) == MAX_FAULTS:
            break
    return ReadBody(read, tuple(unknown))


def decode_json(text: str) -> Any:
    """Decode the first JSON document in *text*, after leading whitespace.

    Raises DecodeError: the text is invalid; the error names the position. Raises UserError: the
    text has too many values.
    """
    start = len(text) - len(text.lstrip(_BLANKS))
    _check_bounds(text)
    try:
        value, _ = _decoder.raw_decode(text, start)
    except json.JSONDecodeError as error:
        if error.pos >= len(text.rstrip(_BLANKS)) or error.msg.startswith("Unterminated"):
            raise _misread(text, len(text), "unexpected EOF") from None
        reason = _WORDING.get(error.msg, "the text is not JSON")
        if _LEADING_ZERO.fullmatch(text, error.pos - 1, error.pos + 1):
            reason = "numbers can't have leading zeros"
        shown = f"invalid character {_shown(text[error.pos])}"
        raise _misread(text, error.pos, shown, reason) from None
    except _Refused as refused:
        position = _position_of(text, refused.word)
        raise _misread(text, position, refused.problem, refused.reason) from None
    return _without_surrogates(value) if "\\u" in text else value


class _Refused(Exception):
    """A word that Python accepts as a value, but JSON or this API doesn't."""

    def __init__(self, word: str, problem: str, reason: str = "") -> None:
        super().__init__(word)
        self.word = word
        self.problem = problem
        self.reason = reason


def _misread(text: str, position: int, problem: str, reason: str = "") -> DecodeError:
    before = text[:position]
    line = before.count("\n") + 1
    column = position - before.rfind("\n")
    message = f"{problem} at line {line} column {column}"
    return DecodeError(f"{message}: {reason}" if reason else message, param="body")


def _shown(char: str) -> str:
    return f"'{char}'" if char.isprintable() else f"U+{ord(char):04X}"


def _position_of(text: str, word: str) -> int:
    """Return the first position of *word* outside of strings."""
    for match in _WORDS.finditer(text):
        if match[0] == word:
            return match.start()
    return 0


def _check_bounds(text: str) -> None:
    """Refuse a text with too many values or nesting levels before it is decoded.

    The check of the levels ends where a limit is exceeded, or where *text* is no longer valid JSON.
    It takes ten times as long as counting the values. So of a text with too many values, only the
    beginning is checked, because too many levels are the more precise reason.
    """
    has_many = len(text) > 2 * MAX_VALUES and has_more_values(
        text.encode("utf-8", "replace"), MAX_VALUES
    )
    if text.count("[") + text.count("{") > MAX_DEPTH:
        _check_depth(text, BRACKETS_OF_MANY if has_many else 2 * MAX_VALUES)
    if has_many:
        raise UserError(
            f"the body has more than {MAX_VALUES} values", status=413, name="payloadTooLarge"
        )


def _check_depth(text: str, max_brackets: int) -> None:
    """Refuse too many nesting levels within the first *max_brackets* brackets."""
    depth = 0
    for match in islice(_TO_BRACKET.finditer(text), max_brackets):
        if match[1] is None:
            return
        depth += 1 if match[1] in "[{" else -1
        if depth > MAX_DEPTH:
            reason = f"at most {MAX_DEPTH} levels are allowed"
            raise _misread(text, match.start(1), "exceeded max depth", reason)
        if depth < 0:
            return


def _refuse_constant(name: str) -> NoReturn:
    raise _Refused(name, f"invalid character '{name[0]}'", f"{name} is not JSON")


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise _Refused(text, "a number is too large")
    return value


def _int(text: str) -> int | float:
    # No setting needs more than 20 exact digits, and converting thousands of digits is slow.
    return int(text) if len(text) <= 20 else _float(text)


_decoder = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_float, parse_int=_int)


def _without_surrogates(value: Any) -> Any:
    """Return *value* with unpaired surrogates replaced, because UTF-8 can't encode them."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_without_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {
            _without_surrogates(name): _without_surrogates(item) for name, item in value.items()
        }
    return value
