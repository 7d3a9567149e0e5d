"""Single records, compared with bare frameworks that discard the body and with a durable peer."""

from __future__ import annotations

import statistics

from benchmarks.baselines import BASELINES
from benchmarks.servers import baseline, influxdb, service
from benchmarks.setting import BODY_BYTES, Setting, cell
from benchmarks.wrk import Figure, load

__all__ = ["INFLUX_LINE", "WARM_UP_SECONDS", "section"]

CONNECTIONS = (64, 256)
WARM_UP_SECONDS = 2
"""The first records open the slice."""

INFLUX_LINE = f'events,host=a body="{"x" * (BODY_BYTES - 24)}"'
"""As long as a record; the database adds the time of its arrival."""


def section(setting: Setting) -> list[str]:
    """Return the section about single records."""
    lines: list[str] = []
    for connections in CONNECTIONS:
        lines += _table(connections, _measure(setting, connections))
    return lines


def _measure(setting: Setting, connections: int) -> dict[str, list[Figure]]:
    script = setting.single()
    influx_script = setting.script("text/plain", INFLUX_LINE)
    figures: dict[str, list[Figure]] = {}
    seconds = setting.seconds
    for _ in range(setting.rounds):
        for name in BASELINES:
            with baseline(name) as url:
                figures.setdefault(name, []).append(load(url, connections, seconds, script))
        try:
            with influxdb(setting.data()) as url:
                run = load(url, connections, seconds, influx_script)
                figures.setdefault("InfluxDB 1.x, synced", []).append(run)
        except FileNotFoundError:
            pass  # not installed: the report lacks its line
        with service(setting.data()) as running:
            load(running.url, connections, WARM_UP_SECONDS, script)
            run = load(running.url, connections, seconds, script)
            figures.setdefault("stream", []).append(run)
    return figures


def _table(connections: int, figures: dict[str, list[Figure]]) -> list[str]:
    ours = statistics.median(f.rate for f in figures["stream"])
    lines = [
        f"### Single records, {connections} keep-alive connections, {BODY_BYTES} B JSON",
        "",
        "| server | records/s, median (range) | p50 ms | p99 ms | errors | stream ÷ it |",
        "|---|---|---|---|---|---|",
    ]
    for name, runs in figures.items():
        median = statistics.median(run.rate for run in runs)
        ratio = f"{ours / median:.2f}" if name != "stream" else ""
        lines.append(
            f"| {name} | {cell(runs)} "
            f"| {statistics.median(r.p50 for r in runs):.1f} "
            f"| {statistics.median(r.p99 for r in runs):.1f} "
            f"| {sum(r.errors for r in runs)} | {ratio} |"
        )
    return [*lines, ""]
