"""Batches of records, compared with single records and with the durable peer."""

from __future__ import annotations

import statistics

from benchmarks.baselines import BARE, RECEIVES_ONLY
from benchmarks.programs import Missing
from benchmarks.servers import baseline, influxdb, service
from benchmarks.setting import Setting, cell, record_body
from benchmarks.singles import INFLUX_LINE, WARM_UP_SECONDS
from benchmarks.wrk import Figure, load

__all__ = ["section", "section_sizes"]

NDJSON = "application/x-ndjson"
CONNECTIONS = {1: 256, 100: 64, 1000: 16}
"""Number of connections by number of records in a request."""

LIMITS = (BARE, RECEIVES_ONLY)
"""Baselines that read the same bodies: the maximum of a server that discards them."""

SHORT_BYTES = 100
"""Size of a line, so that the largest batch is within the default limit of a request."""

SHORT_CONNECTIONS = {1: 256, 10: 128, 100: 64, 1000: 16, 10_000: 4}


def section(setting: Setting) -> list[str]:
    """Return the section about batches."""
    ours: dict[int, list[Figure]] = {}
    peer: dict[int, list[Figure]] = {}
    limits: dict[tuple[int, str], list[Figure]] = {}
    for _ in range(setting.rounds):
        for size, connections in CONNECTIONS.items():
            lines = (record_body() + "\n") * size
            script = setting.script(NDJSON, lines) if size > 1 else setting.single()
            with service(setting.data()) as running:
                load(running.url, connections, WARM_UP_SECONDS, setting.single())
                run = load(running.url, connections, setting.seconds, script)
                ours.setdefault(size, []).append(run)
            for name in LIMITS:
                with baseline(name) as url:
                    run = load(url, connections, setting.seconds, script)
                    limits.setdefault((size, name), []).append(run)
            try:
                with influxdb(setting.data()) as url:
                    script = setting.script("text/plain", (INFLUX_LINE + "\n") * size)
                    run = load(url, connections, setting.seconds, script)
                    peer.setdefault(size, []).append(run)
            except Missing:
                pass  # not installed: its column stays empty
    single = statistics.median(run.rate for run in ours[1])
    table = [
        "### Batches (NDJSON lines of the same size)",
        "",
        "| records per request | records/s, median (range) | ÷ single | p99 ms | errors "
        "| InfluxDB 1.x, synced | stream ÷ InfluxDB "
        + "".join(f"| {name} | stream ÷ {name} " for name in LIMITS)
        + "|",
        "|---|---|---|---|---|---|---|" + "---|---|" * len(LIMITS),
    ]
    for size, runs in ours.items():
        rate = statistics.median(run.rate for run in runs) * size
        there = peer.get(size, [])
        against = statistics.median(run.rate for run in there) * size if there else 0.0
        ratio = f"{rate / against:.2f}" if against else ""
        table.append(
            f"| {size} | {cell(runs, size)} | {rate / single:.1f} "
            f"| {statistics.median(r.p99 for r in runs):.1f} | {sum(r.errors for r in runs)} "
            f"| {cell(there, size) if there else ''} | {ratio} "
            + "".join(_against(limits[size, name], rate, size) for name in LIMITS)
            + "|"
        )
    return [
        *table,
        "",
        f"{BARE} and {RECEIVES_ONLY} read the same bodies and discard them.",
        "",
    ]


def _against(runs: list[Figure], rate: float, size: int) -> str:
    """Return the cells about a baseline, for *rate* records per second of ours."""
    return f"| {cell(runs, size)} | {rate / (statistics.median(r.rate for r in runs) * size):.2f} "


def section_sizes(setting: Setting) -> list[str]:
    """Return the section about batches of many sizes."""
    line = record_body(SHORT_BYTES - 1) + "\n"
    figures: dict[int, list[Figure]] = {}
    for _ in range(setting.rounds):
        with service(setting.data()) as running:
            load(running.url, SHORT_CONNECTIONS[1], WARM_UP_SECONDS, setting.single())
            for size, connections in SHORT_CONNECTIONS.items():
                script = setting.script(NDJSON, line * size)
                run = load(running.url, connections, setting.seconds, script)
                figures.setdefault(size, []).append(run)
    rates = {
        size: statistics.median(run.rate for run in runs) * size for size, runs in figures.items()
    }
    return [
        f"### Batch sizes (NDJSON lines of {SHORT_BYTES} B)",
        "",
        "| records per request | connections | records/s, median (range) | ÷ 1 | p99 ms | errors |",
        "|---|---|---|---|---|---|",
        *(
            f"| {size:,} | {SHORT_CONNECTIONS[size]} | {cell(runs, size)} "
            f"| {rates[size] / rates[1]:.1f} | {statistics.median(r.p99 for r in runs):.1f} "
            f"| {sum(r.errors for r in runs)} |"
            for size, runs in figures.items()
        ),
        "",
    ]
