"""Throughput of the path from received bytes to a rendered row, on one core.

It runs in one process without sockets, and measures the parser, the handler, the mapping, and all
of them together behind a connection whose transport discards the answers. The unit is processor
time. Compare figures only with each other, ideally alternating::

    python benchmarks/hotpath.py [--seconds 1.0]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.threadpool import ThreadPool

from stream.definition.key import SourceKey
from stream.errors import UserError
from stream.mapping.columns import (
    Column,
    DatetimeColumn,
    HeadersColumn,
    Mapping,
    PathColumn,
    Template,
    TemplateColumn,
    UuidColumn,
)
from stream.mapping.plan import Evaluated
from stream.mapping.render import Renderer, compile_renderer
from stream.record.context import RecordContext
from stream.record.headers import RecordHeaders
from stream.sink.outcome import Completion
from stream.source.dispatcher import Dispatcher, SourceEntry
from stream.source.http.content_decoding import Decoder
from stream.source.http.handler import IngestHandler
from stream.source.http.head import HeadReader
from stream.source.http.idempotency import IdempotencyWindow
from stream.source.http.parser import RequestParser
from stream.source.http.protocol import IngestFactory, Limits
from stream.source.interfaces import RowWriter, SinkWriter
from stream.source.turns import Turns
from stream.storage.model.marks import Mark
from stream.tail.sampler import TailSampler

KEY = SourceKey(1, 1, "bench")
SECRET = "s" * 48
BATCH_RECORDS = 1000
ROW_LIMIT = 1536 * 1024
BODY = b'{"id":"abc-123","n":12.50,"pad":"' + b"x" * 984 + b'"}'
REPORT = (UuidColumn("id"), DatetimeColumn("at"), PathColumn("p", path="id"))


class RenderingSink:
    """A sink that renders rows and reports them as stored at once."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self._render = compile_renderer(Mapping(tuple(columns)), ROW_LIMIT)

    @property
    def opened(self) -> RowWriter:
        """Return the writer of rows: the sink itself."""
        return self

    def open(self, now_ms: int, /) -> RowWriter:
        return self

    def direct(self) -> None:
        """Return nothing: the general path is measured."""

    def write(
        self, record: RecordContext, completion: Completion, mark: Mark | None = None, /
    ) -> None:
        self._render.row(record)
        completion.stored()

    def renderer(self) -> Renderer:
        return self._render

    def evaluate(
        self, renderer: Renderer, records: Sequence[RecordContext], /
    ) -> Deferred[list[Evaluated]]:
        raise RuntimeError("none of the mappings takes the engine")

    def room(self, record: RecordContext | None = None, /) -> Deferred[None] | None:
        return None

    def write_rows(
        self,
        rows: bytes,
        count: int,
        received_at: int,
        renderer: Renderer,
        completion: Completion,
        mark: Mark | None = None,
        /,
    ) -> None:
        completion.stored()

    def rejected(self, record: RecordContext, error: UserError, /) -> None:
        raise error


class OneSink:
    """A lookup that returns the same sink for each source."""

    def __init__(self, sink: SinkWriter) -> None:
        self._sinks = (("sink", sink),)

    def eligible(self, source: SourceKey, signal: str) -> Sequence[tuple[str, SinkWriter]]:
        return self._sinks


class NoTransport:
    """A transport that discards everything."""

    def send(self, data: bytes) -> int:
        """Discard everything at once."""
        return len(data)

    @property
    def socket(self) -> NoTransport:
        """Return the transport itself instead of a socket."""
        return self

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


def request(number: int | None = None) -> bytes:
    """Return a request; *number* makes its head unique."""
    trace = b"" if number is None else b"Traceparent: 00-%032d-01\r\n" % number
    return (
        (
            f"POST /stream/1/bench/{SECRET} HTTP/1.1\r\nHost: localhost:7000\r\n"
            f"User-Agent: bench\r\n"
            f"Accept: */*\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(BODY)}\r\n"
        ).encode()
        + trace
        + b"\r\n"
        + BODY
    )


