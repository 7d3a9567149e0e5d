"""Decides which records take too long to render in the reactor. Pure.

Such records are rendered by the engine (`Renderer.large_plan`), unless compiled code renders them.
These are records with a large body, and smaller ones for which a mapping takes as long: with
templates that print large values, or with paths that Python code has to search.
"""

from __future__ import annotations

from typing import Any

from stream.errors import UserError
from stream.mapping.columns import Mapping, PathColumn, TemplateColumn
from stream.mapping.jsonnet import printed_path
from stream.record.context import RecordContext
from stream.record.headers import BodyKind
from stream.record.large import LARGE_BYTES, takes_long
from stream.record.lookup import Paths
from stream.record.path import ABSENT, PathStep, find_strictly, parse_path

__all__ = ["Effort", "paths_of"]

SEARCHED_BYTES = 16 * 1024
"""Maximum size of a body that Python code searches for paths, which takes a few milliseconds."""

PARSED_BYTES = 32 * 1024
"""Maximum size of a body that is parsed for templates, which takes a few milliseconds."""

MAX_PRINTED = 4000
"""Number of values that the templates of a record print; each takes a microsecond or more.

In a body, a value takes two bytes or more.
"""

CHARACTERS_PER_VALUE = 100
"""Number of characters that take as long to print as a value."""


def paths_of(mapping: Mapping) -> Paths:
    """Return the paths of *mapping*, which are looked up together."""
    return Paths(column.path for column in mapping.columns if isinstance(column, PathColumn))


class Effort:
    """The effort of rendering records with one mapping.

    :ivar free_bytes: size of bodies up to which no record takes long.
    """

    def __init__(self, mapping: Mapping, paths: Paths) -> None:
        self._is_searched = bool(paths.steps) and not paths.is_fast
        self._printed: list[tuple[PathStep, ...]] = []
        for column in mapping.columns:
            if isinstance(column, TemplateColumn):
                path = printed_path(column.template.content)
                if path is not None:
                    self._printed.append(parse_path(path))
        self.free_bytes = SEARCHED_BYTES if self._is_searched else LARGE_BYTES
        if self._printed:
            self.free_bytes = min(self.free_bytes, 2 * MAX_PRINTED // len(self._printed))

    def takes_long(self, record: RecordContext) -> bool:
        """Return whether rendering *record* would block other records."""
        if takes_long(record):
            return True
        size = len(record.body)
        if size <= self.free_bytes:
            return False
        if self._is_searched and size > SEARCHED_BYTES and record.headers.kind is BodyKind.JSON:
            return True
        if not self._printed:
            return False
        is_parsed = bool(record.signal)
        return (size > PARSED_BYTES and not is_parsed) or self._prints_much(record)

    def _prints_much(self, record: RecordContext) -> bool:
        try:
            body = record.template_body()
        except UserError:
            return False  # the first template fails
        left = MAX_PRINTED
        for steps in self._printed:
            value = find_strictly(body, steps)
            if value is not ABSENT:
                left -= _size(value, left)
            if left <= 0:
                return True
        return False


def _size(value: Any, limit: int) -> int:
    """Return the number of values to print for *value*; the count stops at *limit*."""
    size = 0
    values = [value]
    while values and size < limit:
        value = values.pop()
        size += 1
        if isinstance(value, str):
            size += len(value) // CHARACTERS_PER_VALUE
        elif isinstance(value, dict):
            size += len(value)
            values += value.values()
        elif isinstance(value, list):
            values += value
    return size
