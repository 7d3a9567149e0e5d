"""Directories without a record."""

from __future__ import annotations

from pathlib import Path

from stream.storage.writer.cleanup import remove_directories, slice_directories


def test_orphans_go_with_their_empty_parents(tmp_path: Path) -> None:
    """What is still used stays, and so does the volume itself."""
    for name in ("1/2/s/k/f1/a", "1/2/s/k/f1/b", "1/2/s/k2/f/a"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "slice-x.csv").write_text("x")
    (tmp_path / "volume-id").write_text("id")
    assert sorted(slice_directories(tmp_path)) == ["1/2/s/k/f1/a", "1/2/s/k/f1/b", "1/2/s/k2/f/a"]
    assert remove_directories(tmp_path, ["1/2/s/k/f1/a", "1/2/s/k2/f/a"]) == 2
    assert slice_directories(tmp_path) == ["1/2/s/k/f1/b"]
    assert not (tmp_path / "1/2/s/k2").exists()
    assert remove_directories(tmp_path, ["1/2/s/k/f1/b"]) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["volume-id"]
