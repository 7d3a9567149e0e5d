"""JSON bodies: validation, and values at a path exactly as they are spelled in the source text.

A table must get ``1.0``, ``1e5`` or an integer of thirty digits as the producer wrote them, so a
value is copied from the source rather than printed from what a parser made of it. A full parse
validates the document and answers most lookups; the source is only searched for the value's place
when its spelling is in doubt: numbers with a fraction, containers, escapes, repeated keys.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from stream.record.errors import InvalidJson
from stream.record.path import ABSENT, PathStep, parse_path

__all__ = [
    "MAX_DEPTH",
    "JsonPath",
    "array_items",
    "canonical_documents",
    "is_canonical",
    "parse_json",
    "text_bytes",
]

MAX_DEPTH = 300
"""Objects and arrays inside one another."""

SEARCHED_BYTES = 64
_SPACED = b'": '

_BLANK = rb"[ \t\r\n]*+"
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_SCALAR = rb'[^ \t\r\n,\]}"{\[]++'
_VALUE = rb"(?:(" + _STRING + rb"|" + _SCALAR + rb")" + _BLANK + rb",?)?"
_MEMBER = re.compile(_BLANK + rb"(" + _STRING + rb")" + _BLANK + rb":" + _BLANK + _VALUE, re.DOTALL)
_ITEM = re.compile(_BLANK + _VALUE, re.DOTALL)
_AFTER_CONTAINER = re.compile(_BLANK + rb",?")
_TO_BRACKET = re.compile(rb'[^"{}\[\]]*+(?:' + _STRING + rb'[^"{}\[\]]*+)*+', re.DOTALL)
_BLANKS_OUTSIDE = re.compile(rb"(" + _STRING + rb")|[ \t\r\n]++", re.DOTALL)
_ANY_BLANK = re.compile(rb"[ \t\r\n]")
_STRINGS = re.compile(_STRING, re.DOTALL)
_LONE_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_ESCAPED_IN_JSON = re.compile(r'[\x00-\x1f"\\/]')
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_ONE_KIND = bytes.maketrans(b"{}", b"[]")


def parse_json(source: bytes) -> Any:
    """The document in *source*.

    Raises InvalidJson: not valid, or deeper than `MAX_DEPTH`.
    """
    try:
        value = orjson.loads(source)
    except orjson.JSONDecodeError as error:
        if _LONE_SURROGATE.search(source) is None:
            raise InvalidJson(str(error)) from None
        value = _parse_with_lone_surrogates(source)
    if _may_be_deep(source) and _too_deep(source):
        raise InvalidJson(f"it is nested deeper than {MAX_DEPTH} levels")
    return value


def is_canonical(source: bytes, document: Any) -> bool:
    """Whether printing *document* gives *source* again."""
    if source.find(_SPACED, 0, SEARCHED_BYTES) >= 0:
        return False  # what some printers do; it shows at the first key
    try:
        return orjson.dumps(document) == source
    except orjson.JSONEncodeError:
        return False  # lone surrogates


def canonical_documents(sources: Sequence[bytes]) -> list[Any] | None:
    """The documents in *sources*, if each of them is canonical.

    They are parsed together, if the first one lets hope that it isn't in vain. Whether the
    documents are the right ones, since a source may also hold two of them, or a part of one, shows
    when they are printed. The printer refuses what is nested too deep: its own limit is 254 levels.
    """
    try:
        if not is_canonical(sources[0], orjson.loads(sources[0])):
            return None
        documents: list[Any] = orjson.loads(b"[%b]" % b",".join(sources))
        return documents if list(map(orjson.dumps, documents)) == sources else None
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return None


def _parse_with_lone_surrogates(source: bytes) -> Any:
    """Half an emoji (``\\ud83d``) in some string must not cost the whole record."""
    try:
        return json.loads(source.decode(), parse_constant=_refuse_constant)
    except ValueError as error:
        raise InvalidJson(str(error)) from None
    except RecursionError:
        raise InvalidJson(f"it is nested deeper than {MAX_DEPTH} levels") from None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _may_be_deep(source: bytes) -> bool:
    """Whether there are enough brackets; most bodies have so few that counting can be saved."""
    if len(source) <= 2 * MAX_DEPTH:
        return False
    if source.find(b"[") < 0:
        inner = source.find(b"{", 1)
        if inner < 0 or source.find(b"{", inner + 1) < 0:
            return False
    return source.count(b"[") + source.count(b"{") > MAX_DEPTH


def _too_deep(source: bytes) -> bool:
    brackets = _STRINGS.sub(b"", source).translate(_ONE_KIND, _NOT_BRACKETS)
    # Taking out all innermost pairs at once lowers the depth by one.
    for _ in range(MAX_DEPTH):
        if not brackets:
            return False
        brackets = brackets.replace(b"[]", b"")
    return bool(brackets)


def text_bytes(text: str) -> bytes:
    """*text* in UTF-8; a lone surrogate becomes U+FFFD."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()


