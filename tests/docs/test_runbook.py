"""Alert rules, their pages and the index agree."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.docs.blocks import ROOT, all_blocks, name_of, pages
from tests.docs.runbook import FOLDER, INDEX, replace_table, rules, table_of

SECTIONS = ["What it means", "Where to look", "What helps", "When to escalate"]
_METRIC = re.compile(r"\b(?:stream|keboola_go)_[a-zA-Z_]+")


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: str(rule["alert"]))
def test_every_alert_has_a_page(rule: dict[str, Any]) -> None:
    """Every alert links to its page, which has all sections for an operator on call."""
    page = FOLDER / f"{rule['alert']}.md"
    assert rule["annotations"]["runbook_url"] == name_of(page)
    text = page.read_text()
    assert text.startswith(f"# {rule['alert']}\n")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == SECTIONS


def test_every_page_has_an_alert() -> None:
    """Every page belongs to an existing alert."""
    named = {rule["alert"] for rule in rules()}
    assert {page.stem for page in FOLDER.glob("*.md")} == named | {"index"}


def test_index() -> None:
    """The index has every alert with its severity and expression."""
    page = INDEX.read_text()
    assert page == replace_table(page, table_of(rules())), "run python -m tests.docs.runbook"


def test_metrics_in_queries() -> None:
    """Every metric in the queries of a page exists."""
    listed = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE)
    queries = [x for page in pages() for x in all_blocks(page) if x.language == "promql"]
    assert queries
    for query in queries:
        asked = {re.sub(r"_(bucket|sum|count)$", "", name) for name in _METRIC.findall(query.text)}
        known = {re.sub(r"_(bucket|sum|count)$", "", name) for name in listed}
        assert asked <= known, (str(query), asked - known)
