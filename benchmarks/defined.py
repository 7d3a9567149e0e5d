"""The cost of 10,000 other sinks for a source with one sink."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

import attrs

from benchmarks.processes import below, usage
from benchmarks.servers import ROOT, Service, service
from benchmarks.setting import Setting, cell
from benchmarks.singles import WARM_UP_SECONDS
from benchmarks.wrk import Figure, load
from tests.e2e.processes import Deployment

__all__ = ["section"]

CONNECTIONS = 256
SOURCES, SINKS = 100, 100


@attrs.frozen
class _Run:
    """The figures of one run.

    :ivar cpu: microseconds of processor time of a record, in all processes of the service.
    """

    figure: Figure
    cpu: float


def section(setting: Setting) -> list[str]:
    """Return the section about many defined sinks."""
    few: list[_Run] = []
    many: list[_Run] = []
    ready = 0.0
    for _ in range(setting.rounds):
        with service(setting.data()) as running:
            began = time.monotonic()
            _define(running.deployed)
            age = time.monotonic() - began
            many.append(_measure(setting, running))
            ready = max(ready, _source_start(running.deployed))
        with service(setting.data()) as running:
            # Uploads and garbage collections occur at intervals, so both runs have the same age.
            time.sleep(age)
            few.append(_measure(setting, running))
    rates = sum(run.figure.rate for run in many) / sum(run.figure.rate for run in few)
    return [
        f"### {SOURCES * SINKS:,} sinks of {SOURCES:,} other sources",
        "",
        "| defined | records/s, median (range) | p99 ms | CPU µs per record | ÷ without |",
        "|---|---|---|---|---|",
        f"| 1 source, 1 sink | {_cells(few)} | |",
        f"| and {SOURCES * SINKS:,} sinks | {_cells(many)} | {rates:.2f} |",
        "",
        f"With all these sinks, a new source node accepts records {ready:.1f} s after it starts.",
        "",
    ]


def _measure(setting: Setting, running: Service) -> _Run:
    script = setting.single()
    load(running.url, CONNECTIONS, WARM_UP_SECONDS, script)
    processes = below(running.deployed.running[0].process.pid)
    before = usage(processes)
    figure = load(running.url, CONNECTIONS, setting.seconds, script)
    used = usage(processes) - before
    return _Run(figure, 1e6 * used.cpu / (figure.rate * setting.seconds))


def _cells(runs: list[_Run]) -> str:
    figures = [run.figure for run in runs]
    cpu = statistics.median(run.cpu for run in runs)
    return f"{cell(figures)} | {max(figure.p99 for figure in figures):.1f} | {cpu:.1f}"


def _define(deployed: Deployment) -> None:
    subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.definitions"),
            f"127.0.0.1:{deployed.ports['etcd']}",
            *("--namespace", deployed.environment()["STREAM_ETCD_NAMESPACE"]),
            *("--branch", "457"),  # sources are limited per branch
            *("--sources", str(SOURCES), "--sinks", str(SINKS)),
        ],
        cwd=ROOT,
        check=True,
        stdout=subprocess.DEVNULL,
    )


def _source_start(deployed: Deployment) -> float:
    """Return the seconds from the start of a source node's process until it is ready."""
    start = time.monotonic()
    running = deployed.start(
        "http-source", node_id="node-2", STREAM_SOURCE_HTTP_LISTEN="127.0.0.1:0"
    )
    seconds = time.monotonic() - start
    running.stop()
    return seconds
