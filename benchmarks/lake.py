"""``python -m benchmarks.lake``: slices to Parquet, compared with pyarrow and DuckDB.

All three read the same gzipped CSV from the disk and write Parquet with zstd to the disk,
alternating in one run. It also measures the additional memory of the converting process, and the
lag of the node's reactor meanwhile.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import ensureDeferred
from twisted.internet.task import LoopingCall

from benchmarks.markdown import table
from stream.target.lake.workers import Workers

__all__ = ["COLUMNS", "chunks_of", "main", "write_slice"]

reactor: Any = _reactor

COLUMNS = {
    "id": "uuid",
    "at": "timestamp",
    "total": "decimal(18,2)",
    "qty": "integer",
    "who": "string",
    "body": "json",
}
_ROW = (
    '"0190a1b2-{0:04x}-7000-8000-{1:012x}","2026-11-28T{2:02}:{3:02}:{4:02}.{5:06}Z","{6}.{7:02}",'
    '{8},"customer {9}","{{""event"":""order"",""number"":{1},""price"":{6}.{7:02},""note"":'
    '""some text that is longer, with a comma""}}"\n'
)
_TICK = 0.02
_BLOCK_ROWS = 20_000

_PYARROW = """
import sys, json, pyarrow as pa, pyarrow.parquet as pq
from pyarrow import csv
source, target, types = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
named = {"uuid": pa.string(), "timestamp": pa.timestamp("us", tz="UTC"), "integer": pa.int64(),
    "decimal(18,2)": pa.decimal128(18, 2), "string": pa.string(), "json": pa.string()}
reader = csv.open_csv(pa.input_stream(source, compression="gzip"),
    csv.ReadOptions(column_names=list(types)), csv.ParseOptions(newlines_in_values=True),
    csv.ConvertOptions(column_types={name: named[type] for name, type in types.items()},
        null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False))
with pq.ParquetWriter(target, reader.schema, compression="zstd") as writer:
    for batch in reader:
        writer.write_batch(batch)
"""
_DUCKDB = """
import sys, json, duckdb
source, target, types = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
named = {"uuid": "VARCHAR", "timestamp": "TIMESTAMPTZ", "integer": "BIGINT",
    "decimal(18,2)": "DECIMAL(18,2)", "string": "VARCHAR", "json": "VARCHAR"}
columns = {name: named[type] for name, type in types.items()}
connection = duckdb.connect(config={"threads": 2})
connection.execute("SET enable_progress_bar = false")
connection.execute("SET preserve_insertion_order = true")
connection.execute(f"COPY (SELECT * FROM read_csv('{source}', header = false, columns = {columns}, "
    f"allow_quoted_nulls = false, parallel = true)) TO '{target}' (FORMAT parquet, CODEC zstd)")
"""


def write_slice(path: Path, mebibytes: int) -> tuple[int, int]:
    """Write a gzipped CSV of a given size; return its rows and bytes."""
    block = "".join(
        _ROW.format(
            n % 65536,
            n,
            n % 24,
            n % 60,
            n % 59,
            n,
            n % 997,
            n % 100,
            f'"{n % 7}"' if n % 5 else "",
            n % 1000,
        )
        for n in range(_BLOCK_ROWS)
    ).encode()
    times = max(1, mebibytes * 1024 * 1024 // len(block))
    member = gzip.compress(block, 6)
    with path.open("wb") as file:
        for _ in range(times):
            file.write(member)
    return times * _BLOCK_ROWS, times * len(block)


def _status(pid: int, name: str) -> int:
    """Return a size of the process, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0


class _Measured:
    """The figures of one run.

    :ivar seconds: wall-clock time.
    :ivar processor: processor time of all processes, in seconds.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.seconds = self.processor = 0.0


def _child_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _other(name: str, program: str, source: Path, root: Path) -> _Measured:
    measured, target = _Measured(name), root / f"{name}.parquet"
    began, before = time.monotonic(), _child_seconds()
    command = [sys.executable, "-c", program, str(source), str(target), json.dumps(COLUMNS)]
    subprocess.run(command, check=True)
    descriptor = os.open(target, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    measured.seconds = time.monotonic() - began
    measured.processor = _child_seconds() - before
    return measured


def chunks_of(path: Path) -> Callable[[], Iterator[bytes]]:
    """Return the file's content as an iterator of chunks."""

    def read() -> Iterator[bytes]:
        with path.open("rb", buffering=0) as file:
            while chunk := file.read(1024 * 1024):
                yield chunk

    return read


