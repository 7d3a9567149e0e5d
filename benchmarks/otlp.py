"""OpenTelemetry logs, compared with the official collector under the same load in the same run."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

from benchmarks.exports import OTLP_TYPE, logs_of_a_server
from benchmarks.processes import below, usage
from benchmarks.programs import Missing
from benchmarks.servers import COLUMNS, collector, rotel, service
from benchmarks.setting import Setting, cell
from benchmarks.singles import ROTEL, WARM_UP_SECONDS
from benchmarks.wrk import Figure, load

__all__ = ["section"]

RECORDS = 100
CONNECTIONS = 64
OURS = "stream: uuid, datetime, customer, message"
OURS_WHOLE = "stream: uuid, datetime, the whole record"
SYNCED = "collector to a file, fdatasync"
NOT_SYNCED = "collector to a file"

_USUAL: list[dict[str, Any]] = [
    *COLUMNS[:2],
    {"type": "path", "name": "customer", "path": "attributes.customer", "rawString": True},
    {"type": "path", "name": "message", "path": "body", "rawString": True},
]
_WHOLE: list[dict[str, Any]] = [*COLUMNS[:2], {"type": "body", "name": "record"}]


def section(setting: Setting) -> list[str]:
    """Return the section about OpenTelemetry logs."""
    body = logs_of_a_server(RECORDS)
    script = setting.script(OTLP_TYPE, body)
    figures: dict[str, list[Figure]] = {}
    costs: dict[str, list[float]] = {}
    missing: dict[str, str] = {}

    def ours(columns: list[dict[str, Any]]) -> AbstractContextManager[str]:
        return _source(setting, columns)

    def official(is_synced: bool) -> AbstractContextManager[str]:
        return collector(setting.data(), is_synced=is_synced)

    servers: dict[str, Callable[[], AbstractContextManager[str]]] = {
        ROTEL: rotel,
        NOT_SYNCED: partial(official, False),
        SYNCED: partial(official, True),
        OURS: partial(ours, _USUAL),
        OURS_WHOLE: partial(ours, _WHOLE),
    }
    for _ in range(setting.rounds):
        for name, start in servers.items():
            if name in missing:
                continue
            try:
                with start() as url:
                    load(url, CONNECTIONS, WARM_UP_SECONDS, script)
                    before = _cpu()
                    run = load(url, CONNECTIONS, setting.seconds, script)
                    figures.setdefault(name, []).append(run)
                    records = run.rate * setting.seconds * RECORDS
                    costs.setdefault(name, []).append(1e6 * (_cpu() - before) / records)
            except Missing as error:
                missing[name] = str(error)
    return _table(figures, costs, missing, len(body))


def _cpu() -> float:
    """Return the processor time of the running servers in seconds. Called without load."""
    return usage(below(os.getpid())[1:]).cpu


@contextmanager
def _source(setting: Setting, columns: list[dict[str, Any]]) -> Iterator[str]:
    with service(setting.data()) as running:
        url = running.source("logs", [columns], "otlp")
        yield f"{url}/v1/logs"


def _table(
    figures: dict[str, list[Figure]],
    costs: dict[str, list[float]],
    missing: dict[str, str],
    size: int,
) -> list[str]:
    peer = _rate(figures[SYNCED]) if SYNCED in figures else 0.0
    lines = [
        f"### OTLP logs, {RECORDS} records per request in protobuf, {CONNECTIONS} connections",
        "",
        "| server | records/s, median (range) | p50 ms | p99 ms | errors "
        "| CPU µs per record | ÷ the synced collector |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, runs in figures.items():
        ratio = f"{_rate(runs) / peer:.2f}" if peer else ""
        lines.append(
            f"| {name} | {cell(runs, RECORDS)} "
            f"| {statistics.median(r.p50 for r in runs):.1f} "
            f"| {statistics.median(r.p99 for r in runs):.1f} "
            f"| {sum(r.errors for r in runs)} | {statistics.median(costs[name]):.2f} | {ratio} |"
        )
    return [
        *lines,
        "",
        *(f"Without {name}: {reason}." for name, reason in missing.items()),
        f"A request is {size:,} bytes long. The collector's file exporter can't sync its file. "
        "Code added to the collector therefore makes each request wait for an fdatasync of the "
        "file; all waiting requests share one fdatasync. The exporter writes protobuf, in one call "
        "for each request.",
        "",
    ]


def _rate(runs: list[Figure]) -> float:
    return statistics.median(run.rate for run in runs)
