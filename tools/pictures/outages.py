"""The effect of a killed component, drawn from the data of `benchmarks.outages`.

``make docs-pictures`` runs ``python -m tools.pictures.outages docs``, which writes a picture for
each component next to the pages. They are narrow, for phones; a wide page shows them side by side.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tools.pictures.svg import picture, text

__all__ = ["OUTAGES", "main", "outage", "outages"]

OUTAGES = Path(__file__).with_name("outages.json")
_WIDTH, _HEIGHT = 350, 400
_LEFT, _PLOT = 44, 290
_STRIP = 64
_ANSWERS, _LATENCY, _MISSING = 96, 206, 306
_STYLE = """<style>.z{fill:#607d8b;opacity:.16}.g{stroke:#90a4ae;stroke-width:1}\
.r{text-anchor:end}.t{font-size:12px}</style>"""
_WHICH = {
    "http-source": "one of two",
    "storage-writer": "one of two",
    "storage-reader": "one of two",
    "storage-coordinator": "one of two",
    "api": "the only one",
    "etcd": "the only one",
    "sandbox": "the local Storage API",
}


class _Scale:
    """The horizontal scale, in seconds.

    :param seconds: seconds in the data.
    """

    def __init__(self, seconds: Sequence[Mapping[str, Any]]) -> None:
        self._first: int = seconds[0]["second"]
        self.width = _PLOT / len(seconds)

    def x(self, second: float) -> float:
        return _LEFT + (second - self._first) * self.width


def outage(data: Mapping[str, Any]) -> str:
    """Return the picture of one component, as an SVG document.

    :param data: recorded data of the component.
    """
    seconds: list[dict[str, Any]] = data["seconds"]
    scale = _Scale(seconds)
    end = min(data["ready"], seconds[-1]["second"] + 1)
    name, which = data["component"], _WHICH[data["component"]]
    parts = [
        _STYLE,
        text(16, 28, f"{name} is killed", "n left"),
        text(16, 48, f"{which}; restarted after {data['down']} s", "s left"),
        f'<rect class="z" x="{scale.x(0):.1f}" y="{_ANSWERS - _STRIP + 28}" '
        f'width="{scale.x(end) - scale.x(0):.1f}" height="{_HEIGHT - 90}"/>',
    ]
    parts += _answers(seconds, scale)
    parts += _line(_LATENCY, "ms until 200, median", seconds, scale, lambda x: x["medianMs"])
    parts += _line(_MISSING, "stored, not yet in the table", seconds, scale, lambda x: x["missing"])
    for second in (0, 15, 30, 45, 60):
        parts.append(text(scale.x(second), _MISSING + _STRIP + 18, f"{second} s", "s t"))
    failed: dict[str, int] = {}
    for each in seconds:
        for status, count in each["failed"].items():
            failed[status] = failed.get(status, 0) + count
    told = ", ".join(f"{count} with {_status(status)}" for status, count in failed.items())
    description = (
        f"{data['sent']} records were sent in {len(seconds)} s: {data['stored']} were answered "
        f"with 200{f', {told}' if told else ''}. {data['imported']} were in the table after "
        f"{data['allImportedAfter']:g} s. The grey area is the time until the process was ready."
    )
    return picture(
        _WIDTH, _HEIGHT, f"After {name} ({which}) is killed", description, parts, is_small=True
    )


def _status(status: str) -> str:
    return "no answer" if status == "0" else status


def _answers(seconds: Sequence[Mapping[str, Any]], scale: _Scale) -> list[str]:
    """Return the bars of each second's answers: stored records below, others above."""
    bottom = _ANSWERS + _STRIP
    most = max(x["stored"] + sum(x["failed"].values()) for x in seconds)
    parts = _axes(_ANSWERS, "answers a second: 200, others in orange", str(most), scale)
    for each in seconds:
        stored = _STRIP * each["stored"] / most
        failed = _STRIP * sum(each["failed"].values()) / most
        left, width = scale.x(each["second"]), scale.width - 0.6
        for kind, y, height in (
            ("h", bottom - stored, stored),
            ("w", bottom - stored - failed, failed),
        ):
            if height:
                parts.append(
                    f'<rect class="{kind}" x="{left:.1f}" y="{y:.1f}" width="{width:.1f}" '
                    f'height="{height:.1f}"/>'
                )
    return parts


def _line(
    top: int,
    name: str,
    seconds: Sequence[Mapping[str, Any]],
    scale: _Scale,
    value: Callable[[Mapping[str, Any]], float | None],
) -> list[str]:
    """Return the line of one figure, with gaps where it is missing."""
    values = [value(each) for each in seconds]
    most = max((each for each in values if each is not None), default=1) or 1
    parts = _axes(top, name, f"{most:,}", scale)
    path, is_drawn = "", False
    for each, found in zip(seconds, values, strict=True):
        if found is not None:
            x, y = scale.x(each["second"] + 0.5), top + _STRIP * (1 - found / most)
            path += f"{'L' if is_drawn else 'M'}{x:.1f} {y:.1f}"
        is_drawn = found is not None
    return [*parts, f'<path class="l" d="{path}"/>']


def _axes(top: int, name: str, most: str, scale: _Scale) -> list[str]:
    bottom, left, right = top + _STRIP, _LEFT, _LEFT + _PLOT
    return [
        text(left, top - 8, name, "s left"),
        text(left - 6, top + 10, most, "s t r"),
        text(left - 6, bottom, "0", "s t r"),
        f'<path class="g" d="M{left} {bottom}H{right}M{scale.x(0):.1f} {top}V{bottom}"/>',
    ]


def outages() -> dict[str, str]:
    """Return all pictures by file name, as SVG documents."""
    recorded = json.loads(OUTAGES.read_text(encoding="utf-8"))
    return {f"outage-{name}.svg": outage(data) for name, data in recorded.items()}


def main(docs: Path) -> None:
    """Write all pictures into the folder of the pages."""
    for name, drawn in outages().items():
        (docs / name).write_text(drawn, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
