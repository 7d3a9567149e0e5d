"""The connections between the components, with their default ports.

``make docs-pictures`` runs ``python -m tools.pictures.topology docs/architecture.svg``, which
writes it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from stream.settings.tree import Settings
from tools.pictures.svg import arrow, box, picture, text

__all__ = ["main", "topology"]

_WIDTH, _HEIGHT = 960, 470
_STYLE = """<style>.m{fill:none;stroke:#607d8b;stroke-width:1.5}.e{stroke-dasharray:5 4}\
.k{fill:#607d8b}@media (prefers-color-scheme: dark){.m{stroke:#90a4ae}.k{fill:#90a4ae}}</style>"""
_MARKER = """<marker id="k" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" \
orient="auto-start-reverse"><path class="k" d="M0 0 10 5 0 10z"/></marker>"""


def topology() -> str:
    """Return the picture, as an SVG document."""
    config = Settings()
    source, api = _port(config.source.http.listen), _port(config.api.listen)
    writer = _port(config.storage.level.local.writer.network.listen)
    metrics = _port(config.metrics.listen)
    parts = [
        _STYLE,
        _MARKER,
        # data flow
        *_part(20, 110, 120, 60, "producers", "", "o"),
        *_part(220, 110, 150, 60, "http-source", "record → row, groups"),
        *_part(450, 110, 150, 60, "storage-writer", "append, fdatasync"),
        *_part(450, 230, 150, 50, "volume", "", "o"),
        *_part(680, 225, 150, 60, "storage-reader", "uploads closed slices"),
        *_part(680, 115, 110, 50, "staging", "", "o"),
        *_part(660, 20, 280, 55, "Storage API", "imports staged files into tables", "o"),
        arrow("M140 140H218"),
        text(179, 130, f"HTTP {source}", "s"),
        arrow("M370 140H448"),
        text(409, 130, f"rows {writer}", "s"),
        *(arrow(path) for path in ("M525 170V228", "M600 255H678", "M735 225V167", "M735 115V77")),
        text(20, 195, "200 is sent only when the", "s left"),
        text(20, 212, "row is on the volume", "s left"),
        # control flow
        *_part(20, 310, 120, 60, "users", "", "o"),
        *_part(220, 310, 150, 60, "api", "sources, sinks, tasks"),
        *_part(450, 310, 200, 60, "storage-coordinator", "rotates, starts imports"),
        _grey("M140 340H218"),
        text(179, 330, f"HTTP {api}", "s"),
        _grey("M650 340H880V77"),
        text(662, 331, "import jobs", "s left"),
        box(220, 410, 610, 42, "o"),
        text(525, 436, "etcd: definitions, states of files and slices, leases, statistics", "n"),
        *(
            _grey(path, both=True)
            for path in (
                "M295 370V408",
                "M550 370V408",
                "M335 170V285H395V408",
                "M465 170V195H428V408",
                "M800 285V408",
            )
        ),
        text(20, 436, "Each process has", "s left"),
        text(20, 453, f"metrics on {metrics}", "s left"),
    ]
    description = (
        f"Producers send records to http-source (port {source}), which sends rows to "
        f"storage-writer (port {writer}), which keeps them on a volume. storage-reader uploads "
        "slices from the volume to staging, and the Storage API imports them into the table. "
        f"Users change sources and sinks through api (port {api}). storage-coordinator starts "
        f"the imports. All components meet in etcd. Each process has metrics on port {metrics}."
    )
    return picture(_WIDTH, _HEIGHT, "How the components are connected", description, parts)


def _part(
    x: float, y: float, width: float, height: float, name: str, words: str, kind: str = "c"
) -> list[str]:
    middle = x + width / 2
    if not words:
        return [box(x, y, width, height, kind), text(middle, y + height / 2 + 5, name, "n")]
    return [
        box(x, y, width, height, kind),
        text(middle, y + 26, name, "n"),
        text(middle, y + 47, words, "s"),
    ]


def _grey(path: str, *, both: bool = False) -> str:
    """Return a gray arrow, for a connection without records.

    :param both: whether it is dashed and has two heads.
    """
    start, kind = (' marker-start="url(#k)"', "m e") if both else ("", "m")
    return f'<path class="{kind}" marker-end="url(#k)"{start} d="{path}"/>'


def _port(address: str) -> str:
    return address.rpartition(":")[2]


def main(path: str) -> None:
    """Write the picture to *path*."""
    Path(path).write_text(topology(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