class JsonPath:
    """A lookup that is prepared once and done for many documents.

    A key also finds an array's item if it is a number, and an index an object's key. Of repeated
    keys the first counts.

    :param path: e.g. ``user.tags[0]``; the empty path is the whole document.
    """

    __slots__ = ("_exact_spelling", "_needles", "_steps")

    def __init__(self, path: str) -> None:
        self._steps = parse_path(path)
        self._needles = tuple(b'"' + text_bytes(step.text) + b'"' for step in self._steps)
        self._exact_spelling = not any(_ESCAPED_IN_JSON.search(step.text) for step in self._steps)

    def render(self, source: bytes, parsed: Any, raw_string: bool) -> bytes | None:
        """The value as compact JSON, or ``None`` if there is nothing at the path.

        :param source: the document.
        :param parsed: what `parse_json` made of it.
        :param raw_string: render a string as its text, without quotes and escapes.
        """
        if not self._keys_are_unique(source):
            return self._render_from_source(source, raw_string)
        value: Any = parsed
        for step in self._steps:
            if type(value) is dict:
                value = value.get(step.text, ABSENT)
                if value is ABSENT:
                    return None
            elif type(value) is list:
                index = step.as_index
                if index is None or index >= len(value):
                    return None
                value = value[index]
            else:
                return None
        kind = type(value)
        if kind is str:
            if raw_string:
                return text_bytes(value)
            if b"\\" not in source:
                return b'"%b"' % text_bytes(value)
        elif kind is int:
            if value:
                return b"%d" % value
        elif value is None:
            return b"null"
        elif kind is bool:
            return b"true" if value else b"false"
        return self._render_from_source(source, raw_string)

    def _keys_are_unique(self, source: bytes) -> bool:
        """False if a key of the path may occur more than once, or be spelled with escapes."""
        # A single byte is found faster than two, and most bodies have no escapes at all.
        if not self._exact_spelling or (b"\\" in source and b"\\u" in source):
            return False
        return self.occurs_once(source)

    def occurs_once(self, source: bytes) -> bool:
        """Whether no key of the path is spelled more than once, as a key or as a value."""
        for needle in self._needles:  # noqa: SIM110 - a generator would double the time
            if source.count(needle) > 1:
                return False
        return True

    def _render_from_source(self, source: bytes, raw_string: bool) -> bytes | None:
        span = _find(source, self._steps, self._needles)
        if span is None:
            return None
        value = source[span[0] : span[1]]
        if value[0] == 0x22:
            return text_bytes(json.loads(value)) if raw_string else value
        return _without_blanks(value)


def _without_blanks(value: bytes) -> bytes:
    if _ANY_BLANK.search(value) is None:
        return value
    return _BLANKS_OUTSIDE.sub(rb"\1", value)


Span = tuple[int, int]


def _find(source: bytes, steps: tuple[PathStep, ...], needles: tuple[bytes, ...]) -> Span | None:
    """Where the value at *steps* begins and ends in a valid document."""
    start = _value_start(source, 0)
    for step, needle in zip(steps, needles, strict=True):
        opening = source[start]
        found: int | None = None
        if opening == 0x7B:
            found = _find_member(source, start + 1, step.text, needle)
        elif opening == 0x5B and step.as_index is not None:
            found = _find_item(source, start + 1, step.as_index)
        if found is None:
            return None
        start = found
    match = _ITEM.match(source, start)
    assert match is not None  # it also matches nothing
    return match.span(1) if match[1] is not None else (start, _container_end(source, start))


def _value_start(source: bytes, position: int) -> int:
    match = _ITEM.match(source, position)
    assert match is not None
    return match.start(1) if match[1] is not None else match.end()


def _find_member(source: bytes, position: int, key: str, needle: bytes) -> int | None:
    while True:
        match = _MEMBER.match(source, position)
        if match is None:
            return None
        name = match[1]
        if name == needle or (b"\\" in name and json.loads(name) == key):
            return match.start(2) if match[2] is not None else match.end()
        position = match.end() if match[2] is not None else _after(source, match.end())


def _find_item(source: bytes, position: int, index: int) -> int | None:
    while True:
        match = _ITEM.match(source, position)
        assert match is not None
        if match[1] is None and source[match.end()] == 0x5D:
            return None
        if index == 0:
            return match.start(1) if match[1] is not None else match.end()
        index -= 1
        position = match.end() if match[1] is not None else _after(source, match.end())


def array_items(source: bytes) -> Iterator[bytes]:
    """The source text of each item of the valid array that is all of *source*."""
    position = source.index(b"[") + 1
    while True:
        match = _ITEM.match(source, position)
        assert match is not None  # it also matches nothing
        if match[1] is not None:
            yield match[1]
            position = match.end()
            continue
        start = match.end()
        if source[start] == 0x5D:
            return
        yield source[start : _container_end(source, start)]
        position = _after(source, start)


def _after(source: bytes, position: int) -> int:
    """Behind the container that starts at *position*, and the comma that may follow."""
    match = _AFTER_CONTAINER.match(source, _container_end(source, position))
    assert match is not None
    return match.end()


def _container_end(source: bytes, position: int) -> int:
    depth = 0
    while True:
        match = _TO_BRACKET.match(source, position)
        assert match is not None
        position = match.end() + 1
        depth += 1 if source[match.end()] in b"{[" else -1
        if depth == 0:
            return position
