"""The cost of additional sinks of a source, each with the usual mapping."""

from __future__ import annotations

import statistics

from benchmarks.servers import COLUMNS, RARE_IMPORTS, service
from benchmarks.setting import Setting, cell
from benchmarks.singles import WARM_UP_SECONDS
from benchmarks.wrk import Figure, load

__all__ = ["section"]

CONNECTIONS = 256
SINKS = (1, 2, 5, 10)


def section(setting: Setting) -> list[str]:
    """Return the section about the number of sinks."""
    script = setting.single()
    figures: dict[int, list[Figure]] = {}
    for _ in range(setting.rounds):
        with service(setting.data(), bound=True, **RARE_IMPORTS) as running:
            urls = {count: running.source(f"sinks-{count}", [COLUMNS] * count) for count in SINKS}
            for url in urls.values():
                load(url, CONNECTIONS, WARM_UP_SECONDS, script)
            for count, url in urls.items():
                run = load(url, CONNECTIONS, setting.seconds, script)
                figures.setdefault(count, []).append(run)
    rates = {count: statistics.median(run.rate for run in runs) for count, runs in figures.items()}
    return [
        f"### Sinks of a source, single records, {CONNECTIONS} connections",
        "",
        "| sinks | records/s, median (range) | rows/s | p99 ms | errors | cost ÷ one sink |",
        "|---|---|---|---|---|---|",
        *(
            f"| {count} | {cell(runs)} | {count * rates[count]:,.0f} "
            f"| {statistics.median(r.p99 for r in runs):.1f} | {sum(r.errors for r in runs)} "
            f"| {rates[SINKS[0]] / rates[count]:.2f} |"
            for count, runs in figures.items()
        ),
        "",
    ]
