"""The fast path handles the small records of a turn together, with the results of the
general path.
"""

from __future__ import annotations

import gc
import itertools
import json
import re
import select
import socket
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from random import Random
from typing import Any
from unittest import mock

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.internet.tcp import Server
from twisted.python.threadpool import ThreadPool

from stream import native
from stream.definition.key import SourceKey
from stream.errors import UserError, without_frames
from stream.mapping.columns import HeadersColumn, IpColumn, Mapping, PathColumn
from stream.mapping.render import Renderer, compile_renderer
from stream.ops.metrics.registry import Metrics
from stream.ops.process.between import BetweenClients
from stream.record.context import RecordContext
from stream.record.headers import RecordHeaders
from stream.sink.outcome import Completion
from stream.source.batch import RowBlock
from stream.source.dispatcher import Dispatcher, SourceEntry
from stream.source.http import fast_path, parser
from stream.source.http.batches import LINES_BYTES_AT_ONCE, _lines_at_once
from stream.source.http.client import ClientAddress
from stream.source.http.content_decoding import Decoder
from stream.source.http.handler import IngestHandler
from stream.source.http.idempotency import IdempotencyWindow
from stream.source.http.protocol import IngestFactory, IngestProtocol, Limits
from stream.source.interfaces import DirectWriter, RowWriter
from stream.source.meters import SourceMeters
from stream.source.turns import Turns
from stream.tail.sampler import TailSampler
from stream.tail.subscription import TailSubscription
from tests.effort import examples

pytestmark = pytest.mark.skipif(not native.is_built, reason="the compiled code isn't built")

SECRET = "K" * 48
PATH = f"/stream/1/s/{SECRET}"
LIMIT = 300
NOW = 1_700_000_000.0


class Sink:
    """A sink that stores rows, and calls completions as configured.

    :ivar mode: ``stored``, ``accepted``, ``failed`` or ``wait``: until `release`.
    """

    plan: native.RowPlan
    room = 1 << 20

    def __init__(self, mapping: Mapping) -> None:
        self._renderer = compile_renderer(mapping, LIMIT)
        if self._renderer.native is not None:
            self.plan = self._renderer.native
        self.mode = "stored"
        self.rows: list[bytes] = []
        self.direct_blocks = 0
        self._held: list[Completion] = []
        self.is_open = True

    @property
    def opened(self) -> RowWriter:
        """Return the sink itself."""
        return self  # type: ignore[return-value]

    def open(self, now_ms: int, /) -> RowWriter:
        """Return the sink itself."""
        return self.opened

    def renderer(self) -> Renderer:
        """Return the renderer of its rows."""
        return self._renderer

    def room_for_more(self) -> None:
        """Return at once."""

    def direct(self) -> DirectWriter | None:
        """Return a writer of blocks, if the sink is open."""
        sink = self

        class Direct:
            plan = sink.plan
            room = sink.room
            slice_id = id(sink)

            def write(self, rows: bytes, count: int, at: int, completion: Completion) -> None:
                sink.direct_blocks += 1
                sink._take(rows, completion)

        return Direct() if self.is_open else None

    def write(self, record: RecordContext, completion: Completion, /) -> None:
        """Write one record."""
        try:
            self._take(self._renderer.row(record), completion)
        except UserError as error:
            completion.failed(without_frames(error))

    def write_rows(self, rows: bytes, count: int, at: int, _: Any, completion: Completion) -> None:
        """Write the rows of a batch."""
        self._take(rows, completion)

    def rejected(self, record: RecordContext, error: UserError, /) -> None:
        """Do nothing."""

    def _take(self, rows: bytes, completion: Completion) -> None:
        if self.mode == "raise":
            raise UserError("no pipeline is ready", status=503, name="noPipelineReady")
        self.rows += rows.splitlines()
        if self.mode == "stored":
            completion.stored()
        elif self.mode == "accepted":
            completion.accepted(202)
        elif self.mode == "failed":
            completion.failed(UserError("the disk is full", status=507, name="full"))
        else:
            self._held.append(completion)

    def release(self) -> None:
        """Call all completions that are held."""
        held, self._held = self._held, []
        for completion in held:
            completion.stored()


