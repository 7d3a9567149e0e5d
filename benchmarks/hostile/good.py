"""A well-behaved producer in a separate process, which the attacker's work doesn't delay.

It pushes records at intervals over one connection, and reconnects when the connection ends. Each
line on its standard input ends a period: it prints its measurements since the last one as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from asyncio import StreamReader, StreamWriter
from contextlib import suppress
from urllib.parse import urlsplit

import attrs

__all__ = ["Good"]

SECONDS_BETWEEN = 0.05
PATIENCE_SECONDS = 60.0
_BODY = b'{"user":{"name":"good"}}'


@attrs.define
class Good:
    """The producer.

    :ivar latencies: latencies of answers in milliseconds, including new connections, and the
        waiting time so far of the record in flight.
    :ivar answers: number of answers by status; 0 for none.
    """

    url: str
    latencies: list[float] = attrs.Factory(list)
    answers: dict[str, int] = attrs.Factory(dict)
    _since: float | None = None
    _streams: tuple[StreamReader, StreamWriter] | None = None

    async def push(self) -> None:
        """Push records until it is cancelled."""
        while True:
            start = self._since = time.monotonic()
            try:
                status = await asyncio.wait_for(self._exchange(), PATIENCE_SECONDS)
            except (OSError, EOFError, TimeoutError, ValueError, IndexError):
                status = 0
                self._hang_up()
            self._since = None
            self.latencies.append(1000 * (time.monotonic() - start))
            self.answers[str(status)] = self.answers.get(str(status), 0) + 1
            await asyncio.sleep(max(0.0, start + SECONDS_BETWEEN - time.monotonic()))

    async def _exchange(self) -> int:
        parts = urlsplit(self.url)
        if self._streams is None or self._streams[0].at_eof():
            self._hang_up()
            self._streams = await asyncio.open_connection(parts.hostname, parts.port)
        reader, writer = self._streams
        writer.write(
            f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(_BODY)}\r\n\r\n".encode()
            + _BODY
        )
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        await reader.readexactly(int(head.partition(b"content-length:")[2].split()[0]))
        if b"connection: close" in head:
            self._hang_up()
        return int(head.split()[1])

    def _hang_up(self) -> None:
        if self._streams is not None:
            with suppress(OSError):
                self._streams[1].close()
            self._streams = None

    def report(self) -> str:
        """Return the measurements since the last report."""
        if self._since is not None:
            self.latencies.append(1000 * (time.monotonic() - self._since))
        found = json.dumps({"latencies": self.latencies, "answers": self.answers})
        self.latencies, self.answers = [], {}
        return found


async def _main(url: str) -> None:
    good = Good(url)
    pushing = asyncio.ensure_future(good.push())
    loop = asyncio.get_running_loop()
    while await loop.run_in_executor(None, sys.stdin.readline):
        print(good.report(), flush=True)
    pushing.cancel()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1]))
