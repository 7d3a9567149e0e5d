"""Latency at 70 % of the peak rate, compared with fdatasync of the same disk."""

from __future__ import annotations

import statistics

from benchmarks import disk
from benchmarks.markdown import share
from benchmarks.servers import service
from benchmarks.setting import JSON_TYPE, Setting, record_body
from benchmarks.singles import WARM_UP_SECONDS
from benchmarks.wrk import Figure, load

__all__ = ["section"]

CONNECTIONS = 256
SHARE = 0.7
STEPS = 4
"""The number of runs to find the pause between requests for this share of the peak."""


def section(setting: Setting) -> list[str]:
    """Return the section about latency below the peak."""
    folder = setting.data()
    idle = disk.idle(setting.folder)
    with service(folder) as running:
        load(running.url, CONNECTIONS, WARM_UP_SECONDS, setting.single())
        peak = load(running.url, CONNECTIONS, setting.seconds, setting.single())
        runs, meanwhile = _paced(setting, running.url, SHARE * peak.rate)
    p99 = statistics.median(run.p99 for run in runs)
    return [
        f"### Latency at {SHARE:.0%} of the peak, {CONNECTIONS} connections",
        "",
        "| peak records/s | records/s | p50 ms | p99 ms | fdatasync idle, median ms (p99) "
        "| fdatasync during the run, median ms (p99) | p99 ÷ fdatasync p99 during the run |",
        "|---|---|---|---|---|---|---|",
        f"| {peak.rate:,.0f} | {statistics.median(r.rate for r in runs):,.0f} "
        f"| {statistics.median(r.p50 for r in runs):.1f} | {p99:.1f} "
        f"| {disk.cell(idle)} | {disk.cell(meanwhile)} "
        f"| {p99 / share(meanwhile, 0.99):.1f} |",
        "",
    ]


def _paced(setting: Setting, url: str, wanted: float) -> tuple[list[Figure], list[float]]:
    """Run at about *wanted* requests per second."""
    delay = 1000 * CONNECTIONS / wanted / 2
    for _ in range(STEPS):
        run = load(url, CONNECTIONS, 2, setting.script(JSON_TYPE, record_body(), delay))
        # the time between two requests is the pause plus the answer's time
        busy = 1000 * CONNECTIONS / run.rate - delay
        delay = max(0.1, 1000 * CONNECTIONS / wanted - busy)
    script = setting.script(JSON_TYPE, record_body(), delay)
    with disk.beside(setting.folder) as meanwhile:
        runs = [load(url, CONNECTIONS, setting.seconds, script) for _ in range(setting.rounds)]
    return runs, meanwhile
