"""``make bench``: the service against bare frameworks, in turn, in the same run.

Every server is bound to one core and the load to another. The figures that count are the ratios:
machines differ, and the same machine differs from minute to minute.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import attrs

from benchmarks.baselines import BASELINES
from tests.conftest import free_port
from tests.e2e.processes import ALL, Deployment

__all__ = ["main"]

ROOT = Path(__file__).parents[1]
REPORT = ROOT / "docs" / "performance.md"
MARK = "<!-- figures -->"
BODY_BYTES = 1024
COLUMNS: list[dict[str, object]] = [
    {"type": "uuid", "name": "id"},
    {"type": "datetime", "name": "at"},
    {"type": "path", "name": "user", "path": "user.name"},
]
_SERVER_CPU, _LOAD_CPU = "0", "1"
_DEFAULT_TIMING = {
    "STREAM_STORAGE_LEVEL_STAGING_OPERATOR_SLICE_ROTATION_CHECK_INTERVAL": "1s",
    "STREAM_STORAGE_LEVEL_STAGING_OPERATOR_SLICE_UPLOAD_CHECK_INTERVAL": "2s",
    "STREAM_STORAGE_LEVEL_STAGING_UPLOAD_MIN_INTERVAL": "10s",
    "STREAM_STORAGE_LEVEL_STAGING_UPLOAD_TRIGGER_INTERVAL": "30s",
    "STREAM_STORAGE_LEVEL_TARGET_OPERATOR_FILE_ROTATION_CHECK_INTERVAL": "1s",
    "STREAM_STORAGE_LEVEL_TARGET_OPERATOR_FILE_IMPORT_CHECK_INTERVAL": "1s",
    "STREAM_STORAGE_LEVEL_TARGET_IMPORT_MIN_INTERVAL": "60s",
    "STREAM_STORAGE_LEVEL_TARGET_IMPORT_TRIGGER_INTERVAL": "60s",
}


@attrs.frozen
class Figure:
    """One run of the load: records answered with 2xx per second, and latencies in ms."""

    rate: float
    p50: float
    p99: float
    errors: int


def pinned(cpu: str, command: Sequence[str]) -> list[str]:
    """*command* on one core, if the machine has two."""
    if (os.cpu_count() or 1) < 2 or not shutil.which("taskset"):
        return list(command)
    return ["taskset", "-c", cpu, *command]


def load(url: str, connections: int, seconds: int, script: Path) -> Figure:
    """Run wrk once."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", str(script)]
    output = subprocess.run(
        pinned(_LOAD_CPU, [*command, url]), capture_output=True, text=True, check=True
    ).stdout
    found = re.search(r"Requests/sec:\s+([\d.]+)", output)
    errors = re.search(r"Non-2xx or 3xx responses: (\d+)", output)
    assert found is not None, output
    return Figure(
        float(found[1]),
        _latency(output, "50%"),
        _latency(output, "99%"),
        int(errors[1]) if errors else 0,
    )


def _latency(output: str, share: str) -> float:
    found = re.search(rf"\s{share}\s+([\d.]+)(us|ms|s)", output)
    if found is None:
        return 0.0
    return float(found[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[found[2]]


def _script(folder: Path) -> Path:
    padding = "x" * (BODY_BYTES - len('{"user":{"name":"Ada"},"padding":""}'))
    body = json.dumps({"user": {"name": "Ada"}, "padding": padding})
    path = folder / "post.lua"
    path.write_text(
        'wrk.method = "POST"\nwrk.headers["Content-Type"] = "application/json"\n'
        f"wrk.body = [[{body}]]\n"
    )
    return path


@contextmanager
def baseline(name: str) -> Iterator[str]:
    """A running baseline; its URL."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.baselines", name, str(port)]
    process = subprocess.Popen(pinned(_SERVER_CPU, command), cwd=ROOT)
    url = f"http://127.0.0.1:{port}/"
    try:
        _wait(url)
        yield url
    finally:
        process.terminate()
        process.wait(10)


def _wait(url: str) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(urllib.request.Request(url, data=b"{}"), timeout=1).close()
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"{url} does not answer")


class _Pinned(Deployment):
    """The service on one core."""

    def command(self, components: Sequence[str]) -> list[str]:
        return pinned(_SERVER_CPU, super().command(components))


@contextmanager
def service(folder: Path) -> Iterator[str]:
    """The running service with a source and a sink; the source's URL."""
    deployed = _Pinned(folder, dict(_DEFAULT_TIMING))
    try:
        deployed.start(*ALL)
        yield deployed.define(COLUMNS)
    finally:
        deployed.stop_all()


def measure(connections: int, seconds: int, rounds: int) -> dict[str, list[Figure]]:
    """The service and the baselines in turn, *rounds* times."""
    figures: dict[str, list[Figure]] = {}
    with tempfile.TemporaryDirectory(prefix="stream-bench-") as folder:
        script = _script(Path(folder))
        for round_ in range(rounds):
            for name in BASELINES:
                with baseline(name) as url:
                    figures.setdefault(name, []).append(load(url, connections, seconds, script))
            with service(Path(folder) / str(round_)) as url:
                load(url, connections, 2, script)  # the first records open the slice
                figures.setdefault("stream", []).append(load(url, connections, seconds, script))
    return figures


def report(connections: int, figures: dict[str, list[Figure]]) -> list[str]:
    """The lines of the table."""
    ours = statistics.median(f.rate for f in figures["stream"])
    lines = [
        f"### Single records, {connections} keep-alive connections, {BODY_BYTES} B JSON",
        "",
        "| server | records/s, median (range) | p50 ms | p99 ms | errors | stream ÷ it |",
        "|---|---|---|---|---|---|",
    ]
    for name, runs in figures.items():
        rates = sorted(run.rate for run in runs)
        median = statistics.median(rates)
        ratio = f"{ours / median:.2f}" if name != "stream" else ""
        lines.append(
            f"| {name} | {median:,.0f} ({rates[0]:,.0f}–{rates[-1]:,.0f}) "
            f"| {statistics.median(r.p50 for r in runs):.1f} "
            f"| {statistics.median(r.p99 for r in runs):.1f} "
            f"| {sum(r.errors for r in runs)} | {ratio} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=8, help="of each run")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--connections", type=int, nargs="*", default=[64, 256])
    parser.add_argument("--print", action="store_true", help="don't write docs/performance.md")
    arguments = parser.parse_args()
    if not shutil.which("wrk"):
        raise SystemExit("make bench needs wrk (Debian: apt-get install wrk)")
    stamp = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    lines = [
        f"Measured {stamp} on {os.cpu_count()} cores, Python {platform.python_version()}.",
        "",
    ]
    for connections in arguments.connections:
        figures = measure(connections, arguments.seconds, arguments.rounds)
        lines += [*report(connections, figures), ""]
        print("\n".join(report(connections, figures)), flush=True)
    if not arguments.print:
        before = REPORT.read_text().partition(MARK)[0]
        REPORT.write_text(f"{before}{MARK}\n\n" + "\n".join(lines))


if __name__ == "__main__":
    main()
