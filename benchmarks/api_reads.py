"""``python -m benchmarks.api_reads``: reads of the API, compared with a bare Klein resource.

10,000 sinks of 100 sources are defined. The bare resource answers with the same bytes as the API.
Servers take turns on one core, the load is on another; only the ratios are comparable.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import attrs

from benchmarks.wrk import pinned
from tests.conftest import free_port
from tests.e2e.processes import TOKEN, Deployment, request, wait_for

__all__ = ["main"]

ROOT = Path(__file__).parents[1]
READS = {
    "GET source": "/v1/branches/456/sources/s50",
    "GET source, default branch": "/v1/branches/default/sources/s50",
    "GET sink": "/v1/branches/456/sources/s50/sinks/k50",
    "GET sources, 100 of 100": "/v1/branches/456/sources",
    "GET sources, 10 of 100": "/v1/branches/456/sources?limit=10",
    "GET sinks, 100 of 100": "/v1/branches/456/sources/s50/sinks",
}
_HEADERS = {"X-StorageApi-Token": TOKEN}
_SERVER_CPU, _LOAD_CPU = "0", "1"


@attrs.frozen
class Figure:
    """Answers per second, and the latencies measured by wrk."""

    rate: float
    p99: str
    errors: int


def load(url: str, connections: int, seconds: int) -> Figure:
    """Run wrk once."""
    header = f"X-StorageApi-Token: {TOKEN}"
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-H", header, url]
    output = subprocess.run(
        pinned(_LOAD_CPU, command), capture_output=True, text=True, check=True
    ).stdout
    rate = re.search(r"Requests/sec:\s+([\d.]+)", output)
    p99 = re.search(r"\s99%\s+(\S+)", output)
    errors = re.search(r"Non-2xx or 3xx responses: (\d+)", output)
    assert rate is not None and p99 is not None, output
    return Figure(float(rate[1]), p99[1], int(errors[1]) if errors else 0)


@contextmanager
def bare(folder: Path, body: bytes) -> Iterator[str]:
    """Run a bare Klein resource that answers with *body*; yield its URL without a path."""
    answer, port = folder / "answer.json", free_port()
    answer.write_bytes(body)
    command = [sys.executable, "-m", "benchmarks.bare_klein", str(port), str(answer)]
    process = subprocess.Popen(pinned(_SERVER_CPU, command), cwd=ROOT)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: _answers(url), "an answer of the bare resource")
        yield url
    finally:
        process.terminate()
        process.wait(10)


def _answers(url: str) -> bool:
    try:
        return request("GET", f"{url}/v1", None, {})[0] == 200
    except OSError:
        return False


class _Pinned(Deployment):
    """A deployment with the API on one core, and other processes on the other cores."""

    def command(self, components: Sequence[str]) -> list[str]:
        command = super().command(components)
        return pinned(_SERVER_CPU, command) if "api" in components else command


def start(folder: Path, sources: int, sinks: int) -> _Pinned:
    """Start a deployment with definitions."""
    deployed = _Pinned(folder)
    deployed.start("etcd")
    deployed.start("sandbox", node_id="sandbox")
    deployed.start("api", node_id="api")
    deployed.call("GET", f"{deployed.api}/v1/branches/default/sources")  # records the branch
    subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.definitions"),
            f"127.0.0.1:{deployed.ports['etcd']}",
            *("--namespace=e2e", f"--sources={sources}", f"--sinks={sinks}"),
        ],
        cwd=ROOT,
        check=True,
    )
    return deployed


def main() -> int:
    """Measure, and print the ratios; the exit code is 1 if answers were errors."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.api_reads", description=__doc__)
    parser.add_argument("--seconds", type=int, default=5, help="of each run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=32)
    options = parser.parse_args()
    results: dict[str, dict[str, list[Figure]]] = {name: {} for name in READS}
    with tempfile.TemporaryDirectory(prefix="stream-bench-") as folder:
        root = Path(folder)
        started = time.monotonic()
        deployed = start(root / "deployment", 100, 100)
        sys.stdout.write(f"defined 10,000 sinks in {time.monotonic() - started:.1f} s\n")
        try:
            for _ in range(options.rounds):
                for name, path in READS.items():
                    status, body = request("GET", deployed.api + path, None, _HEADERS)
                    assert status == 200, (path, body)
                    taken = results[name]
                    run = (options.connections, options.seconds)
                    taken.setdefault("stream", []).append(load(deployed.api + path, *run))
                    with bare(root, body) as url:
                        taken.setdefault("klein", []).append(load(url + path, *run))
        finally:
            deployed.stop_all()
    return report(results)


def report(results: dict[str, dict[str, list[Figure]]]) -> int:
    """Print a table; return 1 if there were errors."""
    lines = [
        "| read | stream/s | p99 | bare Klein/s | p99 | stream ÷ Klein |",
        "|---|---|---|---|---|---|",
    ]
    errors = 0
    for name, taken in results.items():
        ours, theirs = (
            statistics.median(run.rate for run in taken[server]) for server in ("stream", "klein")
        )
        errors += sum(run.errors for run in taken["stream"])
        lines.append(
            f"| {name} | {ours:,.0f} | {taken['stream'][-1].p99} | {theirs:,.0f} "
            f"| {taken['klein'][-1].p99} | {ours / theirs:.2f} |"
        )
    sys.stdout.write("\n".join(lines) + "\n" + json.dumps({"errors": errors}) + "\n")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
