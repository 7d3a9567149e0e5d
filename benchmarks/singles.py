"""Single records, compared with bare frameworks that discard the body and with a durable peer."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

from benchmarks.baselines import BASELINES
from benchmarks.exports import OTLP_TYPE, one_log
from benchmarks.programs import Missing
from benchmarks.servers import baseline, influxdb, rotel, service
from benchmarks.setting import BODY_BYTES, Setting, cell
from benchmarks.wrk import Figure, load

__all__ = ["INFLUX", "INFLUX_LINE", "OURS", "ROTEL", "WARM_UP_SECONDS", "section", "section_many"]

CONNECTIONS = (64, 256)
MANY_CONNECTIONS = (1024, 4096)
MANY_SECONDS = 5
"""Minimum duration with very many connections: opening all of them takes the first second."""

WARM_UP_SECONDS = 2
"""Duration of the warm-up, in which the first records open the slice."""

INFLUX = "InfluxDB 1.x, synced"
OURS = "stream"
ROTEL = "Rotel to a black hole"

INFLUX_LINE = f'events,host=a body="{"x" * (BODY_BYTES - 24)}"'
"""A line as long as a record; the database adds the time of arrival."""

_Server = Callable[[], AbstractContextManager[str]]


def section(setting: Setting) -> list[str]:
    """Return the section about single records over some connections."""
    return _section(setting, CONNECTIONS, setting.seconds)


def section_many(setting: Setting) -> list[str]:
    """Return the section about single records over very many connections."""
    return _section(setting, MANY_CONNECTIONS, max(setting.seconds, MANY_SECONDS))


def _section(setting: Setting, connections: tuple[int, ...], seconds: int) -> list[str]:
    figures: dict[int, dict[str, list[Figure]]] = {number: {} for number in connections}
    missing: dict[str, str] = {}
    servers = _servers(setting)
    for _ in range(setting.rounds):
        for name, (start, script) in servers.items():
            if name in missing:
                continue
            try:
                with start() as url:
                    for number in connections:
                        run = load(url, number, seconds, script)
                        figures[number].setdefault(name, []).append(run)
            except Missing as error:
                missing[name] = str(error)
    lines: list[str] = []
    for number in connections:
        lines += _table(number, figures[number])
    return [*lines, *(f"{name} was left out: {reason}." for name, reason in missing.items()), ""]


def _servers(setting: Setting) -> dict[str, tuple[_Server, Path]]:
    """Return, by name, the function that starts a server, and the script for wrk."""
    script = setting.single()

    def ours() -> AbstractContextManager[str]:
        return _warm(setting, script)

    def influx() -> AbstractContextManager[str]:
        return influxdb(setting.data())

    return {
        **{name: (partial(baseline, name), script) for name in BASELINES},
        ROTEL: (rotel, setting.script(OTLP_TYPE, one_log())),
        INFLUX: (influx, setting.script("text/plain", INFLUX_LINE)),
        OURS: (ours, script),
    }


@contextmanager
def _warm(setting: Setting, script: Path) -> Iterator[str]:
    with service(setting.data()) as running:
        load(running.url, CONNECTIONS[0], WARM_UP_SECONDS, script)
        yield running.url


def _table(connections: int, figures: dict[str, list[Figure]]) -> list[str]:
    medians = {name: statistics.median(f.rate for f in runs) for name, runs in figures.items()}
    ours = medians[OURS]
    lines = [
        f"### Single records, {connections} keep-alive connections, {BODY_BYTES} B JSON",
        "",
        "| server | records/s, median (range) | p50 ms | p99 ms | errors | stream ÷ this server |",
        "|---|---|---|---|---|---|",
    ]
    for name, runs in figures.items():
        ratio = f"{ours / medians[name]:.2f}" if name != OURS else ""
        lines.append(
            f"| {name} | {cell(runs)} "
            f"| {statistics.median(r.p50 for r in runs):.1f} "
            f"| {statistics.median(r.p99 for r in runs):.1f} "
            f"| {sum(r.errors for r in runs)} | {ratio} |"
        )
    best = max(BASELINES, key=lambda name: medians[name])
    return [*lines, "", f"Stream ÷ the best baseline, {best}: {ours / medians[best]:.2f}.", ""]
