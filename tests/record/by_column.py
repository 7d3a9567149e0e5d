"""The lookup of one path at a time: slow and simple, to compare `stream.record.lookup` with.

It finds a value in the parsed document and searches the text for it where the spelling matters.
"""

from __future__ import annotations

import re
from typing import Any

from stream.record.jsontree import container_end_steps, parse_json, text_bytes
from stream.record.path import ABSENT, PathStep, parse_path
from stream.record.steps import result_of

__all__ = ["JsonPath"]

_BLANK = rb"[ \t\r\n]*+"
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_SCALAR = rb'[^ \t\r\n,\]}"{\[]++'
_VALUE = rb"(?:(" + _STRING + rb"|" + _SCALAR + rb")" + _BLANK + rb",?)?"
_MEMBER = re.compile(_BLANK + rb"(" + _STRING + rb")" + _BLANK + rb":" + _BLANK + _VALUE, re.DOTALL)
_ITEM = re.compile(_BLANK + _VALUE, re.DOTALL)
_AFTER_CONTAINER = re.compile(_BLANK + rb",?")
_BLANKS_OUTSIDE = re.compile(rb"(" + _STRING + rb")|[ \t\r\n]++", re.DOTALL)
_ANY_BLANK = re.compile(rb"[ \t\r\n]")
_ESCAPED_IN_JSON = re.compile(r'[\x00-\x1f"\\/]')


class JsonPath:
    """A path lookup that is prepared once and executed for many documents.

    A numeric key also matches an array item, and an index also matches an object key. The first of
    several equal keys is used.

    :param path: for example, ``user.tags[0]``; the empty path is the whole document.
    """

    __slots__ = ("_exact_spelling", "_needles", "_steps")

    def __init__(self, path: str) -> None:
        self._steps = parse_path(path)
        self._needles = tuple(b'"' + text_bytes(step.text) + b'"' for step in self._steps)
        self._exact_spelling = not any(_ESCAPED_IN_JSON.search(step.text) for step in self._steps)

    def render(self, source: bytes, parsed: Any, raw_string: bool) -> bytes | None:
        """Return the value as compact JSON, or ``None`` if the path has no value.

        :param source: the document.
        :param parsed: the document parsed by `parse_json`.
        :param raw_string: whether a string is rendered as its text, without quotes and escapes.
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
        """Return False if a key of the path may be repeated or spelled with escapes."""
        # Finding one byte is faster than finding two, and most bodies have no escapes.
        if not self._exact_spelling or (b"\\" in source and b"\\u" in source):
            return False
        return self.occurs_once(source)

    def occurs_once(self, source: bytes) -> bool:
        """Return whether each key of the path occurs at most once as a string, key or value."""
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
            return text_bytes(parse_json(value)) if raw_string else value
        return _without_blanks(value)


def _without_blanks(value: bytes) -> bytes:
    if _ANY_BLANK.search(value) is None:
        return value
    return _BLANKS_OUTSIDE.sub(rb"\1", value)


Span = tuple[int, int]


def _find(source: bytes, steps: tuple[PathStep, ...], needles: tuple[bytes, ...]) -> Span | None:
    """Return the start and end of the value at *steps* in a valid document."""
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
    assert match is not None  # it also matches an empty text
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
        if parse_json(name) == key if b"\\" in name else name == needle:
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


def _after(source: bytes, position: int) -> int:
    """Return the position after the container at *position* and the comma that may follow it."""
    match = _AFTER_CONTAINER.match(source, _container_end(source, position))
    assert match is not None
    return match.end()


def _container_end(source: bytes, position: int) -> int:
    return result_of(container_end_steps(source, position, len(source)))
