"""The form of a mapping for the compiled renderer (`stream.native.RowPlan`)."""

from __future__ import annotations

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
    UuidColumn,
)
from stream.record.jsontree import text_bytes
from stream.record.path import parse_path

__all__ = ["native_plan"]

_Spec = tuple[str, list[tuple[bytes, int | None]], bool, bytes | None]

_KINDS: dict[type[Column], str] = {
    UuidColumn: "uuid",
    DatetimeColumn: "datetime",
    IpColumn: "ip",
    HeadersColumn: "headers",
    BodyColumn: "body",
}


def native_plan(mapping: Mapping, row_size_limit: int) -> native.RowPlan | None:
    """Return the compiled renderer of *mapping*, ``None`` if it can't render all of its columns.

    :param row_size_limit: maximum size of a row in bytes, without the line feed.
    """
    if not native.is_built:
        return None
    specs = []
    for column in mapping.columns:
        spec = _spec(column)
        if spec is None:
            return None
        specs.append(spec)
    try:
        return native.RowPlan(specs, row_size_limit)
    except ValueError:
        return None  # too many paths


def _spec(column: Column) -> _Spec | None:
    if column.data_type:
        return None
    if isinstance(column, PathColumn):
        steps = [(text_bytes(step.text), step.as_index) for step in parse_path(column.path)]
        default = None
        if column.default_value is not None:
            text = column.default_value
            default = text_bytes(text) if column.raw_string else orjson.dumps(text)
        return "path", steps, column.raw_string, default
    kind = _KINDS.get(type(column))
    return None if kind is None else (kind, [], False, None)
