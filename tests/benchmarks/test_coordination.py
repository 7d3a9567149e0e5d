"""The verdicts of the coordination runs: a wrong one would hide a fault."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.coordination.accounts import Job, account, misplaced
from benchmarks.coordination.journal import Journal, read_journal
from benchmarks.coordination.latency import row_times
from benchmarks.coordination.life import one_life, steps

FILE = "1/2/source/sink/2026-01-01T00:00:00.000Z"
SLICE = f"{FILE}/volume/2026-01-01T00:00:00.000Z"
_LINES: list[dict[str, object]] = [
    {"message": f"rotated slice {SLICE}: time", "slice.id": SLICE, "cause": "time"},
    {"message": f"closed slice {SLICE}", "slice.id": SLICE, "is_empty": False},
    {"message": f"uploaded slice {SLICE}", "slice.id": SLICE, "rows": 7},
    {"message": f"rotated file {FILE}: time", "file.id": FILE, "cause": "time", "opened": "next"},
    {"message": f"closed file {FILE}", "file.id": FILE, "is_empty": False},
    {"message": "started import job 5", "file.id": FILE, "job.id": 5},
    {"message": f"imported file {FILE}", "file.id": FILE},
    {"message": "ready to serve"},
]
_DONE = [Job(5, 1001, "success")]


def _journal(folder: Path, lines: list[dict[str, object]] = _LINES) -> Journal:
    text = "".join(
        json.dumps({"time": f"2026-01-01T00:00:0{number}.500Z", **line}) + "\n"
        for number, line in enumerate(lines)
    )
    log = folder / "01-coordinator.log"
    log.write_text(text + '{"time":"2026-01-01T00:00:09')
    return read_journal([log], {"01-coordinator": "coordinator-1"})


def test_no_work_is_repeated(tmp_path: Path) -> None:
    """Work that was done as often as it was needed is no fault."""
    work = account(_journal(tmp_path), [SLICE], [FILE], _DONE, 1)
    assert work.faults == []
    assert (work.uploads, work.jobs["success"], work.rotations) == (1, 1, (1, 1))


def test_repeated_work(tmp_path: Path) -> None:
    """A second upload, rotation, job or import of the same object is a fault each."""
    again = [*_LINES[:7], _LINES[2], _LINES[3], _LINES[6]]
    jobs = [*_DONE, Job(6, 1001, "success")]
    faults = account(_journal(tmp_path, again), [SLICE], [FILE], jobs, 1).faults
    assert [fault.partition(FILE)[0] for fault in faults] == [
        "more than one upload of slice ",
        '"rotated file" 2 times: ',
        '"imported file" 2 times: ',
        "the staged file 1001 was imported 2 times",
        "2 import jobs for 1 files",
    ]


def test_missing_work(tmp_path: Path) -> None:
    """Slices and files with records that weren't uploaded or imported are faults."""
    faults = account(_journal(tmp_path, _LINES[:2]), [SLICE], [FILE], [], 0).faults
    assert [fault.partition(FILE)[0] for fault in faults] == [
        "no upload of slice ",
        "0 objects in staging for 1 slices",
        "0 staged files were imported, 1 have records",
        "0 import jobs for 1 files",
    ]


def test_injected_failures(tmp_path: Path) -> None:
    """With injected failures, a failed job before the successful one is no fault."""
    jobs = [Job(4, 1001, "error"), *_DONE]
    assert account(_journal(tmp_path), [SLICE], [FILE], jobs, 1).faults != []
    assert account(_journal(tmp_path), [SLICE], [FILE], jobs, 1, whole=False).faults == []


def test_tables() -> None:
    """Lost, duplicated and unsent records are faults; a refused record may be in the table."""
    wrong = misplaced([1, 2, 3], [1, 2, 3, 4, 5], {1: 1, 2: 2, 4: 1, 9: 1})
    assert dict(wrong) == {"lost": 1, "repeated": 1, "unknown": 1}


def test_the_timeline_of_a_file(tmp_path: Path) -> None:
    """The timeline has a line for each step, and the durations are summed."""
    journal = _journal(tmp_path)
    text = one_life(journal)
    assert "| 00:00:06.500 | +6.000 | imported file | coordinator-1 |" in text
    assert "| job 5 |" in text
    assert "| slice: closed → uploaded | 1 | 1.00 | 1.00 | 1.00 |" in steps(journal)


def test_rows_of_slices(tmp_path: Path) -> None:
    """A slice is in the table if the table has all rows of its file."""
    journal = _journal(tmp_path)
    assert [at for _, at in row_times(journal, [(1.0, 3), (2.0, 6), (3.0, 7), (4.0, 9)])] == [3.0]
    assert row_times(journal, [(1.0, 6)]) == []