class Transport(Server):
    """A transport over a real socket, without a reactor."""

    def __init__(self, ours: socket.socket) -> None:
        self.socket = ours
        self.bufferSize = 4096
        self.is_paused = self.is_closed = False
        self.unsent = b""
        self.received_into_place = 0

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "doRead":
            self.received_into_place += 1
        super().__setattr__(name, value)

    def fileno(self) -> int:
        return -1 if self.is_closed else self.socket.fileno()

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Do nothing."""

    setTcpKeepAlive = setTcpNoDelay

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Do nothing."""

    def unregisterProducer(self) -> None:
        """Do nothing."""

    def write(self, data: bytes) -> None:
        if not self.is_closed:
            self.socket.send(data)

    def pauseProducing(self) -> None:
        self.is_paused = True

    def resumeProducing(self) -> None:
        self.is_paused = False

    def loseConnection(self) -> None:
        self.is_closed = True

    loseWriteConnection = abortConnection = loseConnection


class Listener:
    """A listener on socket pairs, driven by the test.

    :param is_fast: whether it has the fast path, and sinks with compiled mappings.
    """

    def __init__(self, *mappings: Mapping, is_fast: bool, proxies: Sequence[str] = ()) -> None:
        self.clock = Clock()
        self.metrics = Metrics()
        dispatcher = Dispatcher("http")
        dispatcher.put(SourceEntry(SourceKey(1, 1, "s"), "http", True, SECRET))
        self.dispatcher = dispatcher
        with mock.patch.object(native, "is_built", is_fast):
            self.sinks = [Sink(mapping) for mapping in mappings]
        self.taps = TailSampler()
        turns = Turns(self.clock)
        listener = self

        class Router:
            def eligible(self, source: SourceKey, signal: str) -> Any:
                return [(f"sink{i}", sink) for i, sink in enumerate(listener.sinks)]

        ids = itertools.count()
        handler = IngestHandler(
            dispatcher,
            Dispatcher("otlp"),
            Router(),
            clock=lambda: NOW,
            window=IdempotencyWindow(60, 100, self.clock.seconds),
            decoder=Decoder(1 << 20, self.clock, ThreadPool(), turns),
            max_batch_records=100,
            reactor=self.clock,
            turns=turns,
            taps=self.taps,
            meters=SourceMeters(self.metrics, lambda: NOW),
            client_address=ClientAddress(proxies),
            new_exception_id=lambda: str(next(ids)),
        )
        self.factory = IngestFactory(handler, Limits(), self.clock, clock=lambda: NOW)
        if is_fast:
            self.factory.fast = handler.fast_path(
                self.factory, self.factory.heads, Limits().max_head, Limits().max_body
            )
            assert self.factory.fast is not None
        # Every incomplete body is received without a copy, or none.
        self._min_received = 1 if is_fast else 1 << 30
        self.clients: list[tuple[IngestProtocol, Transport, socket.socket]] = []

    def client(self) -> int:
        """Connect, and return the number of the connection."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        protocol = self.factory.buildProtocol(IPv4Address("TCP", "10.1.1.1", 1))
        assert isinstance(protocol, IngestProtocol)
        transport = Transport(ours)
        transport.protocol = protocol
        protocol.makeConnection(transport)
        self.clients.append((protocol, transport, theirs))
        return len(self.clients) - 1

    def turn(self) -> None:
        """Serve the received data, as a turn of the reactor does."""
        poller = select.epoll()
        owners = {}
        for protocol, transport, _ in self.clients:
            if not transport.is_closed and not transport.is_paused:
                poller.register(transport.fileno(), select.EPOLLIN)
                owners[transport.fileno()] = protocol, transport
        events = poller.poll(0)
        poller.close()
        if self.factory.fast is not None:
            events = self.factory.fast.connections.serve(
                events, self.clock.seconds(), BetweenClients()
            )
        with mock.patch.object(parser, "MIN_RECEIVED", self._min_received):
            for descriptor, _ in events:
                _, transport = owners[descriptor]
                if transport.doRead() is not None:
                    transport.is_closed = True
            self.clock.advance(0)

    def close(self) -> None:
        """Close all sockets."""
        for protocol, transport, theirs in self.clients:
            protocol.connectionLost()
            transport.socket.close()
            theirs.close()

    def received(self, number: int) -> bytes:
        """Return the data received by a client, without the headers that each answer has."""
        try:
            return self.clients[number][2].recv(1 << 20)
        except BlockingIOError:
            return b""


@pytest.fixture
def listen() -> Iterator[Callable[..., Listener]]:
    """A function that creates listeners, which are closed at the end of the test."""
    made: list[Listener] = []

    def make(*mappings: Mapping, is_fast: bool = True, **options: Any) -> Listener:
        made.append(Listener(*mappings, is_fast=is_fast, **options))
        return made[-1]

    yield make
    for listener in made:
        listener.close()


def post(body: bytes, *fields: str, path: str = PATH, version: str = "1.1") -> bytes:
    """Return a request with JSON."""
    lines = [f"POST {path} HTTP/{version}", "Host: h", "Content-Type: application/json", *fields]
    head = "\r\n".join([*lines, f"Content-Length: {len(body)}"])
    return head.encode() + b"\r\n\r\n" + body


MAPPING = Mapping((PathColumn("a", path="a"), IpColumn("ip")))
OTHER = Mapping((HeadersColumn("h"), PathColumn("b", path="b", default_value="none")))


def _lines(random: Random) -> bytes:
    """Return a batch in which some lines are invalid or blank."""
    lines = []
    for _ in range(random.choice([1, 3, 20, 99, 100, 101])):
        line = b'{"a":%d}' % random.randrange(1000)
        if random.random() < 0.05:
            line = random.choice([b"", b" ", b"\x0b", b"{", b'{"b":2}', b"\xef\xbb\xbf" + line])
        lines.append(line + random.choice([b"\n", b"\n", b"\r\n", b"\n\n", b" \n"]))
    if random.random() < 0.1:
        lines += [b"\n"] * random.choice([800, 2000])
    return b"".join(lines).rstrip(random.choice([b"\n", b""]) or None)


def _request(random: Random) -> bytes:
    body = b'{"a":%d}' % random.randrange(1000)
    kind = random.random()
    if kind < 0.6:
        return post(body)
    return random.choice(
        [
            post(b'{"b":1}'),
            post(b'{"a":1'),
            post(b'{"a":"\\ud800"}'),
            post(b'\xef\xbb\xbf{"a":5}'),
            post(b'{"a":"' + b"x" * 400 + b'"}'),
            post(body, f"X-Trace: {random.randrange(10**9)}"),
            post(body, "Origin: https://example.com"),
            post(body, f"Idempotency-Key: {random.randrange(5)}"),
            post(body, "Connection: close"),
            post(body, version="1.0"),
            post(body, "Expect: 100-continue"),
            post(body, path=PATH + "?verbose=true"),
            post(body, path=PATH.replace("K", "L")),
            post(body + b"\n" + body, path=PATH + "?batch=true"),
            post(b'{"a":"' + b"y" * 5000 + b'"}'),
            post(_lines(random)).replace(b"/json", b"/x-ndjson"),
            post(_lines(random)).replace(b"/json", b"/x-ndjson"),
            post(b"[" + body + b"," + body + b"]", path=PATH + "?batch=true"),
            post(body).replace(b"POST", b"GET"),
            post(body).replace(b"application/json", b"text/plain"),
            b"POST nonsense\r\n\r\n",
            b"\r\n" + post(body),
        ]
    )


_VARYING = re.compile(rb'"exceptionId":"[^"]*"')


@pytest.mark.parametrize("mappings", [(MAPPING,), (MAPPING, OTHER)], ids=["one", "two"])
def test_results_equal_those_of_the_general_path(
    listen: Callable[..., Listener], mappings: tuple[Mapping, ...]
) -> None:
    """Answers and rows are equal for random requests on several connections, split anywhere, and
    changing sinks.
    """
    blocks = into_place = 0
    for seed in range(examples(60)):
        random = Random(seed)
        both = [listen(*mappings, is_fast=is_fast) for is_fast in (True, False)]
        answers: list[dict[int, bytes]] = [{}, {}]
        for _ in range(3):
            for listener in both:
                listener.client()
        for _ in range(25):
            sends = []
            for number in range(3):
                data = b"".join(_request(random) for _ in range(random.choice([0, 1, 1, 1, 2])))
                cut = len(data) if random.random() < 0.8 else random.randrange(len(data) + 1)
                sends.append((number, [data[:cut], data[cut:]]))
            mode = random.choice(["stored"] * 4 + ["wait", "wait", "accepted", "failed", "raise"])
            is_open = random.random() < 0.9
            for listener, received in zip(both, answers, strict=True):
                for sink in listener.sinks:
                    sink.mode, sink.is_open = mode, is_open
                for part in range(2):
                    for number, parts in sends:
                        if not listener.clients[number][1].is_closed and parts[part]:
                            listener.clients[number][2].send(parts[part])
                    listener.turn()
                for _ in range(4):
                    for sink in listener.sinks:
                        sink.release()
                    listener.turn()
                for number in range(3):
                    received[number] = received.get(number, b"") + listener.received(number)
        fast, general = both
        for number in range(3):
            texts = [_VARYING.sub(b"", received[number]) for received in answers]
            assert texts[0] == texts[1], seed
        for one, other in zip(fast.sinks, general.sinks, strict=True):
            assert sorted(one.rows) == sorted(other.rows), seed
        assert fast.metrics.page() == general.metrics.page(), seed
        blocks += sum(sink.direct_blocks for sink in fast.sinks)
        into_place += sum(transport.received_into_place for _, transport, _ in fast.clients)
        for listener in both:
            listener.close()
            listener.clients.clear()
    assert blocks > examples(60)
    assert into_place > examples(60) // 6


def _one(listener: Listener, data: bytes) -> bytes:
    """Return the answer to the second request of a connection, which the first one has armed."""
    number = listener.client()
    listener.clients[number][2].send(post(b'{"a":0}'))
    listener.turn()
    listener.received(number)
    listener.clients[number][2].send(data)
    listener.turn()
    return listener.received(number)


def test_the_second_record_of_a_connection_takes_the_fast_path(
    listen: Callable[..., Listener],
) -> None:
    """The first record shows that the connection sends small records."""
    listener = listen(MAPPING)
    answer = _one(listener, post(b'{"a":1}'))
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert listener.sinks[0].rows == [b'"0","10.1.1.1"', b'"1","10.1.1.1"']
    assert listener.sinks[0].direct_blocks == 1


@pytest.mark.parametrize("is_direct", [True, False])
def test_large_requests_for_several_sinks_take_the_general_path(
    listen: Callable[..., Listener], is_direct: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compiled code would render them for all sinks in one step."""
    data = post(b'{"a":1}')
    size = 2 * len(b'{"a":1}')
    monkeypatch.setattr(fast_path, "MAX_SINKS_BYTES", size if is_direct else size - 1)
    listener = listen(MAPPING, OTHER)
    assert _one(listener, data).startswith(b"HTTP/1.1 200 OK\r\n")
    assert [sink.direct_blocks for sink in listener.sinks] == [int(is_direct)] * 2
    alone = listen(MAPPING)
    assert _one(alone, data).startswith(b"HTTP/1.1 200 OK\r\n")
    assert alone.sinks[0].direct_blocks == 1


