"""The synchronous and the asyncio producer."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stream.client import AsyncProducer, BufferFull, DeliveryFailed, Producer, Rejected
from stream.client import delivery as deliveries
from tests.client.sources import Request, StubSource, stub_source

_ROOT = Path(__file__).parents[2]


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Iterator[StubSource]:
    monkeypatch.setattr(deliveries, "_FIRST_DELAY", 0.01)
    with stub_source() as source:
        yield source


def _ids(records: list[bytes]) -> list[int]:
    return [json.loads(record)["id"] for record in records]


@pytest.mark.parametrize("compress", [False, True])
def test_batches(source: StubSource, compress: bool) -> None:
    """Records are sent in batches, in order, each with its own key."""
    with Producer(source.url, batch_records=10, compress=compress) as producer:
        for number in range(95):
            producer.send({"id": number})
    assert producer.accepted == 95
    assert producer.pending == 0
    assert _ids(source.records) == list(range(95))
    assert max(len(request.records) for request in source.requests) == 10
    assert len(source.stored) == len(source.requests) >= 10


def test_a_single_record(source: StubSource) -> None:
    """A single record is sent after a short delay, without a flush."""
    with Producer(source.url, linger=0.01) as producer:
        producer.send({"id": 1})
        assert source.came.wait(10)


def test_retries(source: StubSource) -> None:
    """A batch is sent with the same key until it is stored."""
    statuses = iter([503, 500, 429, 200])
    source.answer = lambda request: (next(statuses), {"message": "", "accepted": 1})
    with Producer(source.url) as producer:
        producer.send({"id": 1})
        producer.flush()
    assert len(source.requests) == 4
    assert len({request.key for request in source.requests}) == 1
    assert producer.accepted == 1


def test_rejected_records(source: StubSource) -> None:
    """A callback gets each rejected record with its reason; an error in the callback stops
    nothing.
    """
    found: list[Rejected] = []

    def take(rejected: Rejected) -> None:
        found.append(rejected)
        raise RuntimeError("no")

    error = {"error": "stream.in.badRequest", "message": "No.", "sinkId": "s", "lines": [2]}
    source.answer = lambda request: (207, {"accepted": 1, "rejected": 1, "errors": [error]})
    with Producer(source.url, on_rejected=take) as producer:
        producer.send({"id": 1})
        producer.send({"id": 2})
    assert found == [Rejected(b'{"id":2}', "stream.in.badRequest", "No.", "s")]
    assert (producer.accepted, producer.rejected) == (1, 1)


def test_batches_that_are_too_large(source: StubSource) -> None:
    """Batches that are too large are split, with keys derived from the first one."""
    source.answer = lambda request: (
        (413, {"message": "Too large."})
        if len(request.records) > 2
        else (200, {"message": "", "accepted": len(request.records)})
    )
    with Producer(source.url, batch_records=8, linger=10) as producer:
        for number in range(8):
            producer.send({"id": number})
    assert _ids(source.records) == list(range(8))
    first = source.requests[0].key
    assert list(source.stored) == [f"{first}.{a}.{b}" for a in (0, 1) for b in (0, 1)]


def test_a_source_that_refuses(source: StubSource) -> None:
    """Callers of `send` and `flush` get the reason instead of waiting."""
    source.answer = lambda request: (404, {"message": "Not found."})
    producer = Producer(source.url)
    producer.send({"id": 1})
    with pytest.raises(DeliveryFailed, match="Not found"):
        producer.flush()
    with pytest.raises(DeliveryFailed):
        producer.send({"id": 2})
    with pytest.raises(DeliveryFailed):
        producer.close()


def test_bounded_memory(source: StubSource) -> None:
    """While the service is unavailable, `send` of a full producer raises or waits, as
    configured.
    """
    is_back = threading.Event()

    def answer(request: Request) -> tuple[int, Any]:
        return (200 if is_back.is_set() else 503), {"accepted": len(request.records)}

    source.answer = answer
    with Producer(source.url, max_bytes=500, when_full="raise") as producer:
        sent = 0
        with pytest.raises(BufferFull):
            for sent in range(100):
                producer.send({"id": sent})
        assert 2 <= sent < 6
        is_back.set()
    assert _ids(source.records) == list(range(sent))
    is_back.clear()
    with Producer(source.url, max_bytes=500) as producer:
        with pytest.raises(BufferFull):
            for number in range(100):
                producer.send({"id": number}, timeout=0.01)
        is_back.set()
        producer.send({"id": 100})


def test_close_times_out(source: StubSource) -> None:
    """Records that aren't sent before the timeout are reported by an error."""
    source.answer = lambda request: (503, {"message": ""})
    producer = Producer(source.url)
    producer.send({"id": 1})
    with pytest.raises(TimeoutError):
        producer.flush(timeout=0.01)
    with pytest.raises(DeliveryFailed, match="1 records could not be sent"):
        producer.close(timeout=0.05)
    with pytest.raises(RuntimeError, match="closed"):
        producer.send({"id": 2})


def test_a_forked_child(source: StubSource) -> None:
    """A forked child has no sending thread, so `send` is refused; the parent continues."""
    with Producer(source.url) as producer:
        producer.send({"id": 1})
        child = os.fork()
        if not child:
            try:
                producer.send({"id": 2})
            except RuntimeError:
                os._exit(7)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert _ids(source.records) == [1]


_PROGRAMS = {
    "sync": "from stream.client import Producer\nproducer = Producer(URL, linger=60)\n"
    "for number in range(1000): producer.send({'id': number})\n",
    "asyncio": "import asyncio\nfrom stream.client import AsyncProducer\nasync def main():\n"
    "    producer = AsyncProducer(URL, linger=60)\n"
    "    for number in range(1000): await producer.send({'id': number})\nasyncio.run(main())\n",
}


@pytest.mark.parametrize("kind", _PROGRAMS)
def test_the_end_of_a_program(source: StubSource, kind: str) -> None:
    """A program that ends without closing its producer loses no records."""
    program = f"URL = {source.url!r}\n{_PROGRAMS[kind]}"
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=_ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert _ids(source.records) == list(range(1000))


def test_asyncio(source: StubSource) -> None:
    """The loop isn't blocked while records are sent or the buffer is full."""

    async def main() -> int:
        turns = 0

        async def turn() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        turning = asyncio.create_task(turn())
        async with AsyncProducer(source.url, max_bytes=2000) as producer:
            for number in range(300):
                await producer.send({"id": number})
            await producer.flush()
            assert producer.accepted == 300
            assert producer.pending == 0
        turning.cancel()
        return turns

    assert asyncio.run(main()) > 10
    assert _ids(source.records) == list(range(300))


@pytest.mark.parametrize("url", ["", "shop", "ftp://host/x", "http://"])
def test_urls(url: str) -> None:
    """An invalid URL is refused when the producer is created."""
    with pytest.raises(DeliveryFailed):
        Producer(url)
