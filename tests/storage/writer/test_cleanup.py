"""The cleanup of directories without a record."""

from __future__ import annotations

from pathlib import Path

from stream.storage.writer.cleanup import (
    remove_directories,
    remove_empty_parents,
    slice_directories,
)


def _make(volume: Path, *names: str) -> None:
    for name in names:
        (volume / name).mkdir(parents=True)
        (volume / name / "slice-x.csv").write_text("x")


def test_orphans_are_removed_with_empty_parents(tmp_path: Path) -> None:
    """Directories in use are kept, and so is the volume itself."""
    _make(tmp_path, "1/2/s/k/f1/a", "1/2/s/k/f1/b", "1/2/s/k2/f/a")
    (tmp_path / "volume-id").write_text("id")
    assert sorted(slice_directories(tmp_path)) == ["1/2/s/k/f1/a", "1/2/s/k/f1/b", "1/2/s/k2/f/a"]
    assert remove_directories(tmp_path, ["1/2/s/k/f1/a", "1/2/s/k2/f/a"]) == 2
    remove_empty_parents(tmp_path)
    assert slice_directories(tmp_path) == ["1/2/s/k/f1/b"]
    assert not (tmp_path / "1/2/s/k2").exists()
    assert remove_directories(tmp_path, ["1/2/s/k/f1/b"]) == 1
    remove_empty_parents(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["volume-id"]


def test_other_directories_are_kept(tmp_path: Path) -> None:
    """Directories with other names and targets of symbolic links aren't slices."""
    volume = tmp_path / "volume"
    _make(tmp_path, "elsewhere/2/s/k/f/a")
    _make(volume, "backup/2/s/k/f/a", "1/backup/s/k/f/a")
    (volume / "3").symlink_to(tmp_path / "elsewhere")
    (volume / "lost+found").mkdir()
    assert slice_directories(volume) == []
    remove_empty_parents(volume)
    assert sorted(path.name for path in volume.iterdir()) == ["1", "3", "backup", "lost+found"]


def test_empty_parents_of_an_earlier_cleanup_are_removed(tmp_path: Path) -> None:
    """A process may have been killed between the two steps."""
    (tmp_path / "1/2/s/k/f").mkdir(parents=True)
    remove_empty_parents(tmp_path)
    assert list(tmp_path.iterdir()) == []
