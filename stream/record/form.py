"""URL-encoded forms with PHP-like keys (``a[b][]=x``) as nested objects and arrays."""

from __future__ import annotations

import re
from typing import Any

from stream.record.errors import InvalidForm

__all__ = ["MAX_ARRAY_ITEMS", "MAX_KEY_DEPTH", "parse_form"]

MAX_ARRAY_ITEMS = 10_000
"""An index beyond it would make us fill an array with nulls for a few bytes of request."""

MAX_KEY_DEPTH = 100
"""Brackets of one key."""

MAX_FILLED_ITEMS = 100_000
"""Array items of a whole form, gaps included."""

_ESCAPE_FAULT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_ESCAPES = re.compile(rb"%([0-9A-Fa-f]{2})")
_KEY = re.compile(r"([^\[]*)((?:\[[^\]]*\])*)(.*)", re.DOTALL)
_BRACKET = re.compile(r"\[([^\]]*)\]")
_INDEX = re.compile(r"-?\d{1,18}")

_APPEND = object()
_SHAPES: dict[type, str] = {dict: "object", list: "array", str: "string"}


def parse_form(body: bytes) -> dict[str, Any]:
    """The form's fields; values are always strings.

    Raises InvalidForm with the reason.
    """
    return _Form().parse(body.decode("utf-8", "replace"))


def _unescape(text: str) -> str:
    fault = _ESCAPE_FAULT.search(text)
    if fault is not None:
        raise InvalidForm(f'invalid URL escape "{text[fault.start() : fault.start() + 3]}"')
    text = text.replace("+", " ")
    if "%" not in text:
        return text
    plain = _ESCAPES.sub(lambda match: bytes([int(match[1], 16)]), text.encode())
    return plain.decode("utf-8", "replace")


class _Form:
    """The fields read so far.

    :ivar _filled: array items made so far, bounded so that indexes can't blow up memory.
    """

    def __init__(self) -> None:
        self._fields: dict[str, Any] = {}
        self._filled = 0

    def parse(self, text: str) -> dict[str, Any]:
        fault: InvalidForm | None = None
        for pair in text.split("&"):
            if not pair:
                continue
            if ";" in pair:
                fault = InvalidForm("invalid semicolon separator in query")
                continue
            key, _, value = pair.partition("=")
            self._put(_unescape(key), _unescape(value))
            fault = None
        if fault is not None:
            raise fault
        return self._fields

    def _put(self, key: str, value: str) -> None:
        path = _split_key(key)
        container: Any = self._fields
        for depth, step in enumerate(path):
            last = depth == len(path) - 1
            following = None if last else path[depth + 1]
            if step is _APPEND:
                if not isinstance(container, list):
                    raise InvalidForm("invalid square brackets in query")
                self._grow(container, len(container))
                container[-1] = value
                return
            if isinstance(step, int):
                if not isinstance(container, list):
                    raise _wrong_shape(path[:depth], "array", container)
                self._grow(container, step)
                item = container[step]
            else:
                if not isinstance(container, dict):
                    raise _wrong_shape(path[:depth], "object", container)
                item = container.get(step)
            if last:
                container[step] = value
            elif item is None:
                item = container[step] = {} if isinstance(following, str) else []
            container = item

    def _grow(self, items: list[Any], index: int) -> None:
        if index >= MAX_ARRAY_ITEMS:
            raise InvalidForm(f"array index {index} is over the maximum {MAX_ARRAY_ITEMS - 1}")
        missing = index + 1 - len(items)
        if missing > 0:
            self._filled += missing
            if self._filled > MAX_FILLED_ITEMS:
                raise InvalidForm(f"more than {MAX_FILLED_ITEMS} array items")
            items.extend([None] * missing)


def _split_key(key: str) -> list[Any]:
    if "[" not in key:
        if not key:
            raise InvalidForm("path cannot be empty")
        return [key]
    match = _KEY.fullmatch(key)
    assert match is not None  # the last group takes whatever is left
    head, brackets, rest = match.groups()
    if rest or not brackets:
        raise InvalidForm(f'Unable to parse key "{key}"')
    if not head:
        raise InvalidForm("path cannot be empty")
    steps = _BRACKET.findall(brackets)
    if len(steps) > MAX_KEY_DEPTH:
        raise InvalidForm(f"a key has more than {MAX_KEY_DEPTH} brackets")
    path: list[Any] = [head]
    for position, step in enumerate(steps):
        if not step:
            if position != len(steps) - 1:
                raise InvalidForm(f'Unable to parse key "{key}"')
            path.append(_APPEND)
        elif _INDEX.fullmatch(step):
            path.append(int(step))
            if path[-1] < 0:
                raise InvalidForm(f'path "{_path_text(path)}": array key can\'t be negative')
        else:
            path.append(step)
    return path


def _wrong_shape(path: list[Any], expected: str, found: Any) -> InvalidForm:
    kind = _SHAPES.get(type(found), "null")
    return InvalidForm(f'path "{_path_text(path)}": expected {expected} found "{kind}"')


def _path_text(path: list[Any]) -> str:
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += f".{step}" if text else str(step)
    return text
