"""The pictures in the pages are up to date."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.outages import COMPONENTS, Answer, seconds_of
from stream.settings.tree import Settings
from stream.storage.model.state import FileState, SliceState
from tools.pictures.charts import CHARTS, Bar, Group, Line, bars, charts, lines, rows
from tools.pictures.outages import OUTAGES, outage, outages
from tools.pictures.states import states
from tools.pictures.timeline import LIFE, timeline
from tools.pictures.topology import topology

DOCS = Path(__file__).parents[3] / "docs"
LIFE_OF_A_RECORD = json.loads(LIFE.read_text())
PICTURES = {
    "states.svg": states(),
    "architecture.svg": topology(),
    "timeline.svg": timeline(LIFE_OF_A_RECORD),
    **outages(),
    **charts(DOCS),
}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_are_up_to_date(name: str) -> None:
    assert (DOCS / name).read_text(encoding="utf-8") == PICTURES[name], "run make docs-pictures"


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_are_accessible(name: str) -> None:
    """A picture has a title and a description for screen readers, and needs no other file."""
    root = ElementTree.fromstring(PICTURES[name])
    texts = {child.tag.rpartition("}")[2]: child.text for child in root}
    assert texts["title"]
    assert texts["desc"]
    assert "href" not in PICTURES[name]


def test_all_states_and_steps_are_drawn() -> None:
    for state in (*FileState, *SliceState):
        assert f">{state.value}<" in PICTURES["states.svg"]
    # one arrow for each step forward, and one back
    assert PICTURES["states.svg"].count("<path") == 2 + 3 + 4 + 1


def test_steps_of_a_life_are_in_order() -> None:
    times = list(LIFE_OF_A_RECORD.values())
    assert times == sorted(times)


@pytest.mark.parametrize("name", CHARTS)
def test_a_chart_is_in_its_page(name: str) -> None:
    page, _ = CHARTS[name]
    assert f"]({name})" in (DOCS / page).read_text(encoding="utf-8")


def test_a_chart_has_the_figures_of_the_table() -> None:
    """The figures and their unit are shown, bars are in proportion, and the range isn't shown."""
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


@pytest.mark.parametrize("name", outages())
def test_the_picture_of_an_outage_is_in_its_page(name: str) -> None:
    assert f"]({name})" in (DOCS / "recover.md").read_text(encoding="utf-8")


def test_every_component_is_killed() -> None:
    recorded = json.loads(OUTAGES.read_text())
    assert list(recorded) == list(COMPONENTS)
    for data in recorded.values():
        # a record without an answer may also be in the table
        assert data["stored"] <= data["imported"] <= data["sent"]
        assert data["lost"] == data["twice"] == 0


def test_answers_per_second() -> None:
    """Answers count in the second of their requests, by whether the status is 200."""
    answers = [
        Answer(-0.5, 200, 0.02),
        Answer(0.0, 200, 0.01),
        Answer(0.9, 200, 0.4),
        Answer(0.5, 503, 0.001),
        Answer(1.5, 0, 30.0),
    ]
    assert seconds_of(answers, -1, 2) == [
        {"second": -1, "stored": 1, "failed": {}, "medianMs": 20, "slowestMs": 20},
        {"second": 0, "stored": 2, "failed": {"503": 1}, "medianMs": 400, "slowestMs": 400},
        {"second": 1, "stored": 0, "failed": {"0": 1}, "medianMs": None, "slowestMs": None},
    ]


def test_an_outage_is_drawn() -> None:
    """Bars are in proportion, the line is interrupted without answers, and the text
    describes both.
    """
    seconds = [
        {"second": second, "stored": stored, "failed": failed, "medianMs": ms, "missing": missing}
        for second, stored, failed, ms, missing in (
            (-1, 10, {}, 5, 0),
            (0, 5, {"503": 5}, None, 10),
            (1, 10, {}, 10, 5),
        )
    ]
    data = {"component": "etcd", "down": 20, "ready": 1.5, "sent": 30, "stored": 25}
    drawn = outage({**data, "imported": 25, "allImportedAfter": 9.0, "seconds": seconds})
    root = ElementTree.fromstring(drawn)
    heights = [each.get("height") for each in root if each.get("class") in ("h", "w")]
    assert heights == ["64.0", "32.0", "32.0", "64.0"]
    lines = [str(each.get("d")) for each in root if each.get("class") == "l"]
    assert [line.count("M") for line in lines] == [2, 1]
    assert "30 records were sent in 3 s: 25 were answered with 200, 5 with 503." in drawn
    assert "25 were in the table after 9 s." in drawn


def test_the_topology_has_the_ports_of_the_settings() -> None:
    settings = Settings()
    for address in (settings.source.http.listen, settings.api.listen, settings.metrics.listen):
        assert address.rpartition(":")[2] in PICTURES["architecture.svg"]


def test_a_logarithmic_chart() -> None:
    """Equal ratios have equal distances, and each value is in the description."""
    drawn = [Line("p50", [1, 10, 100], "l"), Line("p99", [10, 100, 100], "b")]
    chart = lines("Latency", "ms", ["10", "50", "100"], drawn)
    root = ElementTree.fromstring(chart)
    first, second = (
        [float(point.partition(",")[2]) for point in each.get("points", "").split()]
        for each in root
        if each.tag.endswith("polyline")
    )
    assert first[0] - first[1] == first[1] - first[2] > 0
    assert second == [first[1], first[2], first[2]]
    assert "p50 10: 1, 50: 10, 100: 100; p99 10: 10, 50: 100, 100: 100." in chart


def test_a_chart_whose_program_was_missing(tmp_path: Path) -> None:
    """The page says why the table is missing; other tables must exist."""
    page = (DOCS / "performance.md").read_text(encoding="utf-8")
    reason = "### Latency by load, 256 connections\n\nNot measured: there is no Go.\n"
    kept = re.sub(r"^### Latency by load.*\n(?:(?!#).*\n?)*", "", page, flags=re.MULTILINE)
    (tmp_path / "performance.md").write_text(kept + reason, encoding="utf-8")
    (tmp_path / "scaling.md").write_text((DOCS / "scaling.md").read_text(encoding="utf-8"))
    assert "not measured yet" in charts(tmp_path)["performance-loads.svg"]
    (tmp_path / "performance.md").write_text("# Performance\n", encoding="utf-8")
    with pytest.raises(ValueError, match='no section "Single records'):
        charts(tmp_path)
