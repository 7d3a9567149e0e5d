"""Lookup of the values at all paths of a mapping in a body, with their exact source text. Pure.

A table must get ``1.0``, ``1e5`` or an integer of thirty digits as the producer wrote them.
Therefore a value is copied from the JSON text instead of being printed from the parsed document.

Note [One pass]: all paths of a mapping are looked up together, in one pass over the text, and what
they have in common is done once: the blanks outside of strings are removed from the whole text, and
strings are decoded once. So the time for a record depends on the size of its body, and not on the
number of columns. Compiled code makes this pass for nearly every document (`native.JsonPaths`); it
also checks the document, which then needn't be parsed. The Python code has the same results, but
takes a hundred times as long.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

import attrs

from stream import native
from stream.record import go_json
from stream.record.jsontree import (
    MAX_VALUES,
    container_end_steps,
    has_more_values,
    parse_json,
    text_bytes,
)
from stream.record.path import ABSENT, PathStep, find_strictly, parse_path
from stream.record.steps import result_of

__all__ = ["Paths", "Values"]

_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_SCALAR = rb'[^ \t\r\n,\]}"{\[]++'
_MEMBER = re.compile(rb",?(" + _STRING + rb"):(" + _STRING + rb"|" + _SCALAR + rb")?", re.DOTALL)
_ITEM = re.compile(rb",?(" + _STRING + rb"|" + _SCALAR + rb")?", re.DOTALL)
_INSIDE = rb'[^"{}\[\]]++|' + _STRING
_FLAT = rb"[{\[](?:" + _INSIDE + rb")*+[}\]]"
_SHALLOW = re.compile(rb"[{\[](?:" + _INSIDE + rb"|" + _FLAT + rb")*+[}\]]", re.DOTALL)
"""An object or array with at most one level of others in it, which most are."""

_TO_BLANK = re.compile(rb'(?:[^" \t\r\n]++|' + _STRING + rb")*+[ \t\r\n]", re.DOTALL)
_KEPT = re.compile(_STRING + rb'|[^" \t\r\n]++', re.DOTALL)
"""What remains if the blanks outside of strings are removed."""

_OBJECT, _ARRAY, _QUOTE = b'{["'

Span = tuple[int, int]
"""Start and end of a value; they are equal if there is no value."""

_NOWHERE: Span = (0, 0)


class Values:
    """The values at *paths* in one body."""

    paths: Paths

    def text(self, place: int, *, raw_string: bool) -> bytes | None:
        """Return the value as compact JSON, or ``None`` if the path has no value.

        :param place: `Paths.place` of the path.
        :param raw_string: whether a string is rendered as its text, without quotes and escapes.
        """
        raise NotImplementedError


@attrs.frozen(eq=False)
class _JsonValues(Values):
    """Values in the JSON text *source*, which has no blanks outside of strings."""

    paths: Paths
    _source: bytes
    _spans: Sequence[Span]
    _texts: dict[int, bytes] = attrs.Factory(dict)

    def text(self, place: int, *, raw_string: bool) -> bytes | None:
        start, end = self._spans[place]
        if start == end:
            return None
        value = self._source[start:end]
        if not raw_string or value[0] != _QUOTE:
            return value
        text = self._texts.get(place)
        if text is None:
            text = self._texts[place] = _text_of(value)
        return text


@attrs.frozen(eq=False)
class _MapValues(Values):
    """Values in a body that is a map."""

    paths: Paths
    _map: Any
    _texts: dict[tuple[int, bool], bytes | None] = attrs.Factory(dict)

    def text(self, place: int, *, raw_string: bool) -> bytes | None:
        key = place, raw_string
        if key not in self._texts:
            self._texts[key] = self._text(place, raw_string)
        return self._texts[key]

    def _text(self, place: int, raw_string: bool) -> bytes | None:
        value = find_strictly(self._map, self.paths.steps[place])
        if value is ABSENT:
            return None
        if raw_string and isinstance(value, str):
            return text_bytes(value)
        return go_json.dumps(value).encode()


@attrs.define(eq=False)
class _Node:
    """What is looked up in a value: keys, items, and the value itself for some places.

    :ivar spelling: the usual JSON text of the key that leads here.
    """

    spelling: bytes = b""
    keys: dict[str, _Node] = attrs.Factory(dict)
    indexes: dict[int, list[_Node]] = attrs.Factory(dict)
    places: list[int] = attrs.Factory(list)


class Paths:
    """The paths of a mapping, prepared once and looked up in many bodies.

    In JSON, a numeric key also matches an array item, and an index also matches an object key. The
    first of several equal keys is used.

    :param paths: for example, ``user.tags[0]``; the empty path is the whole document.

    :ivar steps: the steps of each different path.
    :ivar is_fast: whether compiled code looks them up in every valid document.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        self._places = {path: place for place, path in enumerate(dict.fromkeys(paths))}
        self.steps: Sequence[tuple[PathStep, ...]] = [parse_path(path) for path in self._places]
        self._root = _Node()
        self.is_fast = native.is_built
        for place, steps in enumerate(self.steps):
            self._add(place, steps)
        self._compiled = self._compiled_of_maps = None
        if native.is_built:
            self._compiled = native.JsonPaths(
                [[(text_bytes(step.text), step.as_index) for step in steps] for steps in self.steps]
            )
            self._compiled_of_maps = native.JsonPaths(
                [[_strict_step(step) for step in steps] for steps in self.steps]
            )

    def _add(self, place: int, steps: Iterable[PathStep]) -> None:
        node = self._root
        for step in steps:
            child = node.keys.get(step.text)
            if child is None:
                child = node.keys[step.text] = _Node(_spelling(step.text))
                if step.as_index is not None:
                    same = node.indexes.setdefault(step.as_index, [])
                    same.append(child)
                    self.is_fast = self.is_fast and len(same) == 1  # not "0" and "00"
            node = child
        node.places.append(place)

    @property
    def steps_in_total(self) -> int:
        """The number of steps of all paths together."""
        return sum(map(len, self.steps))

    def place(self, path: str) -> int:
        """Return the place of *path*, one of the paths."""
        return self._places[path]

    def in_map(self, body: Any, printed: bytes = b"") -> Values:
        """Return the values in a map. An index finds only items, and a key only members.

        :param printed: the map as `go_json.dumps` prints it, if it is known; otherwise empty.
        """
        if printed and self._compiled_of_maps is not None:
            found = self._compiled_of_maps.find(printed)
            if found is not None and found[0] is None:
                return _JsonValues(self, printed, found[1])
        return _MapValues(self, body)

    def in_json(self, source: bytes) -> Values | None:
        """Return the values in *source* if compiled code finds that it is a valid document.

        ``None`` means that the document is invalid, or that `in_document` has to search it.
        """
        if self._compiled is None:
            return None
        if len(source) > 2 * MAX_VALUES and has_more_values(source, MAX_VALUES):
            return None
        found = self._compiled.find(source)
        if found is None:
            return None
        without_blanks, spans = found
        return _JsonValues(self, source if without_blanks is None else without_blanks, spans)

    def in_document(self, source: bytes) -> Values:
        """Return the values in *source*, which `stream.record.jsontree.parse_json` accepts."""
        source = _without_blanks(source)
        search = _Search(source, len(self.steps))
        search.value((self._root,), 0, needs_end=False)
        return _JsonValues(self, source, search.spans)


