"""The charts of the pages about performance and scaling, drawn from the tables in these pages.

``make docs-pictures`` runs ``python -m tools.pictures.charts docs``, which writes them beside the
pages. They are narrow, for phones; a wide page shows them side by side.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs

from tools.pictures.svg import picture, text

__all__ = ["CHARTS", "Bar", "Group", "bars", "charts", "main", "rows"]

_WIDTH = 350
_LEFT, _LONGEST = 16, 250
_ROW, _BAR = 40, 14


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
    """Bars with a heading of their own; an empty one isn't drawn."""

    name: str
    bars: Sequence[Bar]


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


def _number(cell: str) -> float:
    """Return the figure of a cell, without the range after it and without thousands separators."""
    return float(cell.partition(" (")[0].replace(",", ""))


def _bar(name: str, cell: str, *, unit: str = "", is_main: bool = True) -> Bar:
    shown = cell.partition(" (")[0] + (f" {unit}" if unit else "")
    return Bar(name, _number(cell), shown, is_main)


_RATE = "records/s, median (range)"
_PEER = "InfluxDB 1.x, synced"


def _connections(page: str) -> str:
    groups = [
        Group(
            f"{connections} connections",
            [
                _bar(row["server"], row[_RATE], is_main=row["server"] == "stream")
                for row in rows(page, f"Single records, {connections} ")
            ],
        )
        for connections in (64, 256)
    ]
    return bars("Single records of 1 KB", "records per second on one core", groups)


def _batches(page: str) -> str:
    groups = [
        Group(
            f"{int(row['records a request']):,} in a request",
            [_bar("stream", row[_RATE]), _bar(_PEER, row[_PEER], is_main=False)],
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


def _sinks(page: str) -> str:
    table = rows(page, "Many sinks")
    measures = (
        ("memory of the coordinator", "coordinator's memory, MB", "MB"),
        ("ready after a start", "ready after s", "s"),
    )
    # Each measure has a scale of its own.
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
        Group(
            "", [_bar(row["way"].partition(" (")[0].partition(" →")[0], row["median s"], unit="s")]
        )
        for row in rows(page, "From a closed slice")
    ]
    return bars("Until the rows are in the table", "median seconds after each event", groups)


CHARTS: dict[str, tuple[str, Callable[[str], str]]] = {
    "performance-connections.svg": ("performance.md", _connections),
    "performance-batches.svg": ("performance.md", _batches),
    "performance-mappings.svg": ("performance.md", _mappings),
    "scaling-sinks.svg": ("scaling.md", _sinks),
    "scaling-latency.svg": ("scaling.md", _latency),
}
"""The page of each chart, and the function that draws it."""


def charts(docs: Path) -> dict[str, str]:
    """Return all charts by file name, as SVG documents.

    :param docs: the folder of the pages.
    """
    return {
        name: draw((docs / page).read_text(encoding="utf-8"))
        for name, (page, draw) in CHARTS.items()
    }


def main(docs: Path) -> None:
    """Write all charts into the folder of the pages."""
    for name, chart in charts(docs).items():
        (docs / name).write_text(chart, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
