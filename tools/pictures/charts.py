"""The charts of the pages about performance and scaling, drawn from the tables in these pages.

``make docs-pictures`` runs ``python -m tools.pictures.charts docs``, which writes them next to the
pages. They are narrow, for phones; a wide page shows them side by side.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs

from tools.pictures.svg import picture, text

__all__ = ["CHARTS", "Bar", "Group", "Line", "bars", "charts", "lines", "main", "rows"]

_WIDTH = 350
_LEFT, _LONGEST = 16, 250
_ROW, _BAR = 40, 14
_SMALLEST = 0.01
"""Smaller values are drawn as this one on a logarithmic scale."""

_NO_FIGURES = "not measured yet"


@attrs.frozen
class Bar:
    """One figure of a chart.

    :ivar shown: the figure as text, with its unit.
    :ivar is_main: whether it is drawn in the color of the service; the others are for comparison.
    """

    name: str
    value: float
    shown: str
    is_main: bool = True


@attrs.frozen
class Group:
    """Bars with a separate heading; an empty group isn't drawn."""

    name: str
    bars: Sequence[Bar]


@attrs.frozen
class Line:
    """One line of a chart: a value for each position on the horizontal axis.

    :ivar kind: the class of its color.
    """

    name: str
    values: Sequence[float]
    kind: str


def rows(page: str, section: str) -> list[dict[str, str]]:
    """Return the rows of the first table of a section, by the names in the table's head.

    :param page: Markdown.
    :param section: the beginning of the section's heading.

    Raises ValueError if there is no such section or no table in it.
    """
    found = re.search(rf"^#+ {re.escape(section)}.*\n((?:(?!#).*\n?)*)", page, re.MULTILINE)
    lines = [line for line in found[1].splitlines() if line.startswith("|")] if found else []
    if len(lines) < 3:
        raise ValueError(f'the page has no section "{section}" with a table')
    head, _, *body = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return [dict(zip(head, cells, strict=False)) for cells in body]


def bars(title: str, unit: str, groups: Sequence[Group]) -> str:
    """Return a chart of horizontal bars, as an SVG document.

    :param unit: unit of the figures, shown below the title.
    """
    largest = max(bar.value for group in groups for bar in group.bars)
    parts = [text(_LEFT, 30, title, "n left"), text(_LEFT, 50, unit, "s left")]
    described, y = [], 62
    for group in groups:
        if group.name:
            y += 30
            parts.append(text(_LEFT, y, group.name, "n left"))
        for bar in group.bars:
            y += _ROW
            length = max(2.0, _LONGEST * bar.value / largest)
            kind = "h" if bar.is_main else "o"
            parts += [
                text(_LEFT, y - _BAR - 6, bar.name, "s left"),
                f'<rect class="{kind}" x="{_LEFT}" y="{y - _BAR}" width="{length:.0f}" '
                f'height="{_BAR}" rx="2"/>',
                text(_LEFT + length + 8, y - 2, bar.shown, "s left"),
            ]
            described.append(" ".join(filter(None, (group.name, f"{bar.name}: {bar.shown}"))))
    description = f"{unit}. {'; '.join(described)}."
    return picture(_WIDTH, y + 20, title, description, parts, is_small=True)


def lines(title: str, unit: str, places: Sequence[str], drawn: Sequence[Line]) -> str:
    """Return a chart of lines over a logarithmic scale, as an SVG document.

    :param unit: what the figures count, shown below the title.
    :param places: the names below the horizontal axis.
    """
    values = [value for line in drawn for value in line.values]
    lowest = math.floor(math.log10(max(min(values), _SMALLEST)))
    highest = max(lowest + 1, math.ceil(math.log10(max(values))))
    top, bottom, left, right = 74, 284, 60, _WIDTH - 16

    def x(place: int) -> float:
        return left + (right - left) * (place + 0.5) / len(places)

    def y(value: float) -> float:
        share = (math.log10(max(value, _SMALLEST)) - lowest) / (highest - lowest)
        return bottom - (bottom - top) * share

    parts = [text(_LEFT, 30, title, "n left"), text(_LEFT, 50, unit, "s left")]
    for power in range(lowest, highest + 1):
        height = y(10.0**power)
        parts += [
            f'<path class="g" d="M{left} {height:.0f}H{right}"/>',
            text(_LEFT, height + 4, f"{10.0**power:g}", "s left"),
        ]
    parts += [text(x(place), bottom + 20, name, "s") for place, name in enumerate(places)]
    described = []
    for number, line in enumerate(drawn):
        points = " ".join(f"{x(i):.0f},{y(value):.0f}" for i, value in enumerate(line.values))
        height = bottom + 44 + 22 * number
        parts += [
            f'<polyline class="{line.kind}" points="{points}"/>',
            f'<path class="{line.kind}" d="M{left} {height - 4}h24"/>',
            text(left + 32, height, line.name, "s left"),
        ]
        each = ", ".join(f"{name}: {v:g}" for name, v in zip(places, line.values, strict=True))
        described.append(f"{line.name} {each}")
    description = f"{unit}. {'; '.join(described)}."
    end = bottom + 44 + 22 * len(drawn)
    return picture(_WIDTH, end, title, description, parts, is_small=True)


def _not_measured(title: str) -> str:
    """Return the picture of a chart whose table isn't in the page."""
    parts = [text(_LEFT, 30, title, "n left"), text(_LEFT, 50, _NO_FIGURES, "s left")]
    return picture(_WIDTH, 70, title, _NO_FIGURES, parts, is_small=True)


