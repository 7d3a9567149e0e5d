"""Columns of a mapping on the command line. Pure.

``NAME:TYPE[=VALUE][:DATATYPE][,OPTION…]``, for example ``id:uuid,key``, ``user:path=user.name``,
``count:path=count:integer,default=1`` and ``label:template=std.asciiUpper(Body('item'))``.
Everything after ``=`` is the text of a template.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import Any

__all__ = ["COLUMN_TYPES", "DATA_TYPES", "column_of"]

COLUMN_TYPES = ("uuid", "datetime", "ip", "body", "headers", "path", "template")
DATA_TYPES = ("string", "boolean", "integer", "double", "timestamp", "date", "json", "uuid")
"""Data types other than ``decimal(p,s)``."""

_DECIMAL = re.compile(r"decimal\(\d+,\s?\d+\)")
_OPTION = re.compile(r",(?:(?:key|raw|json|nullable)(?=,|$)|default=)")
_OPTIONS = ("key", "raw", "json", "nullable", "default=")
_FORM = "NAME:TYPE, for example id:uuid or user:path=user.name"


def column_of(text: str) -> dict[str, Any]:
    """Return the column that *text* describes, as in the API.

    Raises ValueError: *text* is invalid; the message says why. Strings that come from paths and
    templates are stored without JSON's quotes, unless the option ``json`` is set.
    """
    name, separator, rest = text.partition(":")
    if not separator or not name or not rest:
        raise ValueError(f'"{text}" is not {_FORM}')
    head = re.match(r"[^=:,]*", rest)
    assert head is not None
    type = head[0]
    if type not in COLUMN_TYPES:
        raise ValueError(f'"{type}" is not a column type{_nearest(type, COLUMN_TYPES)}')
    rest = rest[head.end() :]
    if type == "template":
        if not rest.startswith("=") or len(rest) < 2:
            raise ValueError(f"\"{text}\" needs a template, such as {name}:template=Body('a')")
        template = {"language": "jsonnet", "content": rest[1:]}
        return {"type": type, "name": name, "rawString": True, "template": template}
    rest, options = _options(rest)
    column: dict[str, Any] = {"type": type, "name": name}
    value, data_type = _value_and_type(rest)
    if type == "path":
        if not value:
            raise ValueError(f'"{text}" needs a path, such as {name}:path=a.b')
        column |= {"path": value, "rawString": "json" not in options}
        if "default" in options:
            column["defaultValue"] = options["default"]
    elif value is not None:
        raise ValueError(f'a column of type "{type}" takes no value: write {name}:{type}')
    elif extra := sorted({"raw", "json", "default"} & options.keys()):
        raise ValueError(f'a column of type "{type}" has no option "{extra[0]}"')
    if data_type:
        column["dataType"] = data_type
    if "key" in options:
        column["primaryKey"] = True
    if "nullable" in options:
        column["nullable"] = True
    return column


def _options(text: str) -> tuple[str, dict[str, str]]:
    """Split *text* from its trailing options; ``default=`` takes everything after it."""
    found: dict[str, str] = {}
    match = _OPTION.search(text)
    if match is None:
        _, comma, word = text.rpartition(",")
        if comma and not text.endswith(")"):
            raise ValueError(f'"{word}" is not a column option{_nearest(word, _OPTIONS)}')
        return text, found
    rest, options = text[: match.start()], text[match.start() + 1 :]
    while options:
        if options.startswith("default="):
            found["default"] = options.removeprefix("default=")
            break
        option, _, options = options.partition(",")
        if option not in _OPTIONS:
            raise ValueError(f'"{option}" is not a column option{_nearest(option, _OPTIONS)}')
        found[option] = ""
    return rest, found


def _value_and_type(text: str) -> tuple[str | None, str]:
    """Return the value after ``=``, if any, and the data type after the last colon."""
    value, _, last = text.rpartition(":")
    is_type = last in DATA_TYPES or _DECIMAL.fullmatch(last) is not None
    if text.startswith(":") and not is_type:
        raise ValueError(f'"{last}" is not a data type{_nearest(last, DATA_TYPES)}')
    if is_type and ":" in text:
        text, data_type = value, last
    else:
        data_type = ""
        if ":" in text and (near := get_close_matches(last, DATA_TYPES, 1, 0.75)):
            raise ValueError(f'"{last}" is not a data type; did you mean "{near[0]}"?')
    if not text:
        return None, data_type
    return text.removeprefix("="), data_type


def _nearest(word: str, words: tuple[str, ...]) -> str:
    near = get_close_matches(word, words, 1)
    if near:
        return f'; did you mean "{near[0]}"?'
    return f": it is one of {', '.join(words)}"
