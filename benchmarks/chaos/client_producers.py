"""Producers of `stream.client` behind a balancer, and a journal of the outcome of each record.

They run in a separate process. The balancer connects each connection to any source that accepts it,
so a retried batch may reach another node. The client itself resolves unknown outcomes: the journal
has one line for each record, with 200 once a flush has confirmed that it is stored, 400 if it was
rejected, and `SILENT` if the producer gave up.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO
from urllib.parse import SplitResult, urlsplit

from benchmarks.chaos.producers import SILENT, Attempt
from stream.client import ClientError, Producer, Rejected

__all__: list[str] = []

_PRODUCERS = 8
_FLUSH_SECONDS = 1.0
_BYTES = 64 * 1024
_STORED = 200
_REJECTED = 400


class _Balancer(threading.Thread):
    """Forwards bytes between connections of producers and of sources.

    :ivar port: on 127.0.0.1; known when `ready` is set.
    """

    def __init__(self, urls: Iterable[SplitResult]) -> None:
        super().__init__(daemon=True)
        self.port = 0
        self.ready = threading.Event()
        self._places = [(url.hostname, url.port) for url in urls]

    def run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self.ready.set()
        await server.serve_forever()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for host, port in random.sample(self._places, len(self._places)):
            try:
                there, here = await asyncio.open_connection(host, port)
            except OSError:
                continue
            await asyncio.gather(_copy(reader, here), _copy(there, writer))
            return
        writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy bytes until one end closes, and then close the other one."""
    try:
        while data := await reader.read(_BYTES):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


class _Numbered:
    """One producer and its records: every n-th number, starting with its own."""

    def __init__(
        self, url: str, first: int, rate: float, seconds: float, retry_seconds: float, bad: int
    ) -> None:
        self.attempts: list[Attempt] = []
        self._url = url
        self._number = first
        self._pause = _PRODUCERS / rate
        self._seconds = seconds
        self._retry_seconds = retry_seconds
        self._bad = bad
        self._sent: dict[int, float] = {}
        self._rejected: set[int] = set()

    def run(self) -> None:
        """Send records and flush once a second; at the end, or when the producer gives up, close
        it.
        """
        end = time.monotonic() + self._seconds
        producer = Producer(self._url, on_rejected=self._note, exit_timeout=self._retry_seconds)
        flushed = next_ = time.monotonic()
        try:
            while (now := time.monotonic()) < end:
                if now - flushed > _FLUSH_SECONDS:
                    producer.flush(self._retry_seconds)
                    self._decided()
                    flushed = next_ = time.monotonic()
                time.sleep(max(0.0, next_ - now))
                next_ += self._pause
                self._send(producer)
            producer.close()
            self._decided()
        except (ClientError, TimeoutError) as error:
            print(f"a producer gave up: {error}", file=sys.stderr, flush=True)
            self._lost()

    def _send(self, producer: Producer) -> None:
        number, self._number = self._number, self._number + _PRODUCERS
        record: dict[str, object] = {"id": number, "text": "x" * 100}
        if not self._bad or number % self._bad:
            record["ok"] = "yes"
        self._sent[number] = time.time()
        producer.send(record)

    def _note(self, rejected: Rejected) -> None:
        self._rejected.add(json.loads(rejected.record)["id"])

    def _decided(self) -> None:
        now = time.time()
        for number, sent_at in self._sent.items():
            status = _REJECTED if number in self._rejected else _STORED
            self.attempts.append(Attempt(number, status, 0, sent_at, now))
        self._sent.clear()

    def _lost(self) -> None:
        now = time.time()
        self.attempts += [Attempt(n, SILENT, 0, at, now) for n, at in self._sent.items()]


def _run(options: argparse.Namespace, journal: TextIO) -> None:
    urls = [urlsplit(url) for url in options.urls]
    balancer = _Balancer(urls)
    balancer.start()
    balancer.ready.wait()
    url = f"http://127.0.0.1:{balancer.port}{urls[0].path}"
    numbered = [
        _Numbered(url, first, options.rate, options.seconds, options.retry, options.bad)
        for first in range(_PRODUCERS)
    ]
    threads = [threading.Thread(target=each.run) for each in numbered]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    journal.writelines(a.line() for each in numbered for a in each.attempts)


def main() -> None:
    """Send records at a constant rate and write a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("urls", nargs="+")
    parser.add_argument("--rate", type=float, required=True, help="records a second")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--retry", type=float, default=120.0, help="seconds to go on after the end")
    parser.add_argument("--bad", type=int, default=0, help="one of so many has no mark")
    parser.add_argument("--journal", type=Path, required=True)
    options, _ = parser.parse_known_args()
    with options.journal.open("w") as journal:
        _run(options, journal)


if __name__ == "__main__":
    main()