def _number(cell: str) -> float:
    """Return the figure of a cell, without the range after it and without thousands separators."""
    return float(cell.partition(" (")[0].replace(",", ""))


def _bar(name: str, cell: str, *, unit: str = "", is_main: bool = True) -> Bar:
    shown = cell.partition(" (")[0] + (f" {unit}" if unit else "")
    return Bar(name, _number(cell), shown, is_main)


_RATE = "records/s, median (range)"
_PEER = "InfluxDB 1.x, synced"


def _connections(page: str) -> str:
    section = "Single records, "
    counts = [int(found) for found in re.findall(rf"^### {section}(\d+) ", page, re.MULTILINE)]
    if not counts:
        rows(page, section)  # raises ValueError
    groups = [
        Group(
            f"{connections:,} connections",
            [
                _bar(row["server"], row[_RATE], is_main=row["server"] == "stream")
                for row in rows(page, f"Single records, {connections} ")
            ],
        )
        for connections in counts
    ]
    return bars("Single records of 1 KB", "records per second on one core", groups)


def _batches(page: str) -> str:
    groups = [
        Group(
            f"{int(row['records per request']):,} in a request",
            [
                _bar("stream", row[_RATE]),
                *([_bar(_PEER, row[_PEER], is_main=False)] if row[_PEER] else []),
            ],
        )
        for row in rows(page, "Batches")
    ]
    return bars("Batches", "records per second on one core", groups)


def _mappings(page: str) -> str:
    found = [
        _bar(row["mapping"].partition(":")[0], row[_RATE])
        for row in rows(page, "Mappings and sinks")
    ]
    return bars("Mappings and sinks", "records per second, 256 connections", [Group("", found)])


def _batch_sizes(page: str) -> str:
    found = [
        _bar(f"{row['records per request']} in a request", row[_RATE])
        for row in rows(page, "Batch sizes")
    ]
    return bars("Batch sizes", "records of 100 B per second on one core", [Group("", found)])


def _number_of_sinks(page: str) -> str:
    column = "cost ÷ one sink"
    found = [
        _bar(f"{row['sinks']} sink{'' if row['sinks'] == '1' else 's'}", row[column])
        for row in rows(page, "Sinks of a source")
    ]
    return bars("Cost by number of sinks", "CPU time of a record", [Group("", found)])


def _loads(page: str) -> str:
    table = rows(page, "Latency by load")
    return lines(
        "Latency by load",
        "ms, by share of the peak in %",
        [row["share of the peak"].removesuffix("%") for row in table],
        [
            Line("half of the records", [_number(row["p50 ms"]) for row in table], "l"),
            Line("99 % of the records", [_number(row["p99 ms"]) for row in table], "b"),
        ],
    )


def _sinks(page: str) -> str:
    table = rows(page, "Many sinks")
    measures = (
        ("memory of the coordinator", "coordinator's memory, MB", "MB"),
        ("ready after a start", "ready after s", "s"),
    )
    # Each group has its own scale.
    parts = []
    for name, column, unit in measures:
        largest = max(_number(row[column]) for row in table)
        parts.append(
            Group(
                name,
                [
                    attrs.evolve(bar, value=bar.value / largest)
                    for bar in (
                        _bar(f"{row['open sinks']} open sinks", row[column], unit=unit)
                        for row in table
                    )
                ],
            )
        )
    return bars("Many sinks", "one coordinator at rest", parts)


def _latency(page: str) -> str:
    groups = [
        Group("", [_bar(re.split(r" \(| →", row["from → to"])[0], row["median s"], unit="s")])
        for row in rows(page, "From a closed slice")
    ]
    return bars("Until the rows are in the table", "median seconds after each event", groups)


CHARTS: dict[str, tuple[str, Callable[[str], str]]] = {
    "performance-connections.svg": ("performance.md", _connections),
    "performance-batches.svg": ("performance.md", _batches),
    "performance-mappings.svg": ("performance.md", _mappings),
    "performance-loads.svg": ("performance.md", _loads),
    "performance-sinks.svg": ("performance.md", _number_of_sinks),
    "performance-sizes.svg": ("performance.md", _batch_sizes),
    "scaling-sinks.svg": ("scaling.md", _sinks),
    "scaling-latency.svg": ("scaling.md", _latency),
}
"""The page of each chart, and the function that draws it."""

_OPTIONAL = {
    "performance-loads.svg": "Latency by load",
    "performance-sinks.svg": "Cost by number of sinks",
    "performance-sizes.svg": "Batch sizes",
}
"""Titles of charts whose table may be missing in the page, because their program may be missing."""


def charts(docs: Path) -> dict[str, str]:
    """Return all charts by file name, as SVG documents.

    :param docs: the folder of the pages.
    """
    return {name: _drawn(name, docs) for name in CHARTS}


def _drawn(name: str, docs: Path) -> str:
    page, draw = CHARTS[name]
    try:
        return draw((docs / page).read_text(encoding="utf-8"))
    except ValueError:
        if name not in _OPTIONAL:
            raise
        return _not_measured(_OPTIONAL[name])


def main(docs: Path) -> None:
    """Write all charts into the folder of the pages."""
    for name, chart in charts(docs).items():
        (docs / name).write_text(chart, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
