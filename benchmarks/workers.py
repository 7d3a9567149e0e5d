"""Worker processes: the throughput of several, and the kernel's distribution of connections.

Nothing is bound to a core here, so on a small machine ``wrk``, the writer, etcd and the workers
take turns. There, the processor time per record is more meaningful than the rate.
"""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import attrs

from benchmarks.accepting import WAYS, spread
from benchmarks.processes import below, cpu_seconds
from benchmarks.servers import service
from benchmarks.setting import Setting, cell
from benchmarks.singles import WARM_UP_SECONDS
from benchmarks.wrk import Figure, load

__all__ = ["section"]

WORKERS = (1, 2)
CONNECTIONS = 256
ACCEPT_ROUNDS = 6
_ESTABLISHED = "01"


@attrs.frozen
class Run:
    """The figures of one run with a number of workers.

    :ivar sources: processor time of the processes that receive records, in seconds; with one
        worker, that process runs all components.
    :ivar others: processor time of the other processes of the service, including etcd.
    :ivar shares: number of connections of each worker, in the middle of the run.
    """

    figure: Figure
    records: float
    sources: float
    others: float
    shares: tuple[int, ...]


def section(setting: Setting) -> list[str]:
    """Return the section about workers."""
    script = setting.single()
    runs: dict[int, list[Run]] = {}
    for _ in range(setting.rounds):
        for workers in WORKERS:
            runs.setdefault(workers, []).append(_measure(setting, workers, script))
    return [
        *_table(runs),
        *_spread_table(
            {
                (way, count): [spread(way, count, CONNECTIONS) for _ in range(ACCEPT_ROUNDS)]
                for count in (2, 4)
                for way in WAYS
            }
        ),
    ]


def _measure(setting: Setting, workers: int, script: Path) -> Run:
    folder = setting.data()
    settings = {
        "STREAM_SOURCE_HTTP_WORKERS": str(workers),
        # Ports after a free one may be in use by outgoing connections.
        "STREAM_METRICS_LISTEN": "127.0.0.1:0",
    }
    with service(folder, bound=False, **settings) as running:
        load(running.url, CONNECTIONS, WARM_UP_SECONDS, script, bound=False)
        main = running.deployed.running[0].process.pid
        everything = below(main)
        takers = [pid for pid in everything if _is_worker(pid)] or [main]
        port = urlsplit(running.url).port or 80
        shares: list[int] = []

        def look() -> None:
            shares.extend(_connections(pid, port) for pid in takers)

        before = {pid: cpu_seconds(pid) for pid in everything}
        halfway = threading.Timer(setting.seconds / 2, look)
        halfway.start()
        started = time.monotonic()
        figure = load(running.url, CONNECTIONS, setting.seconds, script, bound=False)
        seconds = time.monotonic() - started
        used = {pid: cpu_seconds(pid) - before[pid] for pid in everything}
        halfway.join()
    sources = sum(used[pid] for pid in takers)
    return Run(
        figure, figure.rate * seconds, sources, sum(used.values()) - sources, tuple(sorted(shares))
    )


def _is_worker(pid: int) -> bool:
    return b"--worker" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")


def _connections(pid: int, port: int) -> int:
    """Return the number of open connections of a process to the local *port*."""
    own = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            own.add(str(link.readlink()))
        except OSError:
            continue  # it was closed meanwhile
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    rows = [line.split() for line in lines]
    return sum(
        row[3] == _ESTABLISHED
        and int(row[1].rpartition(":")[2], 16) == port
        and f"socket:[{row[9]}]" in own
        for row in rows
    )


def _table(runs: dict[int, list[Run]]) -> list[str]:
    one = statistics.median(run.figure.rate for run in runs[1])
    lines = [
        f"### Workers, {CONNECTIONS} keep-alive connections, no process bound to a core "
        f"({os.cpu_count()} cores, shared with wrk)",
        "",
        "| workers | records/s, median (range) | ÷ one worker | p50 ms | p99 ms | errors "
        "| records per CPU second of the sources | of all processes | connections of each |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for workers, each in runs.items():
        figures = [run.figure for run in each]
        rate = statistics.median(figure.rate for figure in figures)
        of_sources = statistics.median(run.records / run.sources for run in each)
        of_all = statistics.median(run.records / (run.sources + run.others) for run in each)
        shares = "; ".join(" + ".join(map(str, run.shares)) for run in each)
        lines.append(
            f"| {workers} | {cell(figures)} | {rate / one:.2f} "
            f"| {statistics.median(f.p50 for f in figures):.1f} "
            f"| {statistics.median(f.p99 for f in figures):.1f} "
            f"| {sum(f.errors for f in figures)} "
            f"| {of_sources:,.0f} | {of_all:,.0f} | {shares} |"
        )
    return [*lines, ""]


def _spread_table(found: dict[tuple[str, int], list[Sequence[int]]]) -> list[str]:
    lines = [
        f"### Connections of the busiest process, {CONNECTIONS} opened at once",
        "",
        "| way of sharing the address | processes | even share | median (range) |",
        "|---|---|---|---|",
    ]
    for (way, count), rounds in found.items():
        most = sorted(max(counts) for counts in rounds)
        lines.append(
            f"| {way} | {count} | {CONNECTIONS // count} "
            f"| {statistics.median(most):.0f} ({most[0]}–{most[-1]}) |"
        )
    return [*lines, ""]
