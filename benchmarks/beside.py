"""Latency of single records while slices are uploaded and files are imported on the same core."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from importlib.util import find_spec

import attrs

from benchmarks.arrivals import Arrivals, arrivals
from benchmarks.processes import below, usage
from benchmarks.programs import Missing
from benchmarks.servers import COLUMNS, Service, service
from benchmarks.setting import Setting
from benchmarks.singles import WARM_UP_SECONDS
from benchmarks.wrk import load
from tests.e2e.processes import TABLE

__all__ = ["section"]

CONNECTIONS = 256
SHARE = 0.3
SECONDS = 10
"""Duration of a run: long enough for several imports."""

_LAKE = "lake"
_LEVEL = "STREAM_STORAGE_LEVEL"
_UPLOADS = {
    f"{_LEVEL}_STAGING_UPLOAD_MIN_INTERVAL": "1s",
    f"{_LEVEL}_STAGING_UPLOAD_TRIGGER_INTERVAL": "1s",
    f"{_LEVEL}_STAGING_OPERATOR_SLICE_UPLOAD_CHECK_INTERVAL": "500ms",
}
_IMPORTS = {
    **_UPLOADS,
    f"{_LEVEL}_TARGET_IMPORT_MIN_INTERVAL": "1s",
    f"{_LEVEL}_TARGET_IMPORT_TRIGGER_INTERVAL": "2s",
    f"{_LEVEL}_TARGET_OPERATOR_FILE_IMPORT_CHECK_INTERVAL": "500ms",
}
_NONE = {
    f"{_LEVEL}_STAGING_UPLOAD_MIN_INTERVAL": "10m",
    f"{_LEVEL}_STAGING_UPLOAD_TRIGGER_INTERVAL": "10m",
    f"{_LEVEL}_TARGET_IMPORT_MIN_INTERVAL": "10m",
    f"{_LEVEL}_TARGET_IMPORT_TRIGGER_INTERVAL": "20m",
}


@attrs.frozen
class _Case:
    """Background work during the ingestion.

    :ivar settings: settings that cause the work.
    :ivar url: returns the URL of the source.
    :ivar rows: returns the number of rows in the table, if any are imported.
    :ivar module: required module that may not be installed.
    """

    settings: dict[str, str]
    url: Callable[[Service], str]
    rows: Callable[[Service], int] | None = None
    module: str = ""


def _parquet_source(running: Service) -> str:
    deployed = running.deployed
    sources = f"{deployed.api}/v1/branches/default/sources"
    source = deployed.task("POST", sources, {"type": "http", "name": "To Parquet"})["url"]
    table = {
        "type": "parquet",
        "connection": "lake",
        "path": "bench/events",
        "mapping": {"columns": COLUMNS},
    }
    deployed.task("POST", f"{source}/sinks", {"type": "table", "name": "Events", "table": table})
    url: str = deployed.call("GET", source)[1]["http"]["url"]
    return url


def _rows_of_sandbox(running: Service) -> int:
    try:
        return int(running.deployed.query(f'SELECT count(*) FROM "{TABLE}"')[0][0])
    except sqlite3.OperationalError:
        return 0  # there is no table before the first import


def _rows_of_lake(running: Service) -> int:
    from pyarrow.parquet import read_metadata

    objects = (running.deployed.root / _LAKE).rglob("*.parquet")
    return sum(read_metadata(path).num_rows for path in objects)


_CASES = {
    "nothing": _Case(_NONE, lambda running: running.url),
    "uploads, each second": _Case({**_NONE, **_UPLOADS}, lambda running: running.url),
    "uploads, and imports into the local Storage API": _Case(
        _IMPORTS, lambda running: running.url, _rows_of_sandbox
    ),
    "uploads, and imports into Parquet": _Case(_IMPORTS, _parquet_source, _rows_of_lake, "pyarrow"),
}


@attrs.frozen
class _Run:
    arrivals: Arrivals
    cpu: float
    rows: int


def section(setting: Setting) -> list[str]:
    """Return the section about latency during uploads and imports."""
    title = f"### Latency during uploads and imports, {CONNECTIONS} connections"
    runs: dict[str, _Run] = {}
    rate, missing = 0.0, ""
    try:
        for name, case in _CASES.items():
            if case.module and find_spec(case.module) is None:
                missing = f"\"{name}\" isn't measured: {case.module} isn't installed."
                continue
            folder = setting.data()
            lake = {"type": "parquet", "url": (folder / _LAKE).as_uri(), "workers": 1}
            settings = {
                **case.settings,
                "STREAM_TARGET_CONNECTIONS": json.dumps({"lake": lake}),
                "STREAM_TARGET_STAGING_URL": (folder / "staging").as_uri(),
            }
            with service(folder, bound=True, **settings) as running:
                url = case.url(running)
                peak = load(url, CONNECTIONS, WARM_UP_SECONDS, setting.single()).rate
                rate = rate or SHARE * peak
                runs[name] = _measure(setting, running, url, case, rate)
    except Missing as error:
        return [title, "", f"Not measured: {error}.", ""]
    first = next(iter(runs.values()))
    return [
        title,
        "",
        "| at the same time | records/s | p50 ms | p99 ms | largest ms | p99 ÷ the first "
        "| rows imported during the run | CPU s of all processes |",
        "|---|---|---|---|---|---|---|---|",
        *(
            f"| {name} | {run.arrivals.rate:,.0f} | {run.arrivals.p50:.1f} "
            f"| {run.arrivals.p99:.1f} | {run.arrivals.max:.1f} "
            f"| {run.arrivals.p99 / first.arrivals.p99:.2f} | {run.rows:,} | {run.cpu:.1f} |"
            for name, run in runs.items()
        ),
        "",
        f"The load is {SHARE:.0%} of the peak for {SECONDS} s, and doesn't wait for answers. The "
        "service, etcd, the local Storage API with its tables, and the process that writes "
        "Parquet all run on one core.",
        *(["", missing] if missing else []),
        "",
    ]


def _measure(setting: Setting, running: Service, url: str, case: _Case, rate: float) -> _Run:
    processes = below(running.deployed.running[0].process.pid)
    rows, before = case.rows(running) if case.rows else 0, usage(processes)
    run = arrivals(setting, url, rate, SECONDS, CONNECTIONS)
    used = usage(processes) - before
    return _Run(run, used.cpu, (case.rows(running) if case.rows else 0) - rows)
