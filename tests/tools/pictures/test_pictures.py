"""The pictures of the pages are those that the code draws."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from stream.storage.model.state import FileState, SliceState
from tools.pictures.states import states
from tools.pictures.timeline import LIFE, timeline

DOCS = Path(__file__).parents[3] / "docs"
LIFE_OF_A_RECORD = json.loads(LIFE.read_text())
PICTURES = {"states.svg": states(), "timeline.svg": timeline(LIFE_OF_A_RECORD)}


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
