"""The states of files and slices as a picture, drawn from the rules of the storage model.

``make docs-pictures`` runs ``python -m tools.pictures.states docs/states.svg``, which writes it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path
from typing import Any

from stream.errors import UserError
from stream.storage.model.state import (
    FILE_LEVEL,
    SLICE_LEVEL,
    FileState,
    Level,
    SliceState,
    check_file_transition,
    check_slice_transition,
    check_upload_again,
)
from tools.pictures.svg import arrow, box, picture, text

__all__ = ["main", "states"]

_WIDTH, _HEIGHT = 900, 360
_BOX_WIDTH, _BOX_HEIGHT = 120, 46
_LEFT, _STEP = 90, 162
_FILES, _SLICES = 90, 215
_PLACES = {Level.LOCAL: "on a volume", Level.STAGING: "in staging", Level.TARGET: "in the table"}


def _allowed(check: Callable[..., None], states: list[Any]) -> list[tuple[Any, Any]]:
    """Return the transitions that *check* allows."""
    found = []
    for before, after in product(states, states):
        try:
            check("key", before, before, after)
        except UserError:
            continue
        found.append((before, after))
    return found


def _again() -> list[tuple[FileState, SliceState]]:
    """Return the states of a file and its slice in which the slice may be uploaded again."""
    found = []
    for file, slice_ in product(FileState, SliceState):
        try:
            check_upload_again("key", file, slice_)
        except UserError:
            continue
        found.append((file, slice_))
    return found


def states() -> str:
    """Return the picture, as an SVG document."""
    files, slices = list(FileState), list(SliceState)
    parts: list[str] = []
    rows: list[tuple[str, int, list[Any], Mapping[Any, Level]]] = [
        ("file", _FILES, files, FILE_LEVEL),
        ("slice", _SLICES, slices, SLICE_LEVEL),
    ]
    for name, row, kinds, levels in rows:
        parts.append(text(20, row + 29, name, "n left"))
        for number, state in enumerate(kinds):
            x = _LEFT + number * _STEP
            parts.append(box(x, row, _BOX_WIDTH, _BOX_HEIGHT))
            parts.append(text(x + _BOX_WIDTH / 2, row + 20, state.value, "n"))
            parts.append(text(x + _BOX_WIDTH / 2, row + 38, _PLACES[levels[state]], "s"))
    for row, kinds, check in (
        (_FILES, files, check_file_transition),
        (_SLICES, slices, check_slice_transition),
    ):
        for before, after in _allowed(check, kinds):
            start = _LEFT + kinds.index(before) * _STEP + _BOX_WIDTH
            end = _LEFT + kinds.index(after) * _STEP
            y = row + _BOX_HEIGHT / 2
            parts.append(arrow(f"M{start} {y:g}H{end - 2}"))
    for file, slice_ in _again():
        left, right = (
            _LEFT + slices.index(each) * _STEP + _BOX_WIDTH / 2
            for each in (SliceState.UPLOADING, slice_)
        )
        below = _SLICES + _BOX_HEIGHT
        parts.append(arrow(f"M{right:g} {below}V{below + 28}H{left:g}V{below + 2}", back=True))
        words = f"while the file is {file.value}: again, if the upload credentials have expired"
        parts.append(text((left + right) / 2, below + 48, words, "s"))
    parts.append(text(20, 40, "A file is one import, a slice is one upload.", "n left"))
    parts.append(
        text(
            20,
            62,
            "A closing file waits for the upload of its slices; they are imported together.",
            "s left",
        )
    )
    parts.append(
        text(20, _HEIGHT - 18, "A failed step is retried. The state does not change.", "s left")
    )
    description = " ".join(
        f"A {name} goes {', '.join(f'from {a.value} to {b.value}' for a, b in _allowed(c, k))}."
        for name, c, k in (
            ("file", check_file_transition, files),
            ("slice", check_slice_transition, slices),
        )
    )
    return picture(_WIDTH, _HEIGHT, "The states of files and slices", description, parts)


def main(path: str) -> None:
    """Write the picture to *path*."""
    Path(path).write_text(states(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
