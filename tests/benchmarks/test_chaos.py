"""The verdicts of the chaos run: a wrong one would hide a lost record."""

from __future__ import annotations

import gzip
from collections import Counter
from pathlib import Path

from benchmarks.chaos.accounts import balance
from benchmarks.chaos.evidence import complaints, rows_of, unhandled, whereabouts
from benchmarks.chaos.producers import CUT_OFF, Attempt


def attempt(number: int, status: int, answered_at: float = 1.0) -> Attempt:
    return Attempt(number, status, 0, 0.0, answered_at)


def test_a_lost_record() -> None:
    """An acknowledged record that isn't in the table is lost; an unacknowledged one isn't."""
    accounts = balance([attempt(1, 200), attempt(2, 200), attempt(3, 503)], {1: 1})
    assert accounts.lost == [2]
    assert not accounts.is_balanced
    assert (accounts.sent, accounts.acknowledged, accounts.distinct) == (3, 2, 1)


def test_unacknowledged_records_may_be_there() -> None:
    """Unacknowledged records in the table are counted by their last answer, and are no fault."""
    attempts = [attempt(1, CUT_OFF), attempt(2, 503), attempt(2, 500), attempt(3, 200, 7.0)]
    accounts = balance(attempts, {1: 1, 2: 1, 3: 1})
    assert accounts.present == Counter({CUT_OFF: 1, 500: 1})
    assert accounts.is_balanced
    assert accounts.last_acknowledged == 7.0


def test_a_retried_record_may_be_duplicated() -> None:
    """Up to one row per attempt is caused by the producer, and reported with its answers."""
    accounts = balance([attempt(1, CUT_OFF), attempt(1, 200)], {1: 2})
    assert accounts.repeated == Counter({(CUT_OFF, 200): 1})
    assert accounts.is_balanced


def test_a_record_sent_once_must_not_be_duplicated() -> None:
    """More rows than attempts are caused by the service."""
    for status in (200, CUT_OFF):
        accounts = balance([attempt(1, status)], {1: 2})
        assert accounts.surplus == [1]
        assert not accounts.is_balanced


def test_a_record_that_was_not_sent() -> None:
    """A row that was never sent is a fault."""
    assert not balance([attempt(1, 200)], {1: 1, 2: 1}).is_balanced


def test_an_attempt_survives_the_journal() -> None:
    """A line of the journal is parsed to the attempt that was written."""
    written = Attempt(7, 503, 1, 12.5, 13.25)
    assert Attempt.of_line(written.line()) == written


def test_where_a_record_was(tmp_path: Path) -> None:
    """Slice files and staged objects are searched, truncated ones up to their last
    complete part.
    """
    members = gzip.compress(b'"1","a"\n') + gzip.compress(b'"2","b"\n"2","c"\n')
    slices = tmp_path / "volumes-1" / "default" / "a" / "123" / "slice"
    staged = tmp_path / "sandbox" / "project-123" / "staging" / "1001"
    slices.mkdir(parents=True)
    staged.mkdir(parents=True)
    (slices / "slice-source-1.csv.gz").write_bytes(members[:-4])
    (staged / "object.csv").write_bytes(b'"3","x\n""y"\n"1","a"\n')
    found = whereabouts(tmp_path, [1, 3])
    assert [place.rpartition("/")[2] for place in sorted(found[1])] == [
        "object.csv ×1",
        "slice-source-1.csv.gz ×1",
    ]
    assert len(found[3]) == 1
    assert list(rows_of(members)) == [["1", "a"], ["2", "b"], ["2", "c"]]


def test_complaints(tmp_path: Path) -> None:
    """Errors are counted without their details; an incomplete line of a killed process is
    no fault.
    """
    log = tmp_path / "03-storage-reader.log"
    log.write_text(
        '{"level":"error","message":"cannot read 12 of \\"a\\""}\n'
        '{"level":"error","message":"cannot read 7 of \\"b\\""}\n'
        '{"level":"info","message":"fine"}\n'
        '{"level":"error","mess'
    )
    assert complaints([log]) == Counter({"storage-reader: cannot read … of …": 2})
    assert unhandled([log]) == []


def test_unhandled_errors(tmp_path: Path) -> None:
    """Unhandled errors are found, in log events and outside of them."""
    log = tmp_path / "01-api.log"
    log.write_text(
        '{"level":"error","message":"Unhandled error in Deferred"}\n'
        "Traceback (most recent call last):\n"
        "ValueError: x\n"
    )
    assert len(unhandled([log])) == 2