def _seconds_of(pid: int) -> float:
    return time.clock_gettime(~pid << 3 | 2)  # clock_getcpuclockid(3)


async def _ours(source: Path, small: Path, root: Path) -> tuple[_Measured, dict[str, float]]:
    workers: Any = Workers(reactor, "stream.target.parquet.work", 1)
    workers.startService()
    lags: list[float] = []
    last = [reactor.seconds()]

    def tick() -> None:
        now = reactor.seconds()
        lags.append(now - last[0] - _TICK)
        last[0] = now

    def job(number: int) -> dict[str, Any]:
        return {
            "address": {"scheme": "file", "prefix": str(root / "lake")},
            "credentials": "",
            "path": "orders",
            "importId": str(number),
            "file": "f",
            "columns": [{"name": name, "type": type} for name, type in COLUMNS.items()],
            "partitionBy": '["day(at)"]',
            "timeColumn": "at",
            "codec": "zstd",
            "rowGroupRows": 1_000_000,
            "compression": "gzip",
        }

    measured = _Measured("stream")
    try:
        await workers.run(job(0), [chunks_of(small)])
        (worker,) = workers._all
        pid = worker.transport.pid
        idle, own = _status(pid, "VmRSS"), _status(os.getpid(), "VmRSS")
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # resets the peak
        Path("/proc/self/clear_refs").write_text("5")
        ticking = LoopingCall(tick)
        last[0] = reactor.seconds()
        ticking.start(_TICK, now=False)
        began, before = time.monotonic(), _seconds_of(pid) + time.process_time()
        await workers.run(job(1), [chunks_of(source)])
        measured.seconds = time.monotonic() - began
        measured.processor = _seconds_of(pid) + time.process_time() - before
        ticking.stop()
        memory = {
            "idle": idle,
            "over": _status(pid, "VmHWM") - idle,
            "node": _status(os.getpid(), "VmHWM") - own,
            "lag": max(lags, default=0.0),
            "p99": sorted(lags)[int(len(lags) * 0.99)] if lags else 0.0,
        }
    finally:
        await workers.stopService()
    return measured, memory


async def _run(mebibytes: int, rounds: int, root: Path) -> str:
    source, small = root / "source.csv.gz", root / "small.csv.gz"
    rows, size = write_slice(source, mebibytes)
    write_slice(small, 1)
    found: dict[str, list[_Measured]] = {}
    memory: dict[str, float] = {}
    for _ in range(rounds):
        shutil.rmtree(root / "lake", ignore_errors=True)
        ours, memory = await _ours(source, small, root)
        for each in (
            ours,
            _other("pyarrow", _PYARROW, source, root),
            _other("duckdb", _DUCKDB, source, root),
        ):
            found.setdefault(each.name, []).append(each)
    best = {name: min(each, key=lambda measured: measured.seconds) for name, each in found.items()}
    mine = best["stream"]
    lines = [
        (
            name,
            f"{size / 2**20 / each.seconds:.0f}",
            f"{each.processor * 2**30 / size:.1f}",
            f"{each.seconds / mine.seconds:.2f}",
            f"{each.processor / mine.processor:.2f}",
        )
        for name, each in best.items()
    ]
    head = ("", "MiB/s", "CPU s per GiB", "stream ÷ it, by the clock", "by CPU time")
    mib = 2**20
    return (
        f"{rows} rows, {size / mib:.0f} MiB of CSV, load {os.getloadavg()[0]:.1f}\n\n"
        f"{table(head, lines)}\n"
        f"The process that converts: {memory['idle'] / mib:.0f} MiB when idle, "
        f"{memory['over'] / mib:.0f} MiB more at its peak; the node {memory['node'] / mib:.0f} MiB "
        f"more. Lag of the reactor: {memory['lag'] * 1000:.0f} ms at most, "
        f"{memory['p99'] * 1000:.0f} ms at p99.\n"
    )


def main() -> int:
    """Run the measurement and print the report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lake", description=__doc__)
    parser.add_argument("--mib", type=int, default=2048, help="of CSV")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="stream-lake-", dir="/var/tmp"))
    running = ensureDeferred(_run(options.mib, options.rounds, root))
    code = [1]

    def done(text: str) -> None:
        sys.stdout.write(text)
        code[0] = 0

    running.addCallback(done)
    running.addErrback(lambda failure: failure.printTraceback())
    running.addBoth(lambda _: reactor.stop())
    reactor.run()
    shutil.rmtree(root)
    return code[0]


if __name__ == "__main__":
    sys.exit(main())
