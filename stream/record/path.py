"""Paths into a parsed body, such as ``user.tags[0]``."""

from __future__ import annotations

import re
from typing import Any

import attrs

__all__ = ["ABSENT", "PathStep", "find_strictly", "parse_path"]

_SEPARATOR = re.compile(r"[.\[]")
_INDEX_PART = re.compile(r"(\d+)\]")
_MAX_INDEX_DIGITS = 18

ABSENT: Any = object()
"""The result of a lookup that finds no value (``None`` is JSON's null)."""


@attrs.frozen
class PathStep:
    """One part of a path.

    :ivar text: the part, without brackets.
    :ivar index: array index, if the part is written as one.
    """

    text: str
    index: int | None = None

    @property
    def as_index(self) -> int | None:
        """The array index that the part matches, even if it was written as a key."""
        if self.index is None and self.text.isascii() and self.text.isdigit():
            return int(self.text) if len(self.text) <= _MAX_INDEX_DIGITS else None
        return self.index


def parse_path(path: str) -> tuple[PathStep, ...]:
    """Split a path at ``.`` and ``[``; empty parts are skipped."""
    steps = []
    for part in _SEPARATOR.split(path):
        if not part:
            continue
        match = _INDEX_PART.fullmatch(part)
        if match is None or not part.isascii() or len(part) > _MAX_INDEX_DIGITS:
            steps.append(PathStep(part))
        else:
            steps.append(PathStep(match[1], int(match[1])))
    return tuple(steps)


def find_strictly(value: Any, steps: tuple[PathStep, ...]) -> Any:
    """Return the value at *steps*, or `ABSENT`.

    An index matches only arrays, and a key only objects."""
    for step in steps:
        if step.index is None:
            if not isinstance(value, dict) or step.text not in value:
                return ABSENT
            value = value[step.text]
        else:
            if not isinstance(value, list) or step.index >= len(value):
                return ABSENT
            value = value[step.index]
    return value
