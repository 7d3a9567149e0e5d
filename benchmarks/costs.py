"""Processor time and written bytes per record, from almost no load to the peak."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Callable
from functools import partial

import attrs

from benchmarks.arrivals import arrivals
from benchmarks.processes import Usage, below, is_etcd, usage
from benchmarks.programs import Missing
from benchmarks.servers import Service, service
from benchmarks.setting import Setting
from benchmarks.singles import WARM_UP_SECONDS
from benchmarks.wrk import load
from tests.e2e.processes import Deployment

__all__ = ["section"]

RATES = (10, 1000)
SECONDS = 12
"""Duration of a load below the peak, and of no load: short runs measure too little."""

CONNECTIONS = 256
SLOW_CONNECTIONS = 10
_MILLION = 1e6
_HOUR = 3600.0


@attrs.frozen
class _Cost:
    """The cost of one load.

    :ivar records: number of records; 0 for no load.
    :ivar slices: bytes in slice files.
    :ivar wal: bytes in etcd's log.
    """

    records: float
    seconds: float
    ours: Usage
    etcd: Usage
    slices: int
    wal: float

    def row(self, name: str) -> str:
        """Return a row of the table: for a million records, or for an hour."""
        factor = _MILLION / self.records if self.records else _HOUR / self.seconds
        figures = (
            (self.ours.cpu, 1),
            (self.etcd.cpu, 1),
            (self.ours.written, _MILLION),
            (self.slices, _MILLION),
            (self.etcd.written, _MILLION),
            (self.wal, _MILLION),
        )
        return (
            f"| {name} | " + " | ".join(f"{factor * n / unit:,.1f}" for n, unit in figures) + " |"
        )


def section(setting: Setting) -> list[str]:
    """Return the section about costs."""
    title = "### What a million records cost"
    rows = [_measure(setting, lambda _: _rest()).row("none, in an hour")]
    peak = ""
    try:
        for rate in RATES:
            cost = _measure(setting, partial(_steady, setting, rate))
            rows.append(cost.row(f"{rate:,} records/s"))
    except Missing as error:
        peak = f"Rates below the peak aren't measured: {error}."
    cost = _measure(setting, partial(_peak, setting))
    rows.append(cost.row(f"the peak, {cost.records / cost.seconds:,.0f} records/s"))
    return [
        title,
        "",
        "| load | service, CPU s | etcd, CPU s | service, MB written to disk | in slice files, MB "
        "| etcd, MB written to disk | in etcd's log, MB |",
        "|---|---|---|---|---|---|---|",
        *rows,
        "",
        *([peak, ""] if peak else []),
        "The service is one process with all components, including the local Storage API. If a "
        "page of a file changes after a sync, it is written to the disk again. A record therefore "
        "costs more bytes if there are few records per second. Writes by the file system itself "
        "aren't counted.",
        "",
    ]


def _measure(setting: Setting, run: Callable[[Service], float]) -> _Cost:
    """Measure a new service under one load.

    :param run: generates the load, and returns the number of records.
    """
    with service(setting.data()) as running:
        load(running.url, SLOW_CONNECTIONS, WARM_UP_SECONDS, setting.single())
        processes = below(running.deployed.running[0].process.pid)
        etcd = [pid for pid in processes if is_etcd(pid)]
        ours = [pid for pid in processes if pid not in etcd]

        def used() -> tuple[Usage, Usage, int, float]:
            deployed = running.deployed
            return usage(ours), usage(etcd), deployed.written, _wal_bytes(deployed)

        before, began = used(), time.monotonic()
        records = run(running)
        seconds, after = time.monotonic() - began, used()
    return _Cost(
        records,
        seconds,
        after[0] - before[0],
        after[1] - before[1],
        after[2] - before[2],
        after[3] - before[3],
    )


def _rest() -> float:
    time.sleep(SECONDS)
    return 0.0


def _steady(setting: Setting, rate: int, running: Service) -> float:
    run = arrivals(setting, running.url, rate, SECONDS, SLOW_CONNECTIONS)
    return run.answered * (SECONDS + 0.5) / SECONDS  # the warm-up's records cost, too


def _peak(setting: Setting, running: Service) -> float:
    seconds = 2 * setting.seconds
    return load(running.url, CONNECTIONS, seconds, setting.single()).rate * seconds


def _wal_bytes(deployed: Deployment) -> float:
    """Return the bytes that etcd has appended to its log so far."""
    metrics = f"http://127.0.0.1:{deployed.ports['etcd']}/metrics"
    with urllib.request.urlopen(metrics, timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    name = "etcd_disk_wal_write_bytes_total "
    return sum(float(line.removeprefix(name)) for line in lines if line.startswith(name))
