"""The load of open consoles on the service, and the memory of a console over hours.

python -m benchmarks.consoles rate [--consoles=100]
python -m benchmarks.consoles memory [--minutes=60] [--rate=10000]
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import attrs

from benchmarks.servers import COLUMNS, ROOT
from benchmarks.setting import Setting
from benchmarks.wrk import LOAD_CPU, SERVER_CPU, bound, load
from tests.e2e.processes import TOKEN, deployment

__all__ = ["main"]

HOT = ("http-source", "storage-writer", "storage-reader", "storage-coordinator")
CONNECTIONS = 256
WARM_UP_SECONDS = 3
RELOAD_SECONDS = 30.0
"""Interval at which a console reads all sources, in addition to its stream."""
PIPELINE_SECONDS = 1.5
"""Interval at which the page of a sink reads its files while records arrive."""
PIPELINE_SHARE = 5
"""One of this many consoles shows the page of a sink, the others the list of sources."""
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
BATCH = 100
REJECTED_EVERY = 50
"""One of this many records doesn't fit the mapping."""
COMPARED_MINUTES = 10
"""Memory in the first minutes is compared with that in the same number of last minutes."""
SPARING = {
    "STREAM_STORAGE_LEVEL_STAGING_UPLOAD_TRIGGER_INTERVAL": "10s",
    "STREAM_STORAGE_LEVEL_TARGET_IMPORT_TRIGGER_INTERVAL": "30s",
    "STREAM_STORAGE_LEVEL_TARGET_IMPORT_TRIGGER_COUNT": "10000000",
}
"""Settings for hours of load: rarer files leave the processor to records and pages."""

_BRANCH = "/v1/branches/default"
_SINK = f"{_BRANCH}/sources/my-source/sinks/my-sink"


@attrs.frozen
class Run:
    """One run of the load.

    :ivar rate: records a second.
    :ivar cpu: processor time of the source's process per record, in microseconds.
    """

    rate: float
    cpu: float


def measure_rate(folder: Path, consoles: int, seconds: int, rounds: int) -> None:
    """Print the rate of single records and the cost of one, with and without *consoles*.

    The source has a core of its own; the API, etcd, the consoles and the load share the other.
    """
    setting = Setting(folder, seconds, rounds)
    runs: dict[int, list[Run]] = {0: [], consoles: []}
    with deployment(folder / "data") as deployed:
        with bound(LOAD_CPU):
            deployed.start("etcd", "sandbox", "api", node_id="api")
        with bound(SERVER_CPU):
            source = deployed.start(*HOT, node_id="hot")
        url = deployed.define(COLUMNS)
        load(url, CONNECTIONS, WARM_UP_SECONDS, setting.single())
        for round in range(rounds):
            for number in sorted(runs, reverse=round % 2 == 1):
                with bound(LOAD_CPU), _opened(deployed.api, number):
                    before = _cpu_seconds(source.process.pid)
                    found = load(url, CONNECTIONS, seconds, setting.single())
                    cpu = _cpu_seconds(source.process.pid) - before
                runs[number].append(Run(found.rate, 1e6 * cpu / (found.rate * seconds)))
    print("| consoles | records/s of each run | µs of the source's process for a record |")
    print("|---|---|---|")
    for number, each in runs.items():
        rates = " ".join(f"{run.rate:,.0f}" for run in each)
        print(f"| {number} | {rates} | {' '.join(f'{run.cpu:.1f}' for run in each)} |")
    pairs = list(zip(runs[0], runs[consoles], strict=True))
    rate = statistics.median(with_.rate / without.rate for without, with_ in pairs)
    cpu = statistics.median(with_.cpu / without.cpu for without, with_ in pairs)
    print(f"median of the pairs: rate × {rate:.3f}, CPU time × {cpu:.3f}")


