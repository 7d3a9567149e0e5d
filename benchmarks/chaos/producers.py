"""Producers of numbered records at a constant rate, with a journal of all answers.

They run in a separate process, independent of the killer. A record is sent to any source that
accepts a connection, as behind a load balancer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from pathlib import Path
from typing import TextIO
from urllib.parse import SplitResult, urlsplit

import attrs

__all__ = ["CUT_OFF", "SILENT", "Attempt", "read_journal"]

CUT_OFF = 0
"""The connection ended between the record and its answer."""
SILENT = -1
"""There was no answer within the timeout."""

_SILENCE_SECONDS = 40.0
_RECONNECT_SECONDS = 0.1
_RETRY_SECONDS = 0.5
_LARGEST_BURST_SECONDS = 1.0
_ACKNOWLEDGED = 200


@attrs.frozen
class Attempt:
    """An attempt to send a record.

    :ivar status: status of the answer, `CUT_OFF` or `SILENT`.
    :ivar source: number of the source.
    :ivar sent_at: seconds since the epoch.
    :ivar answered_at: seconds since the epoch, also without an answer.
    """

    number: int
    status: int
    source: int
    sent_at: float
    answered_at: float

    def line(self) -> str:
        """Return the attempt as a line of the journal."""
        return (
            f"{self.number} {self.status} {self.source} {self.sent_at:.6f} {self.answered_at:.6f}\n"
        )

    @classmethod
    def of_line(cls, line: str) -> Attempt:
        """Return the attempt in a line of the journal."""
        number, status, source, sent_at, answered_at = line.split()
        return cls(int(number), int(status), int(source), float(sent_at), float(answered_at))


def read_journal(path: Path) -> list[Attempt]:
    """Return all attempts in the order of their ends."""
    return [Attempt.of_line(line) for line in path.read_text().splitlines()]


class _Producers:
    """Producers with some connections each.

    :param bad: every *bad*-th record can't be mapped, if the mapping is strict; 0 for none.
    :ivar retry_until: when to give up failed records; ``None`` to send records once.
    """

    def __init__(
        self,
        urls: list[str],
        rate: float,
        seconds: float,
        retry_seconds: float,
        journal: TextIO,
        bad: int = 0,
    ) -> None:
        self._bad = bad
        self._urls = [urlsplit(url) for url in urls]
        self._rate = rate
        self._end = time.monotonic() + seconds
        self._retry_until = self._end + retry_seconds if retry_seconds else None
        self._journal = journal
        self._next_number = 0
        self._next_moment = time.monotonic()

    async def run(self, connections: int) -> None:
        await asyncio.gather(*(self._produce(number) for number in range(connections)))

    async def _produce(self, worker: int) -> None:
        connection = _Connection(self._urls, worker, self._bad)
        try:
            while (number := await self._turn()) is not None:
                await self._deliver(connection, number)
        finally:
            connection.close()

    async def _turn(self) -> int | None:
        """Return the next record's number when it is time to send it."""
        now = time.monotonic()
        moment = max(self._next_moment, now - _LARGEST_BURST_SECONDS)
        if max(moment, now) >= self._end:
            return None
        self._next_moment = moment + 1 / self._rate
        number, self._next_number = self._next_number, self._next_number + 1
        if moment > now:
            await asyncio.sleep(moment - now)
        return number

    async def _deliver(self, connection: _Connection, number: int) -> None:
        while True:
            attempt = await connection.send(number, self._retry_until or self._end)
            if attempt is None:
                return  # no listener: the record was not sent
            self._journal.write(attempt.line())
            if attempt.status == _ACKNOWLEDGED or self._retry_until is None:
                return
            if time.monotonic() >= self._retry_until:
                return
            connection.try_another_source()
            await asyncio.sleep(_RETRY_SECONDS)


class _Connection:
    """A connection with one record in flight at a time."""

    def __init__(self, urls: list[SplitResult], worker: int, bad: int) -> None:
        self._bad = bad
        self._urls = urls
        self._source = worker % len(urls)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    def try_another_source(self) -> None:
        self.close()
        self._source = (self._source + 1) % len(self._urls)

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def send(self, number: int, until: float) -> Attempt | None:
        """Send a record; return ``None`` if no source accepted a connection until *until*."""
        streams = await self._connected(until)
        if streams is None:
            return None
        reader, writer = streams
        source, sent_at = self._source, time.time()
        try:
            is_bad = self._bad > 0 and number % self._bad == 0
            writer.write(_request(self._urls[source], number, is_bad=is_bad))
            async with asyncio.timeout(_SILENCE_SECONDS):
                status, is_last = await _answer(reader)
        except TimeoutError:
            status, is_last = SILENT, True
        except (OSError, EOFError, ValueError):
            status, is_last = CUT_OFF, True
        if is_last:
            self.close()
        return Attempt(number, status, source, sent_at, time.time())

    async def _connected(
        self, until: float
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        while self._streams is None:
            url = self._urls[self._source]
            try:
                self._streams = await asyncio.open_connection(url.hostname, url.port)
            except OSError:
                if time.monotonic() >= until:
                    return None
                self.try_another_source()
                await asyncio.sleep(_RECONNECT_SECONDS)
        return self._streams


def _request(url: SplitResult, number: int, *, is_bad: bool) -> bytes:
    record: dict[str, object] = {"id": number, "text": "x" * 100}
    if is_bad:
        record["amount"] = "none"
    body = json.dumps(record).encode()
    head = (
        f"POST {url.path} HTTP/1.1\r\nHost: {url.netloc}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bool]:
    """Return the status, and whether it is the last answer on this connection."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
    await reader.readexactly(int(fields.get(b"content-length", b"0")))
    return int(head.split(b" ", 2)[1]), fields.get(b"connection") == b"close"


def main() -> None:
    """Send records at a constant rate and write a line for each attempt."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("urls", nargs="+")
    parser.add_argument("--rate", type=float, required=True, help="records a second")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--retry", type=float, default=0.0, help="seconds to go on after the end")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--bad", type=int, default=0, help="one of so many has no number")
    parser.add_argument("--journal", type=Path, required=True)
    options = parser.parse_args()
    with options.journal.open("w", buffering=1 << 16) as journal:
        producers = _Producers(
            options.urls, options.rate, options.seconds, options.retry, journal, options.bad
        )
        asyncio.run(producers.run(options.connections))


if __name__ == "__main__":
    main()
