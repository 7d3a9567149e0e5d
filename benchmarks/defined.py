"""The cost of 10,000 other sinks for a source with one sink."""

from __future__ import annotations

import subprocess
import sys
import time

from benchmarks.servers import ROOT, service
from benchmarks.setting import Setting, cell
from benchmarks.singles import WARM_UP_SECONDS
from benchmarks.wrk import Figure, load
from tests.e2e.processes import Deployment

__all__ = ["section"]

CONNECTIONS = 256
SOURCES, SINKS = 100, 100


def section(setting: Setting) -> list[str]:
    """Return the section about many defined sinks."""
    few: list[Figure] = []
    many: list[Figure] = []
    script = setting.single()
    ready = 0.0
    for _ in range(setting.rounds):
        with service(setting.data()) as running:
            load(running.url, CONNECTIONS, WARM_UP_SECONDS, script)
            few.append(load(running.url, CONNECTIONS, setting.seconds, script))
            _define(running.deployed)
            load(running.url, CONNECTIONS, WARM_UP_SECONDS, script)
            many.append(load(running.url, CONNECTIONS, setting.seconds, script))
            ready = max(ready, _source_start(running.deployed))
    rates = sum(run.rate for run in many) / sum(run.rate for run in few)
    return [
        f"### {SOURCES * SINKS:,} sinks of {SOURCES:,} other sources",
        "",
        "| defined | records/s, median (range) | p99 ms | ÷ without |",
        "|---|---|---|---|",
        f"| 1 source, 1 sink | {cell(few)} | {max(r.p99 for r in few):.1f} | |",
        f"| and {SOURCES * SINKS:,} sinks | {cell(many)} | {max(r.p99 for r in many):.1f} "
        f"| {rates:.2f} |",
        "",
        f"A further source node that starts then takes records after {ready:.1f} s.",
        "",
    ]


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
