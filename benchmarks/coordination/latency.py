"""The latency from a closed slice, and from a record, to the row in the table."""

from __future__ import annotations

import itertools
import json
import sqlite3
import threading
import time
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path

import attrs

from benchmarks.coordination import life
from benchmarks.coordination.journal import Event, Journal, read_journal
from benchmarks.markdown import share, table
from tests.e2e.processes import ALL, TABLE, Deployment, request, wait_for

__all__ = ["measure", "row_times"]

_LOOK_SECONDS = 0.01
_COLUMNS = [{"type": "path", "name": "id", "path": "id"}]


class _Local(Deployment):
    """All components in one process with the settings of `make run`, on other ports."""

    def environment(self, node_id: str = "node-1") -> dict[str, str]:
        whole = super().environment(node_id)
        timing = ("STREAM_STORAGE_LEVEL_STAGING_", "STREAM_STORAGE_LEVEL_TARGET_")
        kept = {name: value for name, value in whole.items() if not name.startswith(timing)}
        kept.pop("STREAM_STORAGE_LEVEL_LOCAL_WRITER_ALLOCATION_STATIC")
        return kept

    def command(self, components: Sequence[str]) -> list[str]:
        return [*super().command(components), "dev"]


class _Looks(threading.Thread):
    """Polls the table.

    :ivar seen: time and number of rows, whenever the number has increased.
    """

    def __init__(self, database: Path) -> None:
        super().__init__(daemon=True)
        self.seen: list[tuple[float, int]] = []
        self._database = database
        self._end = threading.Event()

    @property
    def rows(self) -> int:
        return self.seen[-1][1] if self.seen else 0

    def finish(self) -> None:
        self._end.set()
        self.join()

    def run(self) -> None:
        with closing(sqlite3.connect(f"file:{self._database}?mode=ro", uri=True)) as connection:
            while not self._end.wait(_LOOK_SECONDS):
                try:
                    (count,) = connection.execute(f'SELECT max(rowid) FROM "{TABLE}"').fetchone()
                except sqlite3.OperationalError:
                    continue  # the table doesn't exist yet, or is being created
                if count and count > self.rows:
                    self.seen.append((time.time(), count))


@attrs.frozen
class _Sent:
    number: int
    at: float


def row_times(journal: Journal, seen: Sequence[tuple[float, int]]) -> list[tuple[Event, float]]:
    """Return each uploaded slice with the time at which all its rows were in the table.

    Files are imported in order, each in one transaction.

    :param seen: time and number of rows, in order.
    """
    order = {event.key: number for number, event in enumerate(journal.of("imported file"))}
    uploads = [event for event in journal.of("uploaded slice") if event.file in order]
    uploads.sort(key=lambda event: order[event.file])
    counts = [count for _, count in seen]
    found, before = [], 0
    for _, of_file in itertools.groupby(uploads, key=lambda event: event.file):
        slices = list(of_file)
        before += sum(event.rows for event in slices)
        place = bisect_left(counts, before)
        if place < len(counts):
            found += [(event, seen[place][0]) for event in slices]
    return found


def measure(root: Path, seconds: float, pace: float) -> tuple[str, bool]:
    """Return a table of latencies, and whether each record was imported once.

    :param pace: seconds between two records.
    """
    deployed = _Local(root)
    try:
        deployed.start(*ALL)
        url = deployed.define(_COLUMNS)
        looks = _Looks(root / "sandbox" / "project-123" / "data.sqlite")
        looks.start()
        sent = _send(url, seconds, pace)
        wait_for(lambda: looks.rows >= len(sent), "all rows")
        looks.finish()
        stored = [row[0] for row in deployed.rows(TABLE)]
    finally:
        deployed.stop_all()
    journal = read_journal(sorted(root.glob("*.log")))
    is_good = sorted(map(int, stored)) == [record.number for record in sent]
    return _markdown(journal, looks.seen, sent, seconds), is_good


def _send(url: str, seconds: float, pace: float) -> list[_Sent]:
    """Send records; return the acknowledged ones with the times of their answers."""
    sent: list[_Sent] = []
    end = time.time() + seconds
    for number in itertools.count():
        if time.time() >= end:
            return sent
        body = json.dumps({"id": number}).encode()
        status, _ = request("POST", url, body, {"Content-Type": "application/json"})
        assert status == 200
        sent.append(_Sent(number, time.time()))
        time.sleep(pace)
    return sent


def _markdown(
    journal: Journal, seen: Sequence[tuple[float, int]], sent: Sequence[_Sent], seconds: float
) -> str:
    rows = row_times(journal, seen)
    closed = {event.key: event.at.timestamp() for event in journal.of("closed slice")}
    begun = {event.key: event.at.timestamp() for event in journal.of("rotated slice")}
    counts = [count for _, count in seen]
    arrivals = [seen[bisect_left(counts, number + 1)][0] - r.at for number, r in enumerate(sent)]
    measured = (
        ("slice closed → its rows in the table", [at - closed[e.key] for e, at in rows]),
        ("slice uploaded → its rows in the table", [at - e.at.timestamp() for e, at in rows]),
        (
            "slice rotated (closing begins) → its rows in the table",
            [at - begun[e.key] for e, at in rows if e.key in begun],
        ),
        ("record acknowledged → its row in the table", arrivals),
    )
    return "\n\n".join(
        [
            f"## From a closed slice to its rows: settings of `make run`, {seconds:g} s",
            table(("from → to", "number", "median s", "p99 s", "longest s"), map(_line, measured)),
            "### The steps between",
            life.steps(journal),
            "### The life of a file",
            life.one_life(journal),
            "",
        ]
    )


def _line(measured: tuple[str, Iterable[float]]) -> tuple[object, ...]:
    name, seconds = measured[0], list(measured[1])
    shares = (f"{share(seconds, part):.2f}" for part in (0.5, 0.99))
    return (name, len(seconds), *shares, f"{max(seconds, default=0.0):.2f}")