def batch(line: bytes) -> bytes:
    """Return a request with `BATCH_RECORDS` lines."""
    body = (line + b"\n") * BATCH_RECORDS
    return (
        f"POST /stream/1/bench/{SECRET} HTTP/1.1\r\nHost: localhost:7000\r\n"
        f"Content-Type: application/x-ndjson\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body


def connection(columns: Sequence[Column]) -> Callable[[bytes], None]:
    """Return the receiver of one client's bytes."""
    dispatcher = Dispatcher("http")
    dispatcher.put(SourceEntry(KEY, "http", True, SECRET))
    clock = Clock()
    turns = Turns(clock)
    handler = IngestHandler(
        dispatcher,
        Dispatcher("otlp"),
        OneSink(RenderingSink(columns)),
        clock=time.time,
        window=IdempotencyWindow(60, 1000, time.time),
        decoder=Decoder(1024 * 1024, clock, ThreadPool(), turns),
        max_batch_records=BATCH_RECORDS,
        reactor=clock,
        turns=turns,
        taps=TailSampler(),
    )
    factory = IngestFactory(handler, Limits(), clock)
    protocol = factory.buildProtocol(IPv4Address("TCP", "192.0.2.1", 1))
    assert protocol is not None
    transport: Any = NoTransport()
    protocol.makeConnection(transport)
    return protocol.dataReceived


def rate(step: Callable[[], object], seconds: float) -> float:
    """Return steps per second, the best of three rounds."""
    best = 0.0
    for _ in range(3):
        done = 0
        started = time.process_time()
        while (passed := time.process_time() - started) < seconds / 3:
            for _ in range(20):
                step()
            done += 20
        best = max(best, done / passed)
    return best


def render_new_record(render: Callable[[RecordContext], bytes], headers: RecordHeaders) -> None:
    """Render a record that hasn't been read before."""
    render(RecordContext(0, "192.0.2.1", headers, BODY))


def cases() -> Iterator[tuple[str, Callable[[], object]]]:
    """Return the measured steps by name."""
    same = request()
    parser = RequestParser(HeadReader(), 16 * 1024, 1024 * 1024)
    numbers = count()

    def parse(data: bytes) -> None:
        parser.feed(data)
        assert parser.next_request() is not None

    yield "parse, same head", lambda: parse(same)
    yield "parse, new head each time", lambda: parse(request(next(numbers)))
    headers = RecordHeaders(((b"content-type", b"application/json"), (b"host", b"x")))
    call = TemplateColumn("t", template=Template("jsonnet", "Body('id')"))
    mappings: dict[str, Sequence[Column]] = {
        "uuid, datetime, path": REPORT,
        "path, number with a fraction": (PathColumn("p", path="n"),),
        "headers": (HeadersColumn("h"),),
        "template, one call": (call,),
    }
    for name, columns in mappings.items():
        render = compile_renderer(Mapping(tuple(columns)), ROW_LIMIT).row
        yield f"render {name}", partial(render_new_record, render, headers)
    receive = connection(REPORT)
    yield "connection to row, same head", lambda: receive(same)
    yield "connection to row, new head each time", lambda: receive(request(next(numbers)))
    pipelined = same * 16
    for name, line in (("as printed", BODY.replace(b"12.50", b"12.5")), ("others", BODY)):
        lines = batch(line)
        yield f"connection to rows, {BATCH_RECORDS} lines, {name}", partial(receive, lines)
    yield "connection to row, 16 requests at once (x16)", lambda: receive(pipelined)


def main() -> None:
    """Measure the steps and print the figures."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--seconds", type=float, default=1.0, help="for each figure")
    seconds = options.parse_args().seconds
    for name, step in cases():
        figure = rate(step, seconds)
        print(f"{name:46} {figure:12,.0f}/s {1e6 / figure:9.2f} us")


if __name__ == "__main__":
    main()
