"""Parts of reports: tables, lists, and percentiles."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["bullets", "share", "table"]

_SHOWN = 20


def table(head: Sequence[str], rows: Iterable[Sequence[object]], *, numbers: bool = False) -> str:
    """Return a table in Markdown.

    :param numbers: whether all columns except the first one contain numbers.
    """
    first, others = "|---", "|---:" if numbers else "|---"
    lines = ["| " + " | ".join(head) + " |", first + others * (len(head) - 1) + "|"]
    lines += [
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows
    ]
    return "\n".join(lines)


def bullets(title: str, items: Sequence[str]) -> str:
    """Return a list with a title; nothing if it is empty."""
    if not items:
        return ""
    more = [f"- … {len(items) - _SHOWN} more"] if len(items) > _SHOWN else []
    return "\n".join([f"{title}:", "", *(f"- {item}" for item in items[:_SHOWN]), *more])


def share(values: Iterable[float], part: float) -> float:
    """Return the value below which *part* of the sorted numbers are; 0.0 without any."""
    found = sorted(values)
    return found[min(len(found) - 1, int(part * len(found)))] if found else 0.0
