"""The functions that templates use to access the record, and their results as JSON text."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from stream.errors import UserError
from stream.mapping.strftime import format_datetime
from stream.record.context import RecordContext
from stream.record.headers import canonical_name
from stream.record.path import ABSENT, PathStep, find_strictly, parse_path

__all__ = ["FUNCTIONS", "NO_DEFAULT", "to_json", "without_surrogates"]

NO_DEFAULT = "<<~~errOnUndefined~~>>"
"""Default of the parameter ``default``; there is no other way to detect a missing argument."""

_DEFAULT_FORMAT = "%Y-%m-%dT%H:%M:%S.%fZ"
_EXACT_INTEGER = 2**53
_REMEMBERED_CHARACTERS = 128
_SURROGATE = re.compile("[\ud800-\udfff]")
_PRINTER = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"))
"""Escapes what JSON requires, in the same form as Jsonnet, in C."""

_UNSAFE = re.compile("[\x7f-\x9f]")
_ESCAPES = {code: f"\\u{code:04x}" for code in range(0x7F, 0xA0)}
"""The characters that Jsonnet escapes in addition."""


_remembered_steps = lru_cache(maxsize=256)(parse_path)


def _steps(path: str) -> tuple[PathStep, ...]:
    return _remembered_steps(path) if len(path) <= _REMEMBERED_CHARACTERS else parse_path(path)


def _ip(record: RecordContext) -> str:
    return record.client_ip


def _now(record: RecordContext, pattern: Any = _DEFAULT_FORMAT) -> str:
    if not isinstance(pattern, str):
        raise UserError("parameter must be a string")
    return format_datetime(record.timestamp_ms, pattern)


def _header_str(record: RecordContext) -> str:
    return record.headers.text


def _header(record: RecordContext, name: Any = "", default: Any = NO_DEFAULT) -> Any:
    if not isinstance(name, str):
        raise UserError("parameter must be a string")
    if not name:
        return record.headers.map
    name = canonical_name(name)
    value = record.headers.map.get(name)
    if value is not None:
        return value
    if default == NO_DEFAULT:
        raise UserError(f'header "{name}" not found')
    return default


def _body_str(record: RecordContext) -> str:
    return record.body.decode("utf-8", "replace")


def _body(record: RecordContext, path: Any = "", default: Any = NO_DEFAULT) -> Any:
    if not isinstance(path, str):
        raise UserError("first parameter must be a string")
    value = find_strictly(record.template_body(), _steps(path))
    if value is not ABSENT:
        return _for_templates(value)
    if default == NO_DEFAULT:
        raise UserError(f'path "{path}" not found in the body')
    return default


def _for_templates(value: Any) -> Any:
    """Return *value* converted to Jsonnet's types: numbers are doubles, strings are Unicode.

    An integer that a double can't represent exactly is rounded, and an unpaired surrogate becomes
    U+FFFD.

    Raises UserError: a number exceeds the range of a double.
    """
    kind = type(value)
    if kind is str:
        return value if value.isascii() else without_surrogates(value)
    if kind is dict:
        return {without_surrogates(key): _for_templates(item) for key, item in value.items()}
    if kind is list:
        return [_for_templates(item) for item in value]
    if value is None or kind is bool:
        return value
    if kind is int and -_EXACT_INTEGER <= value <= _EXACT_INTEGER:
        return value
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise UserError("the body has a number that is too large for templates")
    return number


def without_surrogates(text: str) -> str:
    """Return *text* with each unpaired surrogate replaced by U+FFFD."""
    return _SURROGATE.sub("\ufffd", text)


FUNCTIONS: Mapping[str, tuple[str, tuple[str, ...], Callable[..., Any]]] = {
    "Ip": ("", (), _ip),
    "Now": (f'format="{_DEFAULT_FORMAT}"', ("format",), _now),
    "HeaderStr": ("", (), _header_str),
    "Header": (f'header="", default="{NO_DEFAULT}"', ("header", "default"), _header),
    "BodyStr": ("", (), _body_str),
    "Body": (f'path="", default="{NO_DEFAULT}"', ("path", "default"), _body),
}
"""Functions by name: Jsonnet parameters with defaults, parameter names, and Python function."""


def to_json(value: Any) -> str:
    """Return compact JSON as Jsonnet formats it: keys sorted, numbers as doubles.

    Integral numbers are written with all their digits, other numbers with 17 significant digits.
    """
    if isinstance(value, str):
        return _escaped(_PRINTER.encode(value))
    if value is None:
        return "null"
    if value is True:
        return "true"
    if value is False:
        return "false"
    if isinstance(value, int | float):
        number = float(value)
        if not math.isfinite(number):
            raise UserError("number is too large")
        return f"{number:.0f}" if number == math.floor(number) else f"{number:.17g}"
    if isinstance(value, Mapping):
        if all(type(item) is str for item in value.values()):
            return _escaped(_PRINTER.encode(value))
        members = [f"{to_json(key)}:{to_json(value[key])}" for key in sorted(value)]
        return "{" + ",".join(members) + "}"
    return "[" + ",".join([to_json(item) for item in value]) + "]"


def _escaped(text: str) -> str:
    return text if _UNSAFE.search(text) is None else text.translate(_ESCAPES)
