"""``make abuse``: what bad clients do to the service, and to a good client meanwhile.

Each scenario runs against one deployment with everything in one process, while a good client pushes
records over 32 keep-alive connections as fast as they are answered. Shown are the memory of the
process, and rate and latency of the good client against the same without anybody else.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import http.client
import resource
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import attrs

from benchmarks.servers import service

__all__ = ["SCENARIOS", "main", "measure"]

GOOD_CONNECTIONS = 32
IDLE_CONNECTIONS = 10_000
SLOW_CONNECTIONS = 1000
OPENED_AND_CLOSED = 100_000
PIPELINED = 100_000
BOMB_BYTES = 1024**3
HUGE_BYTES = 1024**3
_JSON = {"Content-Type": "application/json"}
_CHUNK = b"10000\r\n" + b"x" * 65536 + b"\r\n"


@attrs.frozen
class Target:
    """Where to connect, what to ask for, and how hard.

    :ivar scale: 1 for the full size, more for a part of it.
    """

    host: str
    port: int
    path: str
    scale: int

    def head(self, *lines: str) -> bytes:
        """The head of a request; each line without its end."""
        fields = "".join(f"{line}\r\n" for line in lines)
        return f"POST {self.path} HTTP/1.1\r\nHost: {self.host}\r\n{fields}\r\n".encode()

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self.host, self.port)


Scenario = Callable[[Target], Awaitable[str]]


async def idle(target: Target) -> str:
    """Keep-alive connections that send nothing."""
    streams = [await target.connect() for _ in range(IDLE_CONNECTIONS // target.scale)]
    await asyncio.sleep(3)
    for _, writer in streams:
        writer.close()
    return f"{len(streams):,} connections open"


async def slow(target: Target) -> str:
    """Bodies that come a byte per second."""
    streams = [await target.connect() for _ in range(SLOW_CONNECTIONS // target.scale)]
    for _, writer in streams:
        writer.write(target.head("Content-Length: 1000"))
    for _ in range(5):
        for _, writer in streams:
            writer.write(b"x")
        await asyncio.sleep(1)
    for _, writer in streams:
        writer.close()
    return f"{len(streams):,} connections"


async def bomb(target: Target) -> str:
    """A small gzip body that is a gigabyte."""
    body = _bomb(target.scale)
    statuses = [await _status(target, "Content-Encoding: gzip", body) for _ in range(5)]
    return f"{len(body):,} bytes: {_told(statuses)}"


async def chunked(target: Target) -> str:
    """A gigabyte of chunks without an announced length."""
    reader, writer = await target.connect()
    writer.write(target.head("Transfer-Encoding: chunked"))
    sent = 0
    with suppress(ConnectionError):
        while sent < HUGE_BYTES // target.scale and not writer.is_closing():
            writer.write(_CHUNK)
            await writer.drain()
            sent += 65536
            if reader.at_eof():
                break
    status = await _read_status(reader)
    writer.close()
    return f"{status} (after {sent:,} bytes the connection was closed)"


async def announced(target: Target) -> str:
    """An announced gigabyte."""
    reader, writer = await target.connect()
    writer.write(target.head(f"Content-Length: {HUGE_BYTES}"))
    status = await _read_status(reader)
    writer.close()
    return str(status)


async def open_and_close(target: Target) -> str:
    """Connections that are closed as soon as they are open."""
    count = OPENED_AND_CLOSED // target.scale
    refused = 0
    for start in range(0, count, 100):
        for made in await asyncio.gather(
            *(target.connect() for _ in range(start, min(start + 100, count))),
            return_exceptions=True,
        ):
            if isinstance(made, BaseException):
                refused += 1
            else:
                made[1].close()
    return f"{count:,} connections, {refused} refused"


async def never_reading(target: Target) -> str:
    """Requests sent ahead by a client that reads no answer."""
    _, writer = await target.connect()
    request = target.head("Content-Type: application/json", "Content-Length: 2") + b"{}"
    sent = 0
    try:
        for _ in range(PIPELINED // target.scale):
            writer.write(request)
            sent += 1
            await asyncio.wait_for(writer.drain(), 3)
    except (TimeoutError, ConnectionError):
        pass
    writer.transport.abort()
    return f"{sent:,} requests taken from it"


SCENARIOS: dict[str, Scenario] = {
    "idle connections": idle,
    "slow bodies, 1 byte/s": slow,
    "gzip bomb, 1 GiB": bomb,
    "chunked body, 1 GiB": chunked,
    "announced body, 1 GiB": announced,
    "connections opened and closed": open_and_close,
    "answers never read": never_reading,
}


@cache
def _bomb(scale: int) -> bytes:
    """Made before anything is measured: it keeps this process busy for seconds."""
    return gzip.compress(bytes(BOMB_BYTES // scale), 9)


async def _status(target: Target, header: str, body: bytes) -> int:
    reader, writer = await target.connect()
    writer.write(target.head(header, f"Content-Length: {len(body)}") + body)
    status = await _read_status(reader)
    writer.close()
    return status


async def _read_status(reader: asyncio.StreamReader) -> int:
    with suppress(ConnectionError, TimeoutError, ValueError, IndexError):
        line = await asyncio.wait_for(reader.readline(), 20)
        return int(line.split()[1])
    return 0


def _told(statuses: list[int]) -> str:
    return ", ".join(f"{statuses.count(status)} × {status}" for status in sorted(set(statuses)))


@attrs.define
class Good:
    """A client that behaves.

    :ivar latencies: of its requests, seconds.
    :ivar failures: answers other than 200.
    """

    target: Target
    latencies: list[float] = attrs.Factory(list)
    failures: int = 0
    running: bool = True

    async def push(self) -> None:
        """Push records over one connection until it is enough."""
        body = b'{"user":{"name":"good"}}'
        request = self.target.head("Content-Type: application/json", f"Content-Length: {len(body)}")
        request += body
        reader, writer = await self.target.connect()
        while self.running:
            start = time.monotonic()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].split()[0])
            await reader.readexactly(length)
            self.latencies.append(time.monotonic() - start)
            self.failures += b" 200 " not in head[:15]
        writer.close()


@attrs.frozen
class Row:
    """One scenario's figures; memory in MiB."""

    name: str
    outcome: str
    rate: float
    p99_ms: float
    failures: int
    memory: tuple[int, int, int]


