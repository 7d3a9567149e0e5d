"""The console and the site are built with a wheel only."""

from __future__ import annotations

from pathlib import Path

import pytest
from setuptools import build_meta

from tools import build_backend, console


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the built artifacts in order. Nothing is built."""
    done: list[str] = []

    def pages(*, quiet: bool) -> int:
        done.append("pages")
        return 1  # as if the npm registry were unavailable

    def wheel(*_: object) -> str:
        done.append("wheel")
        return "a.whl"

    monkeypatch.setattr(console, "ensure_built", pages)
    monkeypatch.setattr(build_meta, "build_wheel", wheel)
    return done


def test_a_wheel_contains_the_pages(built: list[str]) -> None:
    """The pages are built first; the wheel is built even if they can't be."""
    assert build_backend.build_wheel("there") == "a.whl"
    assert built == ["pages", "wheel"]


def test_without_the_sources_of_the_pages(
    built: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An image contains only built files."""
    monkeypatch.setattr(console, "SOURCES", tmp_path / "console")
    assert build_backend.build_wheel("there") == "a.whl"
    assert console.NODE not in build_backend.get_requires_for_build_wheel()
    assert built == ["wheel"]


@pytest.mark.parametrize(
    ("is_current", "has_node", "is_required"),
    [(False, False, True), (True, False, False), (False, True, False)],
)
def test_node_is_required_if_missing(
    is_current: bool, has_node: bool, is_required: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Node is not required if the pages are built or if it is installed."""
    monkeypatch.setattr(console, "is_current", lambda: is_current)
    monkeypatch.setattr(console, "has_node", lambda: has_node)
    assert (console.NODE in build_backend.get_requires_for_build_wheel()) == is_required
