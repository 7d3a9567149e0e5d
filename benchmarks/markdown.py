"""What reports of runs are made of: tables, lists, and shares of sorted numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["bullets", "share", "table"]

_SHOWN = 20


def table(head: Sequence[str], rows: Iterable[Sequence[object]], *, numbers: bool = False) -> str:
    """A table in Markdown.

    :param numbers: all columns but the first one hold some.
    """
    first, others = "|---", "|---:" if numbers else "|---"
    lines = ["| " + " | ".join(head) + " |", first + others * (len(head) - 1) + "|"]
    lines += [
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows
    ]
    return "\n".join(lines)


def bullets(title: str, items: Sequence[str]) -> str:
    """A list with a title; nothing if it is empty."""
    if not items:
        return ""
    more = [f"- … {len(items) - _SHOWN} more"] if len(items) > _SHOWN else []
    return "\n".join([f"{title}:", "", *(f"- {item}" for item in items[:_SHOWN]), *more])


def share(values: Iterable[float], part: float) -> float:
    """The value below which *part* of them lie; 0.0 of none."""
    found = sorted(values)
    return found[min(len(found) - 1, int(part * len(found)))] if found else 0.0
