"""The target of attacks, and helpers for connections, requests and answers."""

from __future__ import annotations

import asyncio
import time
from asyncio import StreamReader, StreamWriter
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import count

import attrs

__all__ = ["Place", "Target", "request"]

_STARTED_AT_ONCE = 200
_ERRORS = (OSError, EOFError, TimeoutError, ValueError, IndexError)


def request(path: str, *headers: str, body: bytes = b"", method: str = "POST") -> bytes:
    """Return a complete request; the length is added unless a coding is given."""
    lines = [f"{method} {path} HTTP/1.1", "Host: x", *headers]
    if not any(line.lower().startswith("transfer-encoding") for line in headers):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


@attrs.frozen
class Place:
    """A listener."""

    host: str
    port: int

    async def connect(self) -> tuple[StreamReader, StreamWriter]:
        """Open a connection to the listener; raises TimeoutError after 10 s."""
        return await asyncio.wait_for(asyncio.open_connection(self.host, self.port), 10)


@attrs.define
class Target:
    """The target of an attack, and its size.

    :ivar source: the listener of the sources; `path` leads to a source of records, `templates` to
        one whose sink has templates, `columns` to one whose sink has many columns, `otlp` to one of
        OpenTelemetry.
    :ivar api: the listener of the API, where `token` is valid and `sources` is the path of all.
    :ivar seconds: duration of an attack.
    :ivar scale: divisor of the full size.
    """

    source: Place
    api: Place
    metrics: Place
    writer: Place
    path: str
    templates: str
    columns: str
    otlp: str
    sources: str
    token: str
    seconds: float
    scale: int
    until: float = 0.0

    def begin(self) -> None:
        """Start the time of an attack."""
        self.until = time.monotonic() + self.seconds

    @property
    def goes_on(self) -> bool:
        """Return whether the attack continues."""
        return time.monotonic() < self.until

    @property
    def left(self) -> float:
        """Return the seconds until its end."""
        return max(0.1, self.until - time.monotonic())

    def part(self, number: int) -> int:
        """Return *number* divided by the scale."""
        return max(1, number // self.scale)

    async def flood(
        self,
        place: Place,
        connections: int,
        make: bytes | Callable[[int], bytes],
        *,
        reads: bool = True,
    ) -> str:
        """Send requests over *connections* as fast as they are answered; return the answers.

        :param make: the request, or a function that returns the request with a number.
        :param reads: whether answers are read; otherwise the client sends as much as the server
            reads.
        """
        answers: Counter[str] = Counter()
        numbers = count()

        async def client() -> None:
            while self.goes_on:
                with suppress(*_ERRORS):
                    await self._exchange(place, make, numbers, reads, answers)
                    continue
                answers["broken"] += 1
                await asyncio.sleep(0.05)

        await self._together([client] * self.part(connections))
        return told(answers)

    async def _exchange(
        self,
        place: Place,
        make: bytes | Callable[[int], bytes],
        numbers: Iterator[int],
        reads: bool,
        answers: Counter[str],
    ) -> None:
        reader, writer = await place.connect()
        try:
            while self.goes_on:
                data = make if isinstance(make, bytes) else make(next(numbers))
                writer.write(data)
                if not reads:
                    await asyncio.wait_for(writer.drain(), self.left)
                    answers["sent"] += 1
                    continue
                status, closed = await asyncio.wait_for(answer(reader), self.left + 5)
                answers[str(status)] += 1
                if closed:
                    return
        except TimeoutError:
            answers["no answer"] += reads
        finally:
            _abort(writer)

    async def hold(
        self,
        place: Place,
        connections: int,
        start: bytes | Sequence[bytes],
        drip: bytes = b"",
        every: float = 1.0,
        end: bool = False,
    ) -> str:
        """Keep connections open with incomplete requests; return their outcomes.

        :param start: sent at once; if there are several, in turn by the connections.
        :param drip: sent at an interval in seconds.
        :param end: whether to close the sending side after the start.
        """
        answers: Counter[str] = Counter()
        starts = [start] if isinstance(start, bytes) else list(start)

        async def client(number: int) -> None:
            try:
                reader, writer = await place.connect()
            except _ERRORS:
                answers["not connected"] += 1
                return
            try:
                reading = asyncio.ensure_future(answer(reader))
                writer.write(starts[number % len(starts)])
                if end:
                    writer.write_eof()
                while self.goes_on and not reading.done():
                    await asyncio.wait([reading], timeout=min(every, self.left))
                    if not reading.done() and drip:
                        writer.write(drip)
                if reading.done():
                    answers[str((await reading)[0])] += 1
                else:
                    reading.cancel()
                    answers["still open"] += 1
            except _ERRORS:
                answers["closed"] += 1
            finally:
                _abort(writer)

        await self._together([partial(client, n) for n in range(self.part(connections))])
        return told(answers)

    async def _together(self, clients: Sequence[Callable[[], Awaitable[None]]]) -> None:
        running: list[asyncio.Future[None]] = []
        for number, client in enumerate(clients):
            running.append(asyncio.ensure_future(client()))
            if number % _STARTED_AT_ONCE == _STARTED_AT_ONCE - 1:
                await asyncio.sleep(0.02)
        await asyncio.gather(*running)


async def answer(reader: StreamReader) -> tuple[int, bool]:
    """Return the status of the next answer, and whether the connection closes after it."""
    while True:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        status = int(head.split()[1])
        if status >= 200:
            break
    length = head.partition(b"content-length:")[2].split()
    if length:
        await reader.readexactly(int(length[0]))
    return status, b"connection: close" in head or not length


def told(answers: Counter[str]) -> str:
    """Return counts of answers as a text."""
    return ", ".join(f"{number:,} × {what}" for what, number in sorted(answers.items())) or "–"


def _abort(writer: StreamWriter) -> None:
    with suppress(*_ERRORS):
        writer.transport.abort()
