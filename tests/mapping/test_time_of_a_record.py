"""The processor time of a record, which all its columns share."""

from __future__ import annotations

import mmap
import signal
import time

import pytest

from stream.mapping import engine_process
from stream.mapping.engine_process import KernelWatch
from stream.mapping.evaluator import Group
from tests.templates.fakes import plan, record


class _Watch:
    """Records how much time the earlier columns have used."""

    def __init__(self) -> None:
        self.spent: list[tuple[int, int, float]] = []

    def begin(self, record: int, column: int, spent: float) -> bool:
        self.spent.append((record, column, round(spent, 3)))
        return True


def test_the_columns_of_a_record_share_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one column has used is missing for the next one, for each record of a group."""
    now = [0.0]
    monkeypatch.setattr(time, "thread_time", lambda: now[0])
    watch = _Watch()
    group = Group(plan("1", "2", "3"), [record(), record()], watch)
    for column in range(3):
        group.start_column(column)
        for seconds in (0.25, 0.5):
            assert group.next_record() is not None
            now[0] += seconds
            group.put(b"cell")
    assert [spent for _, _, spent in watch.spent] == [0.0, 0.0, 0.25, 0.5, 0.5, 1.0]


def test_the_kernel_counts_the_time_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """The timer ends the engine when the record has used up its time, not the column."""
    timers: list[float] = []
    monkeypatch.setattr(signal, "setitimer", lambda _, seconds: timers.append(seconds))
    monkeypatch.setattr(time, "process_time", lambda: 100.0)
    monkeypatch.setattr(engine_process, "SLACK_SECONDS", 0.0)
    watch = KernelWatch(mmap.mmap(-1, mmap.PAGESIZE), seconds=1.0)
    watch.start(1, seconds=5.0)
    for column, spent in enumerate((0.0, 0.25, 0.75)):
        assert watch.begin(0, column, spent)
    assert timers == [1.0, 0.75, 0.25]
