"""URL-encoded forms with PHP-like keys (``a[b][]=x``) as nested objects and arrays.

Text is split and unescaped according to the WHATWG URL standard. Invalid escapes are kept, and no
byte is invalid.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from typing import Any

from stream.record.charset import find_charset
from stream.record.errors import InvalidForm, UnsupportedCharset
from stream.record.steps import result_of

__all__ = ["MAX_ARRAY_ITEMS", "MAX_FIELDS", "MAX_KEY_DEPTH", "form_steps", "parse_form"]

MAX_FIELDS = 10_000
"""Maximum number of fields of a form, including empty ones."""

MAX_ARRAY_ITEMS = 10_000
"""Maximum array index; with a larger one, a short request could fill an array with nulls."""

MAX_KEY_DEPTH = 100
"""Maximum number of bracket pairs in a key."""

MAX_FILLED_ITEMS = 100_000
"""Maximum number of array items in a form, including gaps."""

MAX_STEPS = 100_000
"""Maximum number of bracket pairs in all keys of a form."""

FIELDS_AT_ONCE = 250
"""Number of fields per step; a step takes a few hundred microseconds."""

MAX_LABEL_BYTES = 256
"""Maximum length of a charset name; all known names are shorter."""

BYTES_AT_ONCE = 16 * 1024
"""Number of bytes unescaped per step; a step takes at most a millisecond or two."""

_HEX = "0123456789abcdefABCDEF"
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
_BYTES = {f"{high}{low}".encode(): bytes.fromhex(f"{high}{low}") for high in _HEX for low in _HEX}

_CHARSET_FIELD = re.compile(rb"(?:\A|&)(_charset_|charset)=([^&]*+)")
_KEY = re.compile(r"([^\[]*)((?:\[[^\]]*\])*)(.*)", re.DOTALL)
_BRACKET = re.compile(r"\[([^\]]*)\]")
_INDEX = re.compile(r"-?\d{1,18}")

_APPEND = object()
_SHAPES: dict[type, str] = {dict: "object", list: "array", str: "string"}


def parse_form(body: bytes, charset: str = "") -> dict[str, Any]:
    """Return the form's fields; values are always strings. See `form_steps`."""
    return result_of(form_steps(body, charset))


def form_steps(body: bytes, charset: str = "") -> Generator[None, None, dict[str, Any]]:
    """Parse a form in small steps.

    Raises InvalidForm, with the reason. Raises UnsupportedCharset: the label is unknown.

    :param charset: the label that the request declares; by default the value of the field
        ``_charset_`` or ``charset``, and without these fields UTF-8.
    """
    parts = body.split(b"&", MAX_FIELDS)
    if len(parts) > MAX_FIELDS:
        raise InvalidForm(
            f"it has more than {MAX_FIELDS} fields", status=413, name="payloadTooLarge"
        )
    form = _Form()
    decode = yield from _decoder_steps(body, charset)
    for number, field in enumerate(parts):
        if field:
            name, _, value = field.partition(b"=")
            if len(field) <= BYTES_AT_ONCE:
                name, value = _unescaped(name), _unescaped(value)
            else:
                name, value = (
                    (yield from _unescape_steps(name)),
                    (yield from _unescape_steps(value)),
                )
            form.put(decode(name), decode(value))
        if not number % FIELDS_AT_ONCE:
            yield
    return form.fields


def _unescaped(data: bytes) -> bytes:
    """Return *data* with each ``+`` replaced by a space, and escapes decoded."""
    if b"+" in data:
        data = data.replace(b"+", b" ")
    return _ESCAPE.sub(_escaped_byte, data) if b"%" in data else data


def _escaped_byte(match: re.Match[bytes]) -> bytes:
    return _BYTES[match[1]]


def _unescape_steps(data: bytes) -> Generator[None, None, bytes]:
    """Unescape *data* in small steps; no step ends within an escape."""
    pieces = []
    start = 0
    while start < len(data):
        end = start + BYTES_AT_ONCE
        if end < len(data):
            percent = data.rfind(b"%", end - 2, end)
            if percent >= 0:
                end = percent
        pieces.append(_unescaped(data[start:end]))
        start = end
        yield
    return b"".join(pieces)


Decode = Callable[[bytes], str]


def _utf8(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _decoder_steps(body: bytes, declared: str) -> Generator[None, None, Decode]:
    """Return the decoder for names and values. Raises UnsupportedCharset."""
    if declared:
        return _decoder_of(declared)
    fields = dict(reversed(_CHARSET_FIELD.findall(body)))  # the first value of each name is used
    if b"_charset_" in fields:
        return _decoder_of(_utf8(_unescaped(fields[b"_charset_"][:MAX_LABEL_BYTES])))
    if b"charset" not in fields:
        return _utf8
    # The field may also be ordinary data. Text in a single-byte charset is rarely valid UTF-8.
    is_utf8 = _is_utf8((yield from _unescape_steps(body)))
    label = _utf8(_unescaped(fields[b"charset"][:MAX_LABEL_BYTES]))
    try:
        charset = find_charset(label)
    except LookupError:
        if is_utf8:
            return _utf8
        raise UnsupportedCharset(label) from None
    return _utf8 if charset is None or (is_utf8 and charset.is_single_byte) else charset.decode


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _decoder_of(label: str) -> Decode:
    try:
        charset = find_charset(label)
    except LookupError:
        raise UnsupportedCharset(label) from None
    return _utf8 if charset is None else charset.decode


class _Form:
    """The fields read so far.

    :ivar fields: names and values.
    :ivar _filled: number of array items so far, limited so that indexes can't exhaust memory.
    :ivar _steps: number of bracket pairs so far.
    """

    def __init__(self) -> None:
        self.fields: dict[str, Any] = {}
        self._filled = 0
        self._steps = 0

    def put(self, key: str, value: str) -> None:
        """Add a field."""
        path = _split_key(key)
        self._steps += len(path) - 1
        if self._steps > MAX_STEPS:
            raise InvalidForm(
                f"its keys have more than {MAX_STEPS} brackets", status=413, name="payloadTooLarge"
            )
        container: Any = self.fields
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
    if "[" not in key or key.startswith("["):
        return [key]
    match = _KEY.fullmatch(key)
    assert match is not None  # the last group matches all remaining text
    head, brackets, rest = match.groups()
    if rest or not brackets:
        raise InvalidForm(f'Unable to parse key "{key}"')
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