class _Search:
    """One pass over a valid document without blanks."""

    def __init__(self, source: bytes, count: int) -> None:
        self.spans: list[Span] = [_NOWHERE] * count
        self._source = source

    def value(self, nodes: Sequence[_Node], start: int, *, needs_end: bool) -> int:
        """Look up *nodes* in the value at *start*; return where the value ends.

        :param needs_end: whether the result is used.
        """
        source = self._source
        needs_end = needs_end or any(node.places for node in nodes)
        opening = source[start]
        end = -1
        if opening == _OBJECT:
            end = self._object(nodes, start, needs_end)
        elif opening == _ARRAY:
            end = self._array(nodes, start, needs_end)
        if end < 0 and needs_end:
            if opening in (_OBJECT, _ARRAY):
                end = _container_end(source, start)
            else:
                match = _ITEM.match(source, start)
                assert match is not None
                end = match.end(1)
        for node in nodes:
            for place in node.places:
                self.spans[place] = start, end
        return end

    def _object(self, nodes: Sequence[_Node], start: int, needs_end: bool) -> int:
        """Look up members; return the end of the object, or -1 if it isn't known."""
        keys: dict[str, list[_Node]] = {}
        spelled: dict[bytes, str] = {}  # most keys are in this form, and needn't be parsed
        for node in nodes:
            for text, child in node.keys.items():
                keys.setdefault(text, []).append(child)
                spelled[child.spelling] = text
        if not keys:
            return -1
        source = self._source
        position = start + 1
        while (match := _MEMBER.match(source, position)) is not None:
            name = match[1]
            key = spelled.get(name)
            if key is None and b"\\" in name:
                key = parse_json(name)
            children = None if key is None else keys.pop(key, None)
            is_scalar = match[2] is not None
            if children is not None:
                begin = match.start(2) if is_scalar else match.end()
                if not keys and not needs_end:
                    self.value(children, begin, needs_end=False)
                    return -1
                position = self.value(children, begin, needs_end=True)
            else:
                position = match.end() if is_scalar else _container_end(source, match.end())
        return position + 1

    def _array(self, nodes: Sequence[_Node], start: int, needs_end: bool) -> int:
        """Look up items; return the end of the array, or -1 if it isn't known."""
        indexes: dict[int, list[_Node]] = {}
        for node in nodes:
            for index, children in node.indexes.items():
                indexes.setdefault(index, []).extend(children)
        if not indexes:
            return -1
        source = self._source
        last = max(indexes)
        position = start + 1
        index = 0
        while source[position] != 0x5D and (needs_end or index <= last):
            match = _ITEM.match(source, position)
            assert match is not None
            is_scalar = match[1] is not None
            if index in indexes:
                begin = match.start(1) if is_scalar else match.end()
                position = self.value(indexes[index], begin, needs_end=True)
            else:
                position = match.end() if is_scalar else _container_end(source, match.end())
            index += 1
        return position + 1 if source[position] == 0x5D else -1


def _without_blanks(source: bytes) -> bytes:
    if _TO_BLANK.match(source) is None:
        return source
    return b"".join(_KEPT.findall(source))


def _text_of(spelling: bytes) -> bytes:
    """Return the text of a JSON string."""
    if b"\\" not in spelling:
        return spelling[1:-1]
    text = native.json_text(spelling) if native.is_built else None
    return text_bytes(parse_json(spelling)) if text is None else text


def _spelling(key: str) -> bytes:
    """Return the JSON text of a key in the form that most encoders write."""
    return text_bytes(json.dumps(key, ensure_ascii=False))


def _strict_step(step: PathStep) -> tuple[bytes, int | None]:
    """Return a step for a map; its key isn't Unicode, so it matches no key, if it is an index."""
    key = text_bytes(step.text)
    return (key, None) if step.index is None else (b"\xff" + key, step.index)


def _container_end(source: bytes, position: int) -> int:
    """Return the position after the container at *position*."""
    match = _SHALLOW.match(source, position)
    if match is not None:
        return match.end()
    return result_of(container_end_steps(source, position, len(source)))