def _cpu_seconds(pid: int) -> float:
    """Return the processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def _opened(api: str, number: int) -> Iterator[None]:
    """Open this many consoles until the block ends."""
    if not number:
        yield
        return
    command = [sys.executable, "-m", "benchmarks.consoles", "open", api, str(number)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"all are open\n"
            yield
        finally:
            process.kill()


async def _open(api: str, number: int) -> None:
    """Send the requests of *number* consoles until cancelled."""
    host = urlsplit(api).netloc
    started = [asyncio.Event() for _ in range(number)]
    work = []
    for place, event in enumerate(started):
        work.append(asyncio.create_task(_follow(host, event)))
        path = f"{_BRANCH}/aggregation/sources?limit=100"
        first = RELOAD_SECONDS * place / number
        work.append(asyncio.create_task(_repeat(host, path, RELOAD_SECONDS, first)))
        if place % PIPELINE_SHARE == 0:
            path = f"{_SINK}/files?imports=12"
            first = PIPELINE_SECONDS * place / number
            work.append(asyncio.create_task(_repeat(host, path, PIPELINE_SECONDS, first)))
    await asyncio.gather(*(event.wait() for event in started))
    print("all are open", flush=True)
    await asyncio.gather(*work)


async def _ask(host: str, path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    name, _, port = host.partition(":")
    reader, writer = await asyncio.open_connection(name, int(port))
    head = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nX-StorageApi-Token: {TOKEN}\r\n"
    writer.write(f"{head}Connection: close\r\n\r\n".encode())
    status = await reader.readline()
    assert b" 200 " in status, (path, status)
    return reader, writer


async def _follow(host: str, started: asyncio.Event) -> None:
    reader, _ = await _ask(host, f"{_BRANCH}/live")
    while line := await reader.readline():
        if line.startswith(b"event: counters"):
            started.set()
    raise ConnectionError("the live stream has ended")


async def _repeat(host: str, path: str, seconds: float, first: float) -> None:
    await asyncio.sleep(first)
    while True:
        reader, writer = await _ask(host, path)
        await reader.read(-1)
        writer.close()
        await asyncio.sleep(seconds)


def measure_memory(folder: Path, minutes: int, rate: int) -> None:
    """Print the memory of the console's pages once a minute.

    At the end the first minutes of each page are compared with the last ones.
    """
    script = _walker(folder)
    chromium = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if chromium is None:
        raise SystemExit(f"Missing the program {CHROMIUM[0]}")
    samples: list[Sample] = []
    with deployment(folder / "data", **SPARING) as deployed:
        deployed.start("etcd", "sandbox", "api", node_id="api")
        deployed.start(*HOT, node_id="hot")
        url = deployed.define(COLUMNS)
        arguments = (deployed.api, TOKEN, chromium, "my-source", "my-sink", str(minutes))
        with _sent(url, rate) as sent:
            pages = subprocess.Popen(
                ["node", str(script), *arguments], stdout=subprocess.PIPE, text=True
            )
            with pages:
                assert pages.stdout is not None
                for line in pages.stdout:
                    found = Sample(time.monotonic(), sent[0], **json.loads(line))
                    _show(found, samples[-1] if samples else None)
                    samples.append(found)
    _compare(samples)


@attrs.frozen
class Sample:
    """The memory of the pages at one time.

    :ivar sent: number of records sent so far.
    :ivar pages: ``bytes``, ``nodes`` and ``listeners`` by page.
    """

    at: float
    sent: int
    minute: int
    pages: dict[str, dict[str, int]]
    problems: list[str]


def _show(found: Sample, last: Sample | None) -> None:
    shown = "; ".join(
        f"{name} {each['bytes'] / 1e6:.2f} MB, {each['nodes']} nodes, {each['listeners']} listeners"
        for name, each in found.pages.items()
    )
    rate = f", {_rate(last, found):,.0f}/s" if last else ""
    print(f"minute {found.minute}, {found.sent:,} records{rate}: {shown}", flush=True)
    if found.problems:
        print(f"  errors: {found.problems}", flush=True)


def _rate(first: Sample, last: Sample) -> float:
    """Return the records per second between two samples."""
    return (last.sent - first.sent) / (last.at - first.at)


def _compare(samples: Sequence[Sample]) -> None:
    """Print a table of the medians of the first and the last minutes of each page."""
    # The first sample is taken before the pages have shown a record.
    first, last = samples[1 : COMPARED_MINUTES + 1], samples[-COMPARED_MINUTES:]
    if not first:
        return
    print(f"{samples[-1].sent:,} records, {_rate(samples[0], samples[-1]):,.0f}/s")
    print("| page | MB | nodes | listeners |")
    print("|---|---|---|---|")
    for name in samples[0].pages:
        cells = []
        for what, form in (("bytes", "{:.2f}"), ("nodes", "{:,.0f}"), ("listeners", "{:,.0f}")):
            scale = 1e6 if what == "bytes" else 1
            medians = (
                form.format(statistics.median(each.pages[name][what] for each in part) / scale)
                for part in (first, last)
            )
            cells.append(" → ".join(medians))
        print(f"| {name} | {' | '.join(cells)} |")


def _walker(folder: Path) -> Path:
    """Return the script with its imports."""
    place = folder / "walker"
    shutil.copytree(ROOT / "tests" / "e2e" / "console", place)
    install = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    subprocess.run(install, cwd=place, check=True, capture_output=True)
    subprocess.run([sys.executable, "-m", "tools.console"], cwd=ROOT, check=True)
    return place / "memory.mjs"


@contextmanager
def _sent(url: str, rate: int) -> Iterator[list[int]]:
    """Send batches at *rate* records a second; return the number of records."""
    ended = threading.Event()
    sent = [0]
    parts = urlsplit(url)
    path = f"{parts.path}?batch=true"

    bodies = [_batch(first) for first in range(0, REJECTED_EVERY * BATCH, BATCH)]

    def send() -> None:
        with closing(http.client.HTTPConnection(parts.netloc, timeout=60)) as connection:
            due = time.monotonic()
            for body in itertools.cycle(bodies):
                due += BATCH / rate
                connection.request("POST", path, body, {"Content-Type": "application/x-ndjson"})
                answer = connection.getresponse()
                answer.read()
                # Refused records aren't counted: the rate in the output shows them.
                sent[0] += BATCH if answer.status < 300 else 0
                if ended.wait(max(0.0, due - time.monotonic())):
                    return

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    try:
        yield sent
    finally:
        ended.set()
        sender.join(30)


def _batch(first: int) -> bytes:
    lines = (
        {"number": number} | ({"user": {"name": "Ada"}} if number % REJECTED_EVERY else {})
        for number in range(first, first + BATCH)
    )
    return b"\n".join(json.dumps(line).encode() for line in lines)


def main() -> None:
    """Run the benchmark named on the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.consoles", description=(__doc__ or "").partition("\n")[0]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    of_rate = commands.add_parser("rate", help="of single records, with and without consoles")
    of_rate.add_argument("--consoles", type=int, default=100)
    of_rate.add_argument("--seconds", type=int, default=8, help="of each run")
    of_rate.add_argument("--rounds", type=int, default=3)
    of_memory = commands.add_parser("memory", help="of pages, next to a busy source")
    of_memory.add_argument("--minutes", type=int, default=60)
    of_memory.add_argument("--rate", type=int, default=10_000, help="records per second")
    opened = commands.add_parser("open", help="what the first measurement starts")
    opened.add_argument("api")
    opened.add_argument("number", type=int)
    options = parser.parse_args()
    if options.command == "open":
        asyncio.run(_open(options.api, options.number))
        return
    with tempfile.TemporaryDirectory(prefix="stream-consoles-") as folder:
        if options.command == "rate":
            measure_rate(Path(folder), options.consoles, options.seconds, options.rounds)
        else:
            measure_memory(Path(folder), options.minutes, options.rate)


if __name__ == "__main__":
    main()
