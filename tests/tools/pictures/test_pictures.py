"""The pictures of the pages are those that the code draws."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from stream.storage.model.state import FileState, SliceState
from tools.pictures.charts import CHARTS, Bar, Group, bars, charts, rows
from tools.pictures.states import states
from tools.pictures.timeline import LIFE, timeline

DOCS = Path(__file__).parents[3] / "docs"
LIFE_OF_A_RECORD = json.loads(LIFE.read_text())
PICTURES = {
    "states.svg": states(),
    "timeline.svg": timeline(LIFE_OF_A_RECORD),
    **charts(DOCS),
}


@pytest.mark.parametrize("name", PICTURES)
def test_the_page_has_the_newest_picture(name: str) -> None:
    assert (DOCS / name).read_text(encoding="utf-8") == PICTURES[name], "run make docs-pictures"


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_can_be_read(name: str) -> None:
    """It has a title and a description for those who don't see it, and needs nothing else."""
    root = ElementTree.fromstring(PICTURES[name])
    texts = {child.tag.rpartition("}")[2]: child.text for child in root}
    assert texts["title"]
    assert texts["desc"]
    assert "href" not in PICTURES[name]


def test_all_states_and_steps_are_drawn() -> None:
    for state in (*FileState, *SliceState):
        assert f">{state.value}<" in PICTURES["states.svg"]
    # One arrow for each step forward, and one back.
    assert PICTURES["states.svg"].count("<path") == 2 + 3 + 4 + 1


def test_steps_of_a_life_are_in_order() -> None:
    times = list(LIFE_OF_A_RECORD.values())
    assert times == sorted(times)


@pytest.mark.parametrize("name", CHARTS)
def test_a_chart_is_in_its_page(name: str) -> None:
    page, _ = CHARTS[name]
    assert f"]({name})" in (DOCS / page).read_text(encoding="utf-8")


def test_a_chart_has_the_figures_of_the_table() -> None:
    """The figure with its unit is shown, and bars are in proportion; the range isn't shown."""
    page = """# Page

## Other

| a | b |
|---|---|
| x | 9 |

## Sinks (many)

Text.

| sinks | records/s |
|---|---|
| 1 | 2,000 (1,900-2,100) |
| 10 | 1,000 |
"""
    assert rows(page, "Sinks") == [
        {"sinks": "1", "records/s": "2,000 (1,900-2,100)"},
        {"sinks": "10", "records/s": "1,000"},
    ]
    chart = bars("Sinks", "records", [Group("all", [Bar("1", 2000, "2,000"), Bar("10", 1, "1")])])
    root = ElementTree.fromstring(chart)
    widths = [each.get("width") for each in root if each.get("class") == "h"]
    assert widths == ["250", "2"]
    assert "all 1: 2,000; all 10: 1." in chart
    assert root.get("width") == "350"


@pytest.mark.parametrize("section", ["Nothing", "Empty"])
def test_a_chart_without_its_table(section: str) -> None:
    with pytest.raises(ValueError, match=f'no section "{section}" with a table'):
        rows("# Empty\n\nNo table.\n\n## Full\n\n| a |\n|---|\n| 1 |\n", section)
