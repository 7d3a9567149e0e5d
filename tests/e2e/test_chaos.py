"""A short chaos run: processes are killed at random, and every record is accounted for."""

from __future__ import annotations

from pathlib import Path

from benchmarks.chaos.killer import Plan
from benchmarks.chaos.report import markdown
from benchmarks.chaos.run import Settings, run


def test_every_record_is_accounted_for(tmp_path: Path) -> None:
    """Each acknowledged record is in the table, and none more often than it was sent."""
    # An unavailable sandbox can make the first attempt of a file fail, which costs two minutes.
    plan = Plan(interval=2.0, pause=5.0, spared=frozenset({"sandbox"}))
    settings = Settings(
        root=tmp_path, seconds=20.0, rate=150.0, seed=7, plan=plan, patience=45.0, changes=5.0
    )
    report = run(settings)
    assert report.is_good, markdown(report)
    assert report.accounts.acknowledged > 500
    assert sum(report.kills.values()) >= 5
