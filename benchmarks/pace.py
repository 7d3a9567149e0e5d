"""Latency at 70 % of the peak rate, compared with one fdatasync on the same disk."""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path

from benchmarks.servers import service
from benchmarks.setting import JSON_TYPE, Setting, record_body
from benchmarks.singles import WARM_UP_SECONDS
from benchmarks.wrk import Figure, load

__all__ = ["section"]

CONNECTIONS = 256
SHARE = 0.7
STEPS = 4
"""Number of runs for finding the pause between requests that gives the share of the peak."""


def section(setting: Setting) -> list[str]:
    """Return the section about latency below the peak."""
    folder = setting.data()
    syncs = _sync_ms(setting.folder)
    with service(folder) as running:
        load(running.url, CONNECTIONS, WARM_UP_SECONDS, setting.single())
        peak = load(running.url, CONNECTIONS, setting.seconds, setting.single())
        runs = _paced(setting, running.url, SHARE * peak.rate)
    p99 = statistics.median(run.p99 for run in runs)
    sync = statistics.median(syncs)
    return [
        f"### Latency at {SHARE:.0%} of the peak, {CONNECTIONS} connections",
        "",
        "| peak records/s | records/s | p50 ms | p99 ms | fdatasync median ms (p99) | p99 ÷ it |",
        "|---|---|---|---|---|---|",
        f"| {peak.rate:,.0f} | {statistics.median(r.rate for r in runs):,.0f} "
        f"| {statistics.median(r.p50 for r in runs):.1f} | {p99:.1f} "
        f"| {sync:.2f} ({syncs[int(len(syncs) * 0.99)]:.2f}) | {p99 / sync:.1f} |",
        "",
    ]


def _paced(setting: Setting, url: str, wanted: float) -> list[Figure]:
    """Run at about *wanted* requests per second."""
    delay = 1000 * CONNECTIONS / wanted / 2
    for _ in range(STEPS):
        run = load(url, CONNECTIONS, 2, setting.script(JSON_TYPE, record_body(), delay))
        # the time between two requests is the pause plus the answer's time
        busy = 1000 * CONNECTIONS / run.rate - delay
        delay = max(0.1, 1000 * CONNECTIONS / wanted - busy)
    script = setting.script(JSON_TYPE, record_body(), delay)
    return [load(url, CONNECTIONS, setting.seconds, script) for _ in range(setting.rounds)]


def _sync_ms(folder: Path, count: int = 300) -> list[float]:
    """Return sorted times of appending and syncing 16 KiB, in milliseconds."""
    times = []
    with (folder / "sync-probe").open("wb", buffering=0) as file:
        for _ in range(count):
            file.write(b"x" * 16 * 1024)
            start = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append(1000 * (time.perf_counter() - start))
    return sorted(times)
