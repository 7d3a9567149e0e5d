"""The timeline of one record as a picture, drawn from the data of `tools.pictures.life`.

``make docs-pictures`` runs ``python -m tools.pictures.timeline docs/timeline.svg``, which writes
it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import attrs

from tools.pictures.svg import arrow, box, picture, text

__all__ = ["LIFE", "main", "timeline"]

LIFE = Path(__file__).with_name("life.json")
_WIDTH, _HEIGHT = 980, 280
_LEFT, _RIGHT = 70, 830
_LINE = 120


@attrs.frozen
class _Step:
    """One step of the timeline.

    :ivar event: name of the event; empty for the beginning.
    :ivar after: the location of the row from here on.
    """

    event: str
    name: str
    words: str
    after: str


_STEPS = (
    _Step("", "sent", "by the producer", "in flight"),
    _Step("answered", "200 OK", "row synced to disk", "on a volume"),
    _Step("slice closing", "slice closing", "trigger met", "on a volume"),
    _Step("slice uploading", "uploading", "no more writes", "on a volume"),
    _Step("slice uploaded", "uploaded", "the whole slice", "in staging"),
    _Step("file importing", "importing", "one job", "in staging"),
    _Step("file imported", "imported", "with its file", "in the table"),
)


def timeline(life: Mapping[str, float]) -> str:
    """Return the picture, as an SVG document.

    :param life: seconds after the record was sent, by step.
    """
    gap = (_RIGHT - _LEFT) / (len(_STEPS) - 1)
    parts = [
        text(20, 36, "The life of a record", "n left"),
        text(
            20, 58, "Measured with make run on two busy cores. Steps are evenly spaced.", "s left"
        ),
        arrow(f"M{_LEFT} {_LINE}H{_RIGHT + 50}"),
    ]
    place, begun = "", 0.0
    for number, step in enumerate(_STEPS):
        x = _LEFT + number * gap
        if step.after != place:
            if place:
                parts += _place(place, begun, x)
            place, begun = step.after, x
        parts.append(f'<circle class="h" cx="{x:g}" cy="{_LINE}" r="6"/>')
        parts.append(text(x, _LINE - 18, _shown(life[step.event] if step.event else 0.0), "n"))
        parts.append(text(x, _LINE + 30, step.name, "n"))
        parts.append(text(x, _LINE + 50, step.words, "s"))
    parts += _place(place, begun, _RIGHT + 130)
    told = ", ".join(
        f"{step.name} after {_shown(life[step.event])}" for step in _STEPS if step.event
    )
    return picture(_WIDTH, _HEIGHT, "The life of a record", f"A record is {told}.", parts)


def _place(name: str, begin: float, end: float) -> list[str]:
    """Return a bar for the location of the row."""
    kind = "c" if name != "in flight" else "o"
    middle = (begin + end) / 2
    return [box(begin + 2, 215, end - begin - 4, 40, kind), text(middle, 240, name, "n")]


def _shown(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def main(path: str) -> None:
    """Write the picture to *path*."""
    life = json.loads(LIFE.read_text(encoding="utf-8"))
    Path(path).write_text(timeline(life), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
