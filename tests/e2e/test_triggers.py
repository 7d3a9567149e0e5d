"""Each trigger of a rotation on its own."""

from __future__ import annotations

from pathlib import Path

from benchmarks.coordination.triggers import CASES, markdown, run


def test_each_trigger(tmp_path: Path) -> None:
    """Each trigger fires, not before the minimum interval, and nothing else is rotated."""
    found = run(tmp_path)
    assert len(found) == len(CASES)
    assert all(case.is_good for case in found), markdown(found)