def _batch(count: int) -> bytes:
    lines = b"".join(b'{"a":%d}\n' % number for number in range(count))
    return post(lines).replace(b"/json", b"/x-ndjson")


@pytest.mark.parametrize("mode", ["stored", "accepted", "failed"])
@pytest.mark.parametrize("mappings", [(MAPPING,), (MAPPING, OTHER)], ids=["one", "two"])
def test_batches_of_a_turn_are_written_together(
    listen: Callable[..., Listener],
    mappings: tuple[Mapping, ...],
    mode: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each batch of a block has the answer of the general path, with its own number of records."""
    monkeypatch.setattr(
        fast_path, "SHARES", (1.0, 0.03, 0.02, 0.2, 1e9, 1e9, 1e9)
    )  # one turn for all
    received = []
    for is_fast in (True, False):
        listener = listen(*mappings, is_fast=is_fast)
        clients = [listener.client() for _ in range(4)]
        for rounds in range(2):
            for sink in listener.sinks:
                sink.mode = mode if rounds else "stored"
            for number in clients:
                batch = _batch(3) if number < 3 else _batch(5)
                if number == 1:  # as long, with a blank line
                    batch = batch.replace(b'{"a":0}\n{"a":1}\n', b'{"a":0}       \n\n')
                listener.clients[number][2].send(batch)
            listener.turn()
            answers = [listener.received(number) for number in clients]
        received.append([_VARYING.sub(b"", answer) for answer in answers])
        for sink in listener.sinks:
            assert (sink.direct_blocks > 0) == is_fast
            assert len(sink.rows) == 2 * (3 + 2 + 3 + 5)
    assert received[0] == received[1]
    assert [re.findall(rb"/(\d) records", answer)[0] for answer in answers] == [
        b"3",
        b"2",
        b"3",
        b"5",
    ]


@pytest.mark.parametrize(
    ("batch", "reason"),
    [
        (_batch(3).replace(b"1}", b"1 "), "a line isn't JSON"),
        (_batch(101), "too many records"),
        (post(b"\n" * 20).replace(b"/json", b"/x-ndjson"), "no record"),
        (_batch(3).replace(b"ndjson", b"ndjson; charset=latin1"), "a charset"),
        (_batch(3).replace(b"Host: h", b"Host: h\r\nIdempotency-Key: k"), "an idempotency key"),
        (_batch(3).replace(b"Host: h", b"Host: h\r\nContent-Encoding: gzip"), "an encoding"),
        (_batch(3).replace(SECRET.encode(), SECRET.encode() + b"?batch=false"), "one record"),
        (_batch(3).replace(SECRET.encode(), SECRET.encode() + b"?verbose=true"), "a document"),
    ],
)
def test_unusual_batches_take_the_general_path(
    listen: Callable[..., Listener], batch: bytes, reason: str
) -> None:
    """The answer is that of the general path."""
    answers = []
    for is_fast in (True, False):
        listener = listen(MAPPING, is_fast=is_fast)
        answers.append(_VARYING.sub(b"", _one(listener, batch)))
        assert listener.sinks[0].direct_blocks == 0, reason
    assert answers[0] == answers[1]
    assert answers[0].startswith(b"HTTP/1.1 ")


def test_a_body_is_received_without_a_copy(listen: Callable[..., Listener]) -> None:
    """A large body arrives in parts; the transport receives the next request."""
    listener = listen(MAPPING)
    number = listener.client()
    protocol, transport, theirs = listener.clients[number]
    body = b'{"a":"' + b"x" * 250 + b'"}'
    request = post(body)
    for start in range(0, len(request) - 50, 50):
        theirs.send(request[start : start + 50])
        listener.turn()
    assert vars(transport)["doRead"] == protocol._receive_body
    theirs.send(request[start + 50 :] + post(b'{"a":1}'))
    listener.turn()
    assert "doRead" not in vars(transport)
    listener.turn()
    assert listener.received(number).count(b"HTTP/1.1 200 OK\r\n") == 2
    assert listener.sinks[0].rows == [b'""%b"","10.1.1.1"' % body[5:-1], b'"1","10.1.1.1"']


@pytest.mark.parametrize("end", ["close", "reset", "refuse", "shed"])
def test_an_incomplete_body(listen: Callable[..., Listener], end: str) -> None:
    """The transport receives again when the client disconnects or the request is refused."""
    listener = listen(MAPPING)
    number = listener.client()
    protocol, transport, theirs = listener.clients[number]
    theirs.send(post(b'{"a":"' + b"x" * 250 + b'"}')[:-100])
    listener.turn()
    assert "doRead" in vars(transport)
    if end == "close":
        theirs.shutdown(socket.SHUT_WR)
        assert transport.doRead() is not None
    elif end == "reset":
        protocol.connectionLost()
    else:
        if end == "refuse":
            listener.clock.advance(100)
            protocol.check_timeouts(100.0, Limits(), 1.0)
        else:
            protocol.give_way()
        answer = listener.received(number)
        assert answer.startswith(b"HTTP/1.1 408" if end == "refuse" else b"HTTP/1.1 503")
        theirs.send(b"x" * 50)
        assert transport.doRead() is None
    assert "doRead" not in vars(transport)
    assert listener.sinks[0].rows == []


def test_a_tail_gets_its_records_from_the_general_path(listen: Callable[..., Listener]) -> None:
    """The tail also gets the number of omitted records."""
    listener = listen(MAPPING)
    source = SourceKey(1, 1, "s")
    subscription = TailSubscription(
        source=source,
        id="tail",
        address="127.0.0.1:1",
        host="h",
        token="t",
        rate=1,
        max_body_bytes=1000,
        expires_at=datetime(2100, 1, 1, tzinfo=UTC),
    )
    tap = listener.taps.add(subscription, NOW)
    assert tap is not None
    _one(listener, post(b'{"a":1}'))
    shown = listener.taps[source]
    assert (shown.offered, listener.sinks[0].direct_blocks) == (2, 1)
    sample = tap.take()
    assert sample is not None
    assert [json.loads(each)["body"] for each in sample.records] == ['{"a":0}']


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (lambda listener: listener.dispatcher.remove(SourceKey(1, 1, "s")), b"404"),
        (lambda listener: listener.dispatcher.close(), b"503"),
        (lambda listener: listener.sinks.clear(), b"200"),
        (lambda listener: setattr(listener.sinks[0], "is_open", False), b"200"),
        (lambda listener: setattr(listener.sinks[0], "room", 3), b"200"),
        (lambda listener: setattr(listener.sinks[0], "mode", "raise"), b"503"),
        (lambda listener: setattr(listener.sinks[0], "mode", "failed"), b"507"),
        (lambda listener: setattr(listener.sinks[0], "mode", "accepted"), b"202"),
    ],
    ids=["deleted", "closed", "no-sink", "not-open", "no-room", "refuses", "fails", "no-wait"],
)
def test_changes_apply_to_the_next_record(
    listen: Callable[..., Listener], change: Callable[[Listener], object], status: bytes
) -> None:
    """No decision of an earlier turn is reused."""
    listener = listen(MAPPING)
    number = listener.client()
    for body in (b'{"a":0}', b'{"a":1}'):
        listener.clients[number][2].send(post(body))
        listener.turn()
        assert listener.received(number).startswith(b"HTTP/1.1 200 OK")
    assert listener.sinks[0].direct_blocks == 1
    change(listener)
    listener.clients[number][2].send(post(b'{"a":2}'))
    listener.turn()
    assert listener.received(number).split(b" ")[1] == status


def test_an_address_from_a_proxy_needs_the_general_path(
    listen: Callable[..., Listener],
) -> None:
    """The address is in the head; a mapping without the address still uses the fast path."""
    forwarded = post(b'{"a":1}', "X-Forwarded-For: 198.51.100.7")
    listener = listen(MAPPING, proxies=("10.0.0.0/8",))
    _one(listener, forwarded)
    assert listener.sinks[0].rows[-1] == b'"1","198.51.100.7"'
    assert listener.sinks[0].direct_blocks == 0
    listener = listen(OTHER, proxies=("10.0.0.0/8",))
    _one(listener, forwarded)
    assert listener.sinks[0].direct_blocks == 1


def test_a_connection_that_stops(listen: Callable[..., Listener]) -> None:
    """The answers say that it closes, also that to a request on the fast path."""
    listener = listen(MAPPING)
    number = listener.client()
    listener.clients[number][2].send(post(b'{"a":0}'))
    listener.turn()
    listener.received(number)
    listener.sinks[0].mode = "wait"
    listener.clients[number][2].send(post(b'{"a":1}'))
    listener.turn()
    assert listener.sinks[0].direct_blocks == 1
    listener.factory.stop()
    listener.sinks[0].release()
    assert b"Connection: close" in listener.received(number)


def test_a_record_that_waits_too_long(
    listen: Callable[..., Listener],
) -> None:
    """The client gets one answer, the timeout, whatever the sink answers later."""
    listener = listen(MAPPING)
    listener.factory.startFactory()
    number = listener.client()
    listener.clients[number][2].send(post(b'{"a":0}'))
    listener.turn()
    listener.received(number)
    listener.sinks[0].mode = "wait"
    listener.clients[number][2].send(post(b'{"a":1}'))
    listener.turn()
    for _ in range(40):
        listener.clock.advance(1)
    assert listener.received(number).startswith(b"HTTP/1.1 408")
    listener.sinks[0].release()
    assert listener.received(number) == b""


def test_empty_lines_between_records_arent_added_up(listen: Callable[..., Listener]) -> None:
    """Some clients end bodies with an empty line, which may arrive before or after the answer."""
    listener = listen(MAPPING)
    number = listener.client()
    for count in range(40):
        listener.sinks[0].mode = "wait" if count % 2 else "stored"
        listener.clients[number][2].send(post(b'{"a":1}'))
        listener.turn()
        listener.clients[number][2].send(b"\r\n")
        listener.turn()
        listener.sinks[0].release()
        assert listener.received(number).startswith(b"HTTP/1.1 200 OK"), count
    listener.turn()
    assert listener.received(number) == b""
    assert len(listener.sinks[0].rows) == 40


@pytest.mark.parametrize("mappings", [(MAPPING,), (MAPPING, OTHER)], ids=["one", "two"])
@pytest.mark.parametrize("mode", ["stored", "accepted", "failed", "raise", "wait"])
@pytest.mark.parametrize("data", [post(b'{"a":1}'), _batch(2)], ids=["record", "batch"])
def test_a_block_is_freed_when_it_is_answered(
    listen: Callable[..., Listener], mappings: tuple[Mapping, ...], mode: str, data: bytes
) -> None:
    """The block is freed without the garbage collector, which may run in a thread that mustn't free
    it.
    """
    listener = listen(*mappings)
    number = listener.client()
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            listener.clients[number][2].send(data)
            listener.turn()
            for sink in listener.sinks:
                sink.release()
                sink.mode = mode
            assert listener.received(number)
        assert listener.sinks[0].direct_blocks >= 1
        names = [type(each).__name__ for each in gc.get_objects()]
        assert "_TurnConnection" not in names
    finally:
        gc.enable()


@pytest.mark.parametrize("count", [1, 3])
def test_lines_are_rendered_for_one_sink_at_a_time(count: int) -> None:
    """A step of compiled code renders a piece of the batch for one sink."""
    headers = RecordHeaders(((b"Content-Type", b"application/x-ndjson"),))
    record = RecordContext(0, "", headers, b'{"a":1}\n' * (LINES_BYTES_AT_ONCE // 8 + 2))
    blocks = [RowBlock(lambda: compile_renderer(MAPPING, 1 << 20)) for _ in range(count)]
    steps = _lines_at_once(record, blocks, 1 << 20)
    assert len(list(steps)) == 2 * count
    assert {block.count for block in blocks} == {LINES_BYTES_AT_ONCE // 8 + 2}


def test_rows_that_are_too_large_stop_the_rendering() -> None:
    """Short lines with a column of headers result in many times the bytes of the body."""
    fields = ((b"Content-Type", b"application/x-ndjson"), (b"X", b"<" * 10_000))
    renderer = compile_renderer(Mapping((HeadersColumn("h"),)), 1 << 20)
    block = RowBlock(lambda: renderer)
    record = RecordContext(0, "", RecordHeaders(fields), b"{}\n" * 1000)
    steps = _lines_at_once(record, [block], 1000)
    with pytest.raises(StopIteration) as ended:
        while True:
            next(steps)
    assert ended.value.value is None
    assert (block.count, block.error) == (0, None)
