from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

from tests.simulation.report import Detection, Progress, Totals
from tests.simulation.world import Result

_ROOT = Path(__file__).parents[2]


def _result(seed: int, *violations: str) -> Result:
    return Result(
        seed,
        violations,
        trace="",
        steps=1000,
        seconds=1.0,
        written=60,
        acknowledged=50,
        rows=55,
        slices=4,
        faults=Counter(kill=2, cut=1),
        logged=Counter({"cannot close a slice: TimeoutError": 1}),
    )


def test_totals() -> None:
    """The sums of all seeds are printed with the kinds of faults and the logged failures."""
    totals = Totals()
    totals.add(_result(1))
    totals.add(_result(2, "record 3 is lost", "record 4 is lost"))
    assert totals.summary(12.4).splitlines() == [
        "2 seeds in 12 s: 1 failed; 2,000 events, 120 records, 100 acknowledged, 110 rows in 8 "
        "slices; faults 6: {'cut': 2, 'kill': 4}",
        "     2 times logged: cannot close a slice: TimeoutError",
    ]


def test_progress() -> None:
    """A line is due after the interval, and says how far the run is."""
    progress, totals = Progress(5000, 10.0, started=100.0), Totals()
    assert progress.line(totals, 115.0) == ""  # nothing is known yet
    totals.add(_result(1))
    assert progress.line(totals, 109.9) == ""
    assert progress.line(totals, 112.0) == (
        "1 of 5,000 seeds in 12 s, about 1000 min left: 0 failed, 50 records acknowledged, 3 faults"
    )
    assert progress.line(totals, 121.9) == ""
    assert progress.line(totals, 122.0) != ""
    assert progress.elapsed(122.0) == 22.0


def test_detections() -> None:
    """The number of seeds counts from the first one."""
    assert str(Detection("never syncs", 50, 3)) == "never syncs: detected by seed number 3"
    assert str(Detection("is harmless", 50, None)) == "is harmless: not detected by 50 seeds"


def test_seeds_are_shared_among_processes() -> None:
    """The runner reports its progress, and a seed has the same result in any process."""
    told = subprocess.run(
        [sys.executable, "-m", "tests.simulation", "--seeds=3", "--start=5", "--every=0"],
        cwd=_ROOT,
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
        capture_output=True,
        check=True,
        text=True,
    )
    alone = subprocess.run(
        [*(sys.executable, "-m", "tests.simulation", "--seeds=3", "--start=5"), "--jobs=1"],
        cwd=_ROOT,
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
        capture_output=True,
        check=True,
        text=True,
    )
    lines = told.stdout.splitlines()
    assert [line.partition(" in ")[0] for line in lines[:4]] == [
        *("1 of 3 seeds", "2 of 3 seeds", "3 of 3 seeds", "3 seeds"),
    ]
    assert _sums(told.stdout) == _sums(alone.stdout)


def _sums(printed: str) -> str:
    return printed.rpartition(" seeds in ")[2].partition(": ")[2]
