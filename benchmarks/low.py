"""The cost of a record at low rates: latency, syncs, bytes on the disk, processor time."""

from __future__ import annotations

import http.client
import os
import statistics
import time
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

import attrs

from benchmarks import disk
from benchmarks.markdown import share
from benchmarks.servers import Service, service
from benchmarks.setting import JSON_TYPE, Setting, record_body
from benchmarks.singles import WARM_UP_SECONDS
from benchmarks.wrk import load

__all__ = ["section"]

RATES = (1, 10, 100, 1000)
"""Rates in records a second."""

RATE_PER_CONNECTION = 250
"""Maximum rate of a connection, which sends one record after another."""

MIN_SECONDS = 15
"""Minimum duration of a run, so that a rate of one record a second gives enough of them."""


@attrs.frozen
class _Usage:
    """Resources used by the service so far.

    :ivar seconds: processor time of all threads.
    :ivar written: bytes written to the disk, without the journal of the file system.
    :ivar stored: bytes in slice files.
    :ivar syncs: number of syncs by the writer.
    """

    seconds: float
    written: int
    stored: int
    syncs: int

    @classmethod
    def of(cls, running: Service) -> _Usage:
        """Return the current usage of *running*."""
        process = Path("/proc") / str(running.deployed.running[0].process.pid)
        fields = (process / "stat").read_text().rpartition(")")[2].split()
        ticks = int(fields[11]) + int(fields[12])
        counts = dict(line.split(": ") for line in (process / "io").read_text().splitlines())
        return cls(
            ticks / os.sysconf("SC_CLK_TCK"),
            int(counts["write_bytes"]),
            running.deployed.written,
            running.syncs,
        )


@attrs.frozen
class _Run:
    """The figures of one rate.

    :ivar latencies: milliseconds of each record.
    """

    latencies: list[float]
    seconds: float
    before: _Usage
    after: _Usage

    def row(self, rate: int, idle: float) -> str:
        """Return the row of the table.

        :param idle: median of one fdatasync on the idle disk, milliseconds.
        """
        count = len(self.latencies)
        before, after = self.before, self.after
        median = statistics.median(self.latencies)
        return (
            f"| {rate:,} | {median:.2f} | {share(self.latencies, 0.99):.2f} | {median / idle:.1f} "
            f"| {(after.syncs - before.syncs) / self.seconds:.1f} "
            f"| {(after.stored - before.stored) / count:.0f} "
            f"| {(after.written - before.written) / count:,.0f} "
            f"| {1000 * (after.seconds - before.seconds) / self.seconds:.0f} |"
        )


def section(setting: Setting) -> list[str]:
    """Return the section about low load."""
    idle = disk.idle(setting.folder)
    seconds = max(setting.seconds, MIN_SECONDS)
    lines = [
        "### Few records, each on its own",
        "",
        f"One fdatasync takes {disk.cell(idle)} ms on the idle disk, median (p99).",
        "",
        "| records/s | latency median ms | p99 ms | median ÷ one fdatasync | fdatasync/s "
        "| bytes a record in slice files | bytes a record written by the process "
        "| processor ms a second |",
        "|---|---|---|---|---|---|---|---|",
    ]
    with service(setting.data()) as running:
        load(running.url, 1, WARM_UP_SECONDS, setting.single())
        for rate in RATES:
            run = _measure(running, rate, seconds)
            lines.append(run.row(rate, share(idle, 0.5)))
    return [*lines, ""]


def _measure(running: Service, rate: int, seconds: int) -> _Run:
    connections = max(1, rate // RATE_PER_CONNECTION)
    latencies: list[float] = []
    interval = connections / rate
    threads = [
        Thread(target=_send, args=(running.url, interval, number / rate, seconds, latencies))
        for number in range(connections)
    ]
    before, start = _Usage.of(running), time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return _Run(latencies, time.perf_counter() - start, before, _Usage.of(running))


def _send(url: str, interval: float, begin: float, seconds: int, latencies: list[float]) -> None:
    """Send a record every *interval* seconds; store the latency of each from its due time."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port)
    body, headers = record_body().encode(), {"Content-Type": JSON_TYPE}
    due = time.perf_counter() + begin
    end = due + seconds
    while due < end:
        time.sleep(max(0.0, due - time.perf_counter()))
        sent = time.perf_counter()
        connection.request("POST", parts.path, body, headers)
        answer = connection.getresponse()
        answer.read()
        if answer.status != http.client.OK:
            raise RuntimeError(f"a record was answered with {answer.status}")
        # exclude the wake-up of this thread, but include the wait for the previous record
        late = 0.0 if sent - due < interval else sent - due
        latencies.append(1000 * (time.perf_counter() - sent + late))
        due += interval
