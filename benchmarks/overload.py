"""Latency at loads from a tenth of the peak to above it. The load doesn't wait for answers."""

from __future__ import annotations

import statistics

from benchmarks.arrivals import Arrivals, arrivals
from benchmarks.programs import Missing
from benchmarks.servers import service
from benchmarks.setting import Setting
from benchmarks.singles import WARM_UP_SECONDS
from benchmarks.wrk import load

__all__ = ["section"]

CONNECTIONS = 256
SHARES = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2)
"""Loads as shares of the peak, which is measured just before."""


def section(setting: Setting) -> list[str]:
    """Return the section about latency by load."""
    title = f"### Latency by load, {CONNECTIONS} connections"
    runs: dict[float, list[Arrivals]] = {}
    offered: dict[float, list[float]] = {}
    try:
        for _ in range(setting.rounds):
            with service(setting.data()) as running:
                load(running.url, CONNECTIONS, WARM_UP_SECONDS, setting.single())
                peak = load(running.url, CONNECTIONS, setting.seconds, setting.single()).rate
                for share in SHARES:
                    run = arrivals(setting, running.url, share * peak, setting.seconds)
                    runs.setdefault(share, []).append(run)
                    offered.setdefault(share, []).append(share * peak)
    except Missing as error:
        return [title, "", f"Not measured: {error}.", ""]
    return [
        title,
        "",
        "| share of the peak | offered records/s | answered records/s | p50 ms | p99 ms "
        "| largest ms | refused | not answered at the end |",
        "|---|---|---|---|---|---|---|---|",
        *(
            f"| {share:.0%} | {statistics.median(offered[share]):,.0f} "
            f"| {statistics.median(run.rate for run in each):,.0f} "
            f"| {statistics.median(run.p50 for run in each):.1f} "
            f"| {statistics.median(run.p99 for run in each):.1f} "
            f"| {max(run.max for run in each):.1f} "
            f"| {sum(run.refused for run in each):,} | {sum(run.late for run in each):,} |"
            for share, each in runs.items()
        ),
        "",
        "Requests are due at equal intervals. The latency of a request is measured from the time "
        "at which it was due, even if its connection was busy then. The peak is the rate of a load "
        "that waits for answers.",
        "",
    ]
