"""A load generator that records which of its records were acknowledged.

Each connection has one request in flight; every record has a unique id. Unlike ``wrk`` it sends an
exact number of records, counts every answer, and writes the ids answered with 200 to a file, so
that they can be compared with the rows of the table:

    python -m benchmarks.load http://127.0.0.1:7000/stream/1/s/SECRET --records 100000
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from urllib.parse import urlsplit

import attrs

__all__ = ["Result", "run"]

_END_OF_HEAD = b"\r\n\r\n"
_RECONNECT_SECONDS = 0.05


@attrs.define
class Result:
    """The result of a run of load.

    :ivar statuses: number of answers by status; 0 for requests without an answer.
    :ivar latencies: seconds from sending to the answer, for all answered requests.
    :ivar acknowledged: ids of the records answered with 200.
    """

    statuses: Counter[int] = attrs.Factory(Counter)
    latencies: list[float] = attrs.Factory(list)
    acknowledged: list[str] = attrs.Factory(list)
    seconds: float = 0.0

    def percentile(self, share: float) -> float:
        """Return the latency in milliseconds below which *share* of the answers are."""
        ordered = sorted(self.latencies)
        return 1000 * ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0

    def summary(self) -> dict[str, object]:
        """Return the figures of the run, for its report."""
        return {
            "records": sum(self.statuses.values()),
            "statuses": {str(status): count for status, count in sorted(self.statuses.items())},
            "seconds": round(self.seconds, 3),
            "recordsPerSecond": round(sum(self.statuses.values()) / self.seconds),
            "p50ms": round(self.percentile(0.5), 2),
            "p99ms": round(self.percentile(0.99), 2),
            "p999ms": round(self.percentile(0.999), 2),
        }


class _Connection(asyncio.Protocol):
    """Sends the next record as soon as the last one is answered."""

    def __init__(self, load: _Load) -> None:
        self._load = load
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._record: str | None = None
        self._sent_at = 0.0
        self._has_sent = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._next()

    def _next(self) -> None:
        if self._load.pause and self._record is None and self._has_sent:
            asyncio.get_running_loop().call_later(self._load.pause, self._send)
        else:
            self._send()

    def _send(self) -> None:
        assert self._transport is not None
        if self._transport.is_closing():
            return  # closed without a request in flight: `connection_lost` continues
        self._has_sent = True
        self._record = next(self._load.records, None)
        if self._record is None:
            self._transport.close()
            return
        self._sent_at = time.perf_counter()
        self._transport.write(self._load.request(self._record))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, separator, rest = self._buffer.partition(_END_OF_HEAD)
        if not separator:
            return
        length = _content_length(head)
        if len(rest) < length:
            return
        self._buffer = rest[length:]
        self._answered(int(head[9:12]))
        if b"connection: close" in head.lower():
            assert self._transport is not None
            self._transport.close()
        else:
            self._next()

    def _answered(self, status: int) -> None:
        assert self._record is not None
        result = self._load.result
        result.statuses[status] += 1
        result.latencies.append(time.perf_counter() - self._sent_at)
        if status == 200:
            result.acknowledged.append(self._record)
        self._record = None

    def connection_lost(self, error: Exception | None) -> None:
        if self._record is not None:
            self._load.result.statuses[0] += 1
        self._load.disconnected()


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        if line[:15].lower() == b"content-length:":
            return int(line[15:])
    return 0


class _Load:
    def __init__(self, url: str, records: Iterator[str], padding: int, pause: float = 0.0) -> None:
        self.pause = pause
        parts = urlsplit(url)
        self.host, self.port = parts.hostname or "127.0.0.1", parts.port or 80
        self.records = records
        self.result = Result()
        self._head = (
            f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
            "Content-Type: application/json\r\nContent-Length: "
        ).encode()
        self._padding = "x" * padding
        self._open = 0
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tasks: set[asyncio.Task[None]] = set()

    def request(self, record: str) -> bytes:
        body = json.dumps({"id": record, "padding": self._padding}).encode()
        return self._head + str(len(body)).encode() + _END_OF_HEAD + body

    async def run(self, connections: int) -> None:
        self._open = connections
        for _ in range(connections):
            self._connect()
        await self._done

    def _connect(self) -> None:
        task = asyncio.get_running_loop().create_task(self._connected())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connected(self) -> None:
        """Connect, with retries until there is a listener."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                await loop.create_connection(lambda: _Connection(self), self.host, self.port)
            except OSError:
                await asyncio.sleep(_RECONNECT_SECONDS)
            else:
                return

    def disconnected(self) -> None:
        record = next(self.records, None)
        if record is not None:
            self.records = _chain(record, self.records)
            self._connect()
            return
        self._open -= 1
        if not self._open and not self._done.done():
            self._done.set_result(None)


def _chain(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


async def _run(
    url: str, ids: Iterator[str], connections: int, padding: int, pause: float
) -> Result:
    load = _Load(url, ids, padding, pause)
    started = time.perf_counter()
    await load.run(connections)
    load.result.seconds = time.perf_counter() - started
    return load.result


def run(
    url: str,
    *,
    records: int,
    connections: int = 64,
    padding: int = 0,
    prefix: str = "",
    pause: float = 0.0,
    until: Path | None = None,
) -> Result:
    """Send *records* records and wait for all answers.

    :param padding: bytes of padding in each body.
    :param prefix: prefix of the ids.
    :param pause: seconds between an answer and the next record of a connection.
    :param until: a file whose existence ends the load early.
    """
    ids = takewhile(
        lambda _: until is None or not until.exists(), (f"{prefix}{i}" for i in range(records))
    )
    return asyncio.run(_run(url, ids, connections, padding, pause))


def main() -> None:
    """Send records and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("url")
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--padding", type=int, default=0, help="bytes of filling in each body")
    parser.add_argument("--prefix", default="", help="of the ids")
    parser.add_argument("--acknowledged", type=Path, help="file for the acknowledged ids")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds after each answer")
    parser.add_argument("--until", type=Path, help="end when this file is there")
    arguments = parser.parse_args()
    result = run(
        arguments.url,
        records=arguments.records,
        connections=arguments.connections,
        padding=arguments.padding,
        prefix=arguments.prefix,
        pause=arguments.pause,
        until=arguments.until,
    )
    if arguments.acknowledged:
        arguments.acknowledged.write_text("\n".join(result.acknowledged) + "\n")
    json.dump(result.summary(), sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
