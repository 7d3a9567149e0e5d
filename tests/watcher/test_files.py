"""Which events are changes."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from watcher.files import changed_files, watch


@pytest.mark.parametrize(
    ("event", "paths", "found"),
    [
        ("modified", ["a/b.py"], ["a/b.py"]),
        ("created", ["a.yaml"], ["a.yaml"]),
        ("moved", ["a.swp", "a.py"], ["a.py"]),
        ("deleted", ["a.sql"], ["a.sql"]),
        ("opened", ["a.py"], []),
        ("closed_no_write", ["a.py"], []),
        ("modified", ["a.pyc", "a.py~", ".a.py.swp", "a"], []),
    ],
)
def test_files_that_count(event: str, paths: list[str], found: list[str]) -> None:
    """Programs and settings count when they are changed, not when they are read."""
    assert changed_files(event, False, paths) == found
    assert changed_files(event, True, paths) == []


def test_written_file_is_told(tmp_path: Path) -> None:
    """A file that is written in a folder below is told."""
    told, changed = [], threading.Event()

    def note(name: str) -> None:
        told.append(name)
        changed.set()

    (tmp_path / "below").mkdir()
    end = watch([str(tmp_path)], note)
    path = tmp_path / "below" / "a.py"
    path.write_text("1")
    assert changed.wait(10)
    end()
    assert set(told) == {str(path)}


def test_folder_that_is_not_there(tmp_path: Path) -> None:
    """It is an error at once."""
    with pytest.raises(OSError, match="No such file"):
        watch([str(tmp_path / "none")], lambda name: None)
