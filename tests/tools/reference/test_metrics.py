"""The page about metrics."""

from __future__ import annotations

from pathlib import Path

from tools.reference.metrics import reference


def test_the_page_is_up_to_date() -> None:
    """docs/metrics.md has every family as defined."""
    page = Path(__file__).parents[3] / "docs" / "metrics.md"
    assert page.read_text() == reference(), "python -m tools.reference.metrics > docs/metrics.md"