async def measure(name: str, scenario: Scenario, target: Target, pid: int) -> Row:
    """Run a scenario beside the good client."""
    good = Good(target)
    before = peak = _memory(pid)
    pushing = [asyncio.ensure_future(good.push()) for _ in range(GOOD_CONNECTIONS)]
    start = time.monotonic()
    abusing = asyncio.ensure_future(scenario(target))
    while not abusing.done():
        await asyncio.wait([abusing], timeout=0.2)
        peak = max(peak, _memory(pid))
    seconds = time.monotonic() - start
    good.running = False
    await asyncio.gather(*pushing)
    latencies = sorted(good.latencies) or [0.0]
    return Row(
        name,
        abusing.result(),
        len(latencies) / seconds,
        1000 * latencies[int(len(latencies) * 0.99)],
        good.failures,
        (before, peak, _memory(pid)),
    )


def _memory(pid: int) -> int:
    """Resident memory, MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) // 1024
    raise RuntimeError("no VmRSS")


async def alone(target: Target) -> str:
    """Nobody else."""
    await asyncio.sleep(3)
    return "–"


async def _run(target: Target, pid: int) -> list[Row]:
    rows = [await measure("nobody else", alone, target, pid)]
    for name, scenario in SCENARIOS.items():
        rows.append(await measure(name, scenario, target, pid))
    rows.append(await measure("nobody else", alone, target, pid))
    return rows


def _report(rows: list[Row]) -> list[str]:
    base = statistics.median(row.rate for row in rows if row.name == "nobody else")
    lines = [
        "| beside the good client | outcome | good client: records/s | ÷ alone | p99 ms | not 200 "
        "| MiB before / peak / after |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.name} | {row.outcome} | {row.rate:,.0f} | {row.rate / base:.2f} "
        f"| {row.p99_ms:.0f} | {row.failures} | {' / '.join(map(str, row.memory))} |"
        for row in rows
    ]
    return lines


def run(scale: int) -> list[Row]:
    """All scenarios against a deployment of their own."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with (
        tempfile.TemporaryDirectory(prefix="stream-abuse-") as folder,
        service(Path(folder) / "data") as running,
    ):
        parts = urlsplit(running.url)
        connection = http.client.HTTPConnection(parts.netloc)
        for _ in range(3):  # the first records open the slice
            connection.request("POST", parts.path, b'{"user":{"name":"x"}}', _JSON)
            connection.getresponse().read()
        connection.close()
        _bomb(scale)
        target = Target(parts.hostname or "", parts.port or 0, parts.path, scale)
        pid = running.deployed.running[0].process.pid
        return asyncio.run(_run(target, pid))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--scale", type=int, default=1, help="a part of the full size, e.g. 100")
    print("\n".join(_report(run(parser.parse_args().scale))))


if __name__ == "__main__":
    main()
