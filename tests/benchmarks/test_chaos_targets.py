"""Detection of orphaned objects in a run with all targets."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.chaos_targets.tables import left_behind


def test_whole_files_leave_nothing(tmp_path: Path) -> None:
    """Each object is in a manifest, and the marker of the staging folder is expected."""
    _lake(tmp_path, objects=["day=1/a-0.parquet"], listed=["day=1/a-0.parquet"])
    (tmp_path / "staging" / ".stream-staging").write_text("id")
    assert left_behind(tmp_path) == []


def test_orphans_are_named(tmp_path: Path) -> None:
    """Slices, incomplete files, and objects and manifests without each other are reported."""
    table = _lake(tmp_path, objects=["a-0.parquet"], listed=["b-0.parquet"])
    (tmp_path / "staging" / "slice.gz").write_text("rows")
    (table / "_manifest" / "pending" / "c.json").write_text("{}")
    assert left_behind(tmp_path) == [
        "in staging: staging/slice.gz",
        "not whole: c.json",
        "in no manifest: a-0.parquet",
        "in a manifest only: b-0.parquet",
    ]


def _lake(root: Path, *, objects: list[str], listed: list[str]) -> Path:
    table = root / "archive" / "chaos" / "events"
    (root / "staging").mkdir()
    (table / "_manifest" / "pending").mkdir(parents=True)
    for name in objects:
        (table / name).parent.mkdir(exist_ok=True)
        (table / name).write_text("rows")
    manifest = {"objects": [{"path": name} for name in listed]}
    (table / "_manifest" / "m.json").write_text(json.dumps(manifest))
    return table
