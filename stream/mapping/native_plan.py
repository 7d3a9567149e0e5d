"""The form of a mapping for the compiled renderer (`stream.native.RowPlan`)."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from stream import native
from stream.mapping.columns import (
    BodyColumn,
    Column,
    DatetimeColumn,
    HeadersColumn,
    IpColumn,
    Mapping,
    PathColumn,
    TemplateColumn,
    UuidColumn,
)
from stream.mapping.concatenation import TextPart, concatenated
from stream.mapping.typed import default_of, keeps_spelling
from stream.mapping.types import decimal_size
from stream.record.jsontree import text_bytes
from stream.record.path import PathStep, parse_path

__all__ = ["has_indexes", "native_plan"]

_Steps = list[tuple[bytes, int | None]]
_Part = tuple[bytes | None, _Steps | None, bytes | None]
_Type = tuple[str, int, int, bool, bool, bool]
_Spec = tuple[str, _Steps, bool, bytes | None, list[_Part], _Type | None]

_KINDS: dict[type[Column], str] = {
    UuidColumn: "uuid",
    DatetimeColumn: "datetime",
    IpColumn: "ip",
    HeadersColumn: "headers",
    BodyColumn: "body",
}


_NO_KEY = b"\xff"
"""Begins a step that matches no key, because keys are Unicode."""


def native_plan(
    mapping: Mapping, row_size_limit: int, *, of_maps: bool = False
) -> native.RowPlan | None:
    """Return the compiled renderer of *mapping*; ``None`` if it can't render all columns.

    :param row_size_limit: maximum size of a row in bytes, without the line feed.
    :param of_maps: whether the bodies are maps. In a map, a number written as a key finds no item
        of an array, and an index finds no key.
    """
    if not native.is_built:
        return None
    try:
        specs = []
        for column in mapping.columns:
            spec = _spec(column, of_maps)
            if spec is None:
                return None
            specs.append(spec)
        return native.RowPlan(specs, row_size_limit)
    except ValueError:
        return None  # there are too many paths, or a literal isn't Unicode


def has_indexes(mapping: Mapping) -> bool:
    """Return whether a path has a step whose meaning depends on whether the body is a map."""
    return any(
        step.as_index is not None
        for column in mapping.columns
        if isinstance(column, PathColumn)
        for step in parse_path(column.path)
    )


def _spec(column: Column, of_maps: bool) -> _Spec | None:
    type_ = _type(column) if column.data_type else None
    if isinstance(column, PathColumn):
        steps = (_strict_steps if of_maps else _steps)(parse_path(column.path))
        return "path", steps, column.raw_string, _default(column), [], type_
    if isinstance(column, TemplateColumn):
        parts = concatenated(column.template.content)
        if parts is None:
            return None
        return "text", [], column.raw_string, None, _parts(parts), type_
    if isinstance(column, HeadersColumn) and column.primary_key:
        return None
    kind = _KINDS.get(type(column))
    return None if kind is None else (kind, [], False, None, [], type_)


def _default(column: PathColumn) -> bytes | None:
    text = column.default_value
    if text is None:
        return None
    if column.data_type:
        return default_of(column)
    return text_bytes(text) if column.raw_string else orjson.dumps(text)


def _type(column: Column) -> _Type:
    size = decimal_size(column.data_type)
    digits, after = size or (0, 0)
    return (
        "decimal" if size else column.data_type,
        digits - after,
        after,
        keeps_spelling(column),
        column.nullable,
        column.primary_key,
    )


def _steps(steps: Sequence[PathStep]) -> _Steps:
    return [(text_bytes(step.text), step.as_index) for step in steps]


def _strict_steps(steps: Sequence[PathStep]) -> _Steps:
    """Return steps that find only keys or only items, as in `stream.record.path.find_strictly`."""
    return [
        (text_bytes(step.text), None)
        if step.index is None
        else (_NO_KEY + step.text.encode(), step.index)
        for step in steps
    ]


def _parts(parts: Sequence[TextPart]) -> list[_Part]:
    return [
        (
            None if part.literal is None else part.literal.encode(),
            None if part.steps is None else _steps(part.steps),
            None if part.default is None else part.default.encode(),
        )
        for part in parts
    ]
