"""The cost of a record at low rates: latency, syncs, bytes on the disk, processor time."""

from __future__ import annotations

import os
import select
import socket
import statistics
import time
from collections import deque
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import attrs

from benchmarks import disk
from benchmarks.markdown import share
from benchmarks.servers import Service, service
from benchmarks.setting import JSON_TYPE, Setting, record_body
from benchmarks.singles import WARM_UP_SECONDS
from benchmarks.wrk import LOAD_CPU, SERVER_CPU, bound, load

__all__ = ["section"]

RATES = (1, 10, 100, 1000)
"""Rates in records a second."""

RATE_PER_CONNECTION = 250
"""Maximum rate of a connection, which sends one record after another."""

MIN_SECONDS = 15
"""Minimum duration of all runs of a rate, so that one record a second gives enough of them."""

_ANSWER_BYTES = 4096


@attrs.frozen
class _Usage:
    """Resources used by the service so far.

    :ivar cpu: processor seconds of all threads.
    :ivar written: bytes written to the disk, without the journal of the file system.
    :ivar stored: bytes in slice files.
    :ivar syncs: number of syncs by the writer.
    """

    cpu: float
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

    def __add__(self, other: _Usage) -> _Usage:
        return _Usage(
            self.cpu + other.cpu,
            self.written + other.written,
            self.stored + other.stored,
            self.syncs + other.syncs,
        )

    def __sub__(self, before: _Usage) -> _Usage:
        return _Usage(
            self.cpu - before.cpu,
            self.written - before.written,
            self.stored - before.stored,
            self.syncs - before.syncs,
        )


@attrs.define
class _Runs:
    """The figures of all runs of one rate.

    :ivar syncs: milliseconds of each fdatasync of a bare program at the same rate.
    :ivar latencies: milliseconds of each record.
    :ivar seconds: duration of the runs of the service.
    :ivar used: resources that the service used in them.
    """

    syncs: list[float] = attrs.Factory(list)
    latencies: list[float] = attrs.Factory(list)
    seconds: float = 0.0
    used: _Usage = _Usage(0.0, 0, 0, 0)

    def measure(self, setting: Setting, running: Service, rate: int, seconds: float) -> None:
        """Add a run of the bare program, and one of the service."""
        with bound(SERVER_CPU):
            self.syncs += disk.paced(setting.folder, rate, seconds)
        before, start = _Usage.of(running), time.perf_counter()
        with bound(LOAD_CPU):
            self.latencies += _send(running.url, rate, seconds)
        self.seconds += time.perf_counter() - start
        self.used += _Usage.of(running) - before

    def row(self, rate: int) -> str:
        """Return the row of the table."""
        count, used = len(self.latencies), self.used
        median = statistics.median(self.latencies)
        return (
            f"| {rate:,} | {median:.2f} | {share(self.latencies, 0.99):.2f} "
            f"| {disk.cell(self.syncs)} | {median / share(self.syncs, 0.5):.1f} "
            f"| {used.syncs / self.seconds:.1f} | {used.stored / count:.0f} "
            f"| {used.written / count:,.0f} | {1000 * used.cpu / self.seconds:.0f} |"
        )


def section(setting: Setting) -> list[str]:
    """Return the section about low load."""
    seconds = max(setting.seconds, MIN_SECONDS / setting.rounds)
    runs = {rate: _Runs() for rate in RATES}
    with service(setting.data()) as running:
        load(running.url, 1, WARM_UP_SECONDS, setting.single())
        for _ in range(setting.rounds):
            for rate, found in runs.items():
                found.measure(setting, running, rate, seconds)
    return [
        "### A few records, each sent separately",
        "",
        "| records/s | latency median ms | p99 ms | one fdatasync at that rate, median ms (p99) "
        "| median ÷ fdatasync median | fdatasync/s | bytes per record in slice files "
        "| bytes per record written by the process | CPU ms a second |",
        "|---|---|---|---|---|---|---|---|---|",
        *(found.row(rate) for rate, found in runs.items()),
        "",
        "For comparison, a minimal program appends 100 bytes and syncs them, on the core of the "
        "service and between its runs. It uses the same rate, because idle disks and cores respond "
        "more slowly than busy ones.",
        "",
    ]


def _send(url: str, rate: int, seconds: float) -> list[float]:
    """Send *rate* records a second, each in one piece; return the latency of each in milliseconds.

    One thread serves all connections: several would wait for the GIL, and these
    waits would count as latency.
    """
    parts = urlsplit(url)
    address = parts.hostname or "", parts.port or 80
    request = _request(parts.netloc, parts.path)
    latencies: list[float] = []
    with ExitStack() as stack:
        idle = deque(
            stack.enter_context(socket.create_connection(address))
            for _ in range(max(1, rate // RATE_PER_CONNECTION))
        )
        began: dict[socket.socket, float] = {}
        due = time.perf_counter()
        end = due + seconds
        is_late = False
        while due < end or began:
            is_free = due < end and bool(idle)
            left = max(0.0, due - time.perf_counter()) if is_free else None
            for answered in select.select(list(began), [], [], left)[0]:
                latencies.append(1000 * (time.perf_counter() - began.pop(answered)))
                _check(answered.recv(_ANSWER_BYTES))
                idle.append(answered)
            now = time.perf_counter()
            if not is_free:
                is_late = due <= now
            elif due <= now:
                connection = idle.popleft()
                # exclude the wake-up of this thread, but include the wait for a connection
                began[connection] = due if is_late else now
                connection.sendall(request)
                due += 1 / rate
                is_late = is_late and due <= now
    return latencies


def _request(host: str, path: str) -> bytes:
    body = record_body().encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {JSON_TYPE}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _check(answer: bytes) -> None:
    """Check that a record was stored. Raises RuntimeError."""
    if not answer.startswith(b"HTTP/1.1 200 "):
        raise RuntimeError(f"a record was answered with {answer!r}")
