"""Connections: order of answers, timeouts, limits, draining."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.protocol import connectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from stream.errors import UserError
from stream.source.http import responses
from stream.source.http.completions import Connection
from stream.source.http.head import Head
from stream.source.http.intake import Owner
from stream.source.http.parser import Request
from stream.source.http.protocol import (
    AHEAD_SECONDS,
    AT_ONCE_SECONDS,
    LINGER_BYTES,
    LINGER_SECONDS,
    IngestFactory,
    IngestProtocol,
    Limits,
)

DAY = 1714557600
DATE = b"Date: Wed, 01 May 2024 10:00:00 GMT\r\n"

LIMITS = Limits(
    request_timeout=30,
    idle_timeout=20,
    min_upload_rate=4,
    max_connections=3,
    max_head=256,
    max_body=50_000,
    max_held=140_000,
    shutdown_timeout=10,
)


class FakeTransport(StringTransport):
    """A string transport with a TCP connection's other methods."""

    def __init__(self) -> None:
        super().__init__()
        self.half_closed = False
        self.no_delay = False

    def setTcpNoDelay(self, enabled: bool) -> None:
        self.no_delay = enabled

    def setTcpKeepAlive(self, enabled: bool) -> None:
        pass

    def loseWriteConnection(self) -> None:
        self.half_closed = True


class FakeHandler:
    """Answers with the target, at once for ``/now…``, otherwise on request.

    :ivar checked: targets of requests whose head arrived first; ``/secret…`` is refused.
    """

    def __init__(self) -> None:
        self.checked: list[bytes] = []
        self.waiting: list[tuple[bytes, Callable[[bytes], None]]] = []

    def handle(self, request: Request, connection: Connection) -> None:
        target = request.head.target
        if target == b"/crash":
            raise RuntimeError("broken")
        if target.startswith(b"/now"):
            connection.finish(responses.response(200, target))
            return
        token = object()
        connection.pending = token

        def answer(body: bytes) -> None:
            if connection.pending is token:
                connection.finish(responses.response(200, body))

        self.waiting.append((target, answer))

    def answer_next(self) -> None:
        target, answer = self.waiting.pop(0)
        answer(target)

    def check(self, head: Head) -> bytes | None:
        self.checked.append(head.target)
        if head.target == b"/crash":
            raise RuntimeError("broken")
        if head.target.startswith(b"/secret"):
            return self.refuse(UserError("no such source", status=404, name="sourceNotFound"))
        return None

    def owner(self, head: Head) -> Owner:
        project, _, source = head.target.decode().rpartition("/")
        return project, source

    def refuse(self, error: UserError, head: Head | None = None) -> bytes:
        return responses.error_envelope(error, "id")

    def crashed(self) -> bytes:
        return responses.error_envelope(UserError("", status=500, name="internalError"), "id")


class Listener:
    def __init__(self) -> None:
        self.clock = Clock()
        self.handler = FakeHandler()
        self.factory = IngestFactory(
            self.handler, LIMITS, self.clock, lambda: DAY + self.clock.seconds()
        )
        self.factory.startFactory()

    def connect(self, address: str = "192.0.2.1") -> tuple[IngestProtocol, FakeTransport]:
        protocol = self.factory.buildProtocol(IPv4Address("TCP", address, 1))
        assert protocol is not None
        transport = FakeTransport()
        protocol.makeConnection(transport)
        return protocol, transport  # type: ignore[return-value]

    def pass_time(self, seconds: float) -> None:
        for _ in range(int(seconds * 4)):
            self.clock.advance(0.25)


def _get(target: bytes, *headers: bytes, version: bytes = b"1.1") -> bytes:
    return b"\r\n".join([b"GET " + target + b" HTTP/" + version, b"Host: x", *headers, b"", b""])


def _post(target: bytes, *headers: bytes, body: bytes = b"") -> bytes:
    return b"POST" + _get(target, *headers)[3:] + body


def _headers(transport: FakeTransport) -> dict[bytes, bytes]:
    """Return the headers of the last answer in lower case, with the status line as ``:status``."""
    head = transport.value().rpartition(b"HTTP/1.1 ")[2].partition(b"\r\n\r\n")[0]
    status, *lines = head.split(b"\r\n")
    found = {name.lower(): value for name, _, value in (line.partition(b": ") for line in lines)}
    return found | {b":status": status[:3]}


def _bodies(transport: FakeTransport) -> list[bytes]:
    return [part.split(b"\r\n\r\n")[1] for part in transport.value().split(b"HTTP/1.1 ")[1:]]


@pytest.fixture
def listener() -> Listener:
    return Listener()


def _slow(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make each request take half of the time of a connection."""
    handle = listener.handler.handle

    def slowly(request: Request, connection: Connection) -> None:
        listener.clock.rightNow += AT_ONCE_SECONDS / 2
        handle(request, connection)

    monkeypatch.setattr(listener.handler, "handle", slowly)


def _turn(clock: Clock) -> None:
    """Run the pending calls, without those added meanwhile."""
    for call in [call for call in clock.calls if call.getTime() <= clock.seconds()]:
        clock.calls.remove(call)
        call.called = 1
        call.func(*call.args, **call.kw)


def test_requests_with_immediate_answers_take_turns(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One read can contain thousands of requests; busy connections share a part of each turn."""
    _slow(listener, monkeypatch)
    connections = [listener.connect(f"192.0.2.{number}") for number in range(3)]
    sent = 40

    def answered() -> list[int]:
        return [len(_bodies(transport)) for _, transport in connections]

    for protocol, _ in connections:
        protocol.dataReceived(_get(b"/now") * sent)
    assert answered() == [3, 3, 3]
    assert {transport.producerState for _, transport in connections} == {"paused"}
    before = sum(answered())
    _turn(listener.clock)
    assert 0 < sum(answered()) - before <= 2 * AHEAD_SECONDS / AT_ONCE_SECONDS + 2
    assert max(answered()) - min(answered()) <= 3
    while min(answered()) < sent:
        before = sum(answered())
        _turn(listener.clock)
        assert sum(answered()) > before
    assert {transport.producerState for _, transport in connections} == {"producing"}


def test_a_client_that_ends_its_side_gets_all_answers(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Waiting requests are answered too, and an incomplete one is refused."""
    _slow(listener, monkeypatch)
    whole, cut = listener.connect(), listener.connect()
    whole[0].dataReceived(_get(b"/now") * 4)
    cut[0].dataReceived(_get(b"/now") * 4 + b"GET /no")
    for protocol, _ in (whole, cut):
        protocol.readConnectionLost()
    listener.clock.advance(0)
    assert _bodies(whole[1]) == [b"/now"] * 4
    assert whole[1].disconnecting
    assert _bodies(cut[1])[:4] == [b"/now"] * 4
    assert _headers(cut[1])[b":status"] == b"400"


def test_waiting_requests_of_a_lost_connection(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is answered after the end of the connection."""
    _slow(listener, monkeypatch)
    protocol, transport = listener.connect()
    protocol.dataReceived(_get(b"/now") * 10)
    protocol.connectionLost(connectionDone)
    listener.clock.advance(0)
    assert len(_bodies(transport)) == 3


def test_pipelined_requests_are_answered_in_order(listener: Listener) -> None:
    """A pipelined request waits for earlier ones."""
    protocol, transport = listener.connect()
    protocol.dataReceived(_get(b"/a") + _get(b"/now") + _get(b"/b") + _get(b"/now2"))
    assert transport.value() == b""
    assert [target for target, _ in listener.handler.waiting] == [b"/a"]
    listener.handler.answer_next()
    assert _bodies(transport) == [b"/a", b"/now"]
    listener.handler.answer_next()
    assert _bodies(transport) == [b"/a", b"/now", b"/b", b"/now2"]


def test_immediate_answers_are_sent_in_one_write(listener: Listener) -> None:
    """A burst of requests is answered with one write."""
    protocol, transport = listener.connect()
    writes: list[bytes] = []
    transport.write = writes.append  # type: ignore[method-assign]
    protocol.dataReceived(_get(b"/now") * 5)
    assert len(writes) == 1 and writes[0].count(b"HTTP/1.1 200 OK") == 5
    assert transport.no_delay


def test_reading_pauses_only_while_a_request_waits(listener: Listener) -> None:
    """Bytes that arrive while a request waits pause the connection until it is answered."""
    protocol, transport = listener.connect()
    protocol.dataReceived(_get(b"/a"))
    assert transport.producerState == "producing"
    protocol.dataReceived(_get(b"/b")[:10])
    assert transport.producerState == "paused"
    listener.handler.answer_next()
    assert transport.producerState == "producing"
    protocol.dataReceived(_get(b"/b")[10:])
    listener.handler.answer_next()
    assert _bodies(transport) == [b"/a", b"/b"]


def test_a_client_that_reads_no_answers(listener: Listener) -> None:
    """No request is handled while the transport's buffer is full."""
    protocol, transport = listener.connect()
    protocol.pauseProducing()
    protocol.dataReceived(_get(b"/now"))
    assert transport.value() == b""
    protocol.resumeProducing()
    assert _bodies(transport) == [b"/now"]


def test_an_invalid_request_closes_the_connection(listener: Listener) -> None:
    """The client gets an answer, our side is closed, and further data is discarded."""
    protocol, transport = listener.connect()
    protocol.dataReceived(_get(b"/now") + b"GET / HTTP/1.1\r\nbroken\r\n\r\n")
    assert transport.value().count(b"HTTP/1.1 ") == 2
    assert _headers(transport)[b":status"] == b"400"
    assert _headers(transport)[b"connection"] == b"close"
    assert b'"error": "stream.in.badRequest"' in transport.value()
    assert transport.half_closed and not transport.disconnecting
    transport.clear()
    protocol.dataReceived(_get(b"/now"))
    assert transport.value() == b""


def test_a_lingering_connection_is_closed(listener: Listener) -> None:
    """After a refusal, the time and the amount of further data are limited."""
    first, transport = listener.connect()
    first.dataReceived(b"\x00")
    listener.pass_time(LINGER_SECONDS + 3)
    assert transport.disconnected
    second, transport = listener.connect()
    second.dataReceived(b"\x00")
    second.dataReceived(bytes(LINGER_BYTES))
    assert not transport.disconnected
    second.dataReceived(b"x")
    assert transport.disconnected


def test_too_large_requests_are_refused(listener: Listener) -> None:
    """Heads and bodies over the limit get 413."""
    protocol, transport = listener.connect()
    protocol.dataReceived(_get(b"/" + b"a" * 256))
    assert b"HTTP/1.1 413 " in transport.value() and b"headerTooLarge" in transport.value()
    protocol, transport = listener.connect()
    protocol.dataReceived(_get(b"/now", b"Content-Length: 50001"))
    assert b"bodyTooLarge" in transport.value() and transport.half_closed


def test_an_unexpected_error(listener: Listener) -> None:
    """The answer is a 500, and the connection is closed."""
    protocol, transport = listener.connect()
    protocol.dataReceived(_get(b"/crash"))
    assert b"HTTP/1.1 500 " in transport.value() and transport.half_closed


def test_continue_is_sent_before_the_body(listener: Listener) -> None:
    """A client that expects 100 Continue gets it once."""
    protocol, transport = listener.connect()
    protocol.dataReceived(_get(b"/now", b"Expect: 100-continue", b"Content-Length: 2"))
    assert transport.value() == b"HTTP/1.1 100 Continue\r\n\r\n"
    protocol.dataReceived(b"a")
    protocol.dataReceived(b"b")
    assert transport.value().count(b"100 Continue") == 1
    assert transport.value().endswith(b"/now")


def test_http_1_0_and_connection_close(listener: Listener) -> None:
    """HTTP/1.0 closes unless keep-alive is requested, and so does Connection: close."""
    protocol, transport = listener.connect()
    protocol.dataReceived(_get(b"/now", b"Connection: keep-alive", version=b"1.0"))
    assert b"Connection: keep-alive\r\n" in transport.value() and not transport.disconnecting
    protocol.dataReceived(_get(b"/now", version=b"1.0"))
    assert b"Connection: close\r\n" in transport.value() and transport.disconnecting
    protocol, transport = listener.connect()
    protocol.dataReceived(_get(b"/a", b"Connection: close"))
    assert not transport.disconnecting
    listener.handler.answer_next()
    assert b"Connection: close\r\n" in transport.value() and transport.disconnecting


def test_head_requests_get_no_body(listener: Listener) -> None:
    """The answer to HEAD has the length of the body, but not the body."""
    protocol, transport = listener.connect()
    protocol.dataReceived(b"HEAD /now HTTP/1.1\r\nHost: x\r\n\r\n")
    assert transport.value().endswith(b"Content-Length: 4\r\n\r\n")


def test_a_slow_request_times_out(listener: Listener) -> None:
    """After the request timeout the client gets 408; the sink's later answer is dropped."""
    protocol, transport = listener.connect()
    protocol.dataReceived(_get(b"/a"))
    listener.pass_time(LIMITS.request_timeout)
    assert transport.value() == b""
    listener.pass_time(2.5)
    assert _headers(transport)[b":status"] == b"408"
    assert _headers(transport)[b"connection"] == b"close"
    assert transport.value().endswith(b"\r\n\r\nrequest timeout")
    assert b"server" not in _headers(transport)
    assert _headers(transport)[b"content-type"] == b"text/plain"
    assert transport.half_closed
    listener.handler.answer_next()
    assert transport.value().count(b"HTTP/1.1 ") == 1


def test_idle_connections_are_closed(listener: Listener) -> None:
    """A connection without a request is closed after the idle timeout, despite empty lines."""
    protocol, transport = listener.connect()
    listener.pass_time(LIMITS.idle_timeout - 1)
    protocol.dataReceived(b"\r\n")
    listener.pass_time(4)
    assert transport.disconnecting and transport.value() == b""
    protocol, transport = listener.connect()
    listener.pass_time(LIMITS.idle_timeout - 1)
    protocol.dataReceived(_get(b"/now"))
    listener.pass_time(LIMITS.idle_timeout)
    assert not transport.disconnecting
    listener.pass_time(3)
    assert transport.disconnecting


@pytest.mark.parametrize(
    "start",
    [
        b"G",
        b"POST /now HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n",
        b"POST /now HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\na",
    ],
    ids=["head", "body", "chunk"],
)
def test_a_stalled_request_times_out(listener: Listener, start: bytes) -> None:
    """The client gets an answer because the request had started."""
    protocol, transport = listener.connect()
    protocol.dataReceived(start)
    listener.pass_time(LIMITS.idle_timeout)
    assert transport.value() == b""
    listener.pass_time(3)
    assert _headers(transport)[b":status"] == b"408" and transport.half_closed
    assert b'"error": "stream.in.requestTimeout"' in transport.value()
    assert _headers(transport)[b"content-type"] == b"application/json"


def test_a_slow_head_has_a_deadline(listener: Listener) -> None:
    """Single bytes don't extend the deadline."""
    protocol, transport = listener.connect()
    protocol.dataReceived(b"POST /now HTTP/1.1\r\nX: ")
    for _ in range(int(LIMITS.request_timeout)):
        protocol.dataReceived(b"a")
        listener.pass_time(1)
    assert transport.value() == b""
    listener.pass_time(2)
    assert _headers(transport)[b":status"] == b"408"


@pytest.mark.parametrize("coding", [b"Content-Length: 64", b"Transfer-Encoding: chunked"])
def test_bytes_of_a_body_extend_its_deadline(listener: Listener, coding: bytes) -> None:
    """A second is added for every four bytes: a slow client succeeds, a trickle doesn't."""

    def upload(bytes_each_two_seconds: int) -> tuple[float, FakeTransport]:
        protocol, transport = listener.connect()
        protocol.dataReceived(_post(b"/now", coding))
        seconds = 0
        sent = 0
        while sent < 64 and not transport.value():
            listener.pass_time(2)
            seconds += 2
            piece = b"x" * min(bytes_each_two_seconds, 64 - sent)
            sent += len(piece)
            if coding.startswith(b"T"):
                piece = b"%x\r\n%s\r\n" % (len(piece), piece)
                piece += b"0\r\n\r\n" if sent == 64 else b""
            protocol.dataReceived(piece)
        return seconds, transport

    seconds, transport = upload(3)
    assert LIMITS.request_timeout < seconds == 44 and _bodies(transport) == [b"/now"]
    seconds, transport = upload(1)
    assert 34 <= seconds <= 36 and _headers(transport)[b":status"] == b"408"


def test_the_deadline_starts_with_each_request(listener: Listener) -> None:
    """The deadline doesn't depend on the connection or the previous request."""
    protocol, transport = listener.connect()
    for count in range(1, 6):
        protocol.dataReceived(_get(b"/now")[:9])
        listener.pass_time(LIMITS.idle_timeout - 1)
        protocol.dataReceived(_get(b"/now")[9:])
        assert _bodies(transport) == [b"/now"] * count
    assert not transport.disconnecting and listener.handler.checked == []


def test_an_incomplete_request_is_refused(listener: Listener) -> None:
    """A client that ended its side too early gets an answer."""
    protocol, transport = listener.connect()
    protocol.dataReceived(_post(b"/now", b"Content-Length: 2", body=b"a"))
    protocol.readConnectionLost()
    assert _headers(transport)[b":status"] == b"400" and transport.disconnecting
    assert b"unfinishedRequest" in transport.value()


@pytest.mark.parametrize(
    "head",
    [
        (b"Content-Length: 2",),
        (b"Content-Length: 2", b"Expect: 100-continue"),
        (b"Content-Length: 99999999",),
        (b"Transfer-Encoding: chunked",),
    ],
    ids=["length", "expect", "too large", "chunked"],
)
def test_a_wrong_secret_is_refused_before_the_body(
    listener: Listener, head: tuple[bytes, ...]
) -> None:
    """A body of any size is refused without 100 Continue, with one answer, and the connection is
    closed.
    """
    protocol, transport = listener.connect()
    protocol.dataReceived(_post(b"/secret", *head))
    assert transport.value().startswith(b"HTTP/1.1 404 ")
    assert _headers(transport)[b"connection"] == b"close" and transport.half_closed
    protocol.dataReceived(b"2\r\nab\r\n0\r\n\r\n")
    assert transport.value().count(b"HTTP/1.1 ") == 1 and listener.handler.waiting == []


def test_only_heads_of_incomplete_requests_are_checked(listener: Listener) -> None:
    """The check comes first: the size of the body is checked afterwards."""
    protocol, transport = listener.connect()
    protocol.dataReceived(_post(b"/now", b"Content-Length: 2", body=b"ab"))
    assert listener.handler.checked == []
    protocol.dataReceived(_post(b"/now2", b"Content-Length: 2"))
    protocol.dataReceived(b"ab")
    assert listener.handler.checked == [b"/now2"]
    protocol.dataReceived(_post(b"/now3", b"Content-Length: 50001"))
    assert listener.handler.checked == [b"/now2", b"/now3"]
    assert _bodies(transport)[:2] == [b"/now", b"/now2"]
    assert _headers(transport)[b":status"] == b"413"


def test_an_unexpected_error_in_the_check(listener: Listener) -> None:
    """The answer is a 500, as for other errors."""
    protocol, transport = listener.connect()
    protocol.dataReceived(_post(b"/crash", b"Content-Length: 2"))
    assert _headers(transport)[b":status"] == b"500" and transport.half_closed


def test_every_answer_has_the_date(listener: Listener) -> None:
    """The date follows the clock, also in refusals."""
    protocol, transport = listener.connect()
    protocol.dataReceived(_get(b"/now"))
    protocol.dataReceived(_get(b"/a"))
    listener.handler.answer_next()
    protocol.dataReceived(b"\x00")
    assert transport.value().count(DATE) == transport.value().count(b"HTTP/1.1 ") == 3
    connections = [listener.connect() for _ in range(3)]
    assert b"\r\n" + DATE in connections[-1][1].value()
    connections[-1][0].connectionLost(connectionDone)
    protocol, transport = connections[0]
    listener.pass_time(3)
    protocol.dataReceived(_get(b"/now"))
    assert b"Date: Wed, 01 May 2024 10:00:03 GMT\r\n" in transport.value()


@pytest.mark.parametrize(
    "request_bytes",
    [
        _get(b"/now"),
        _get(b"/a"),
        _get(b"/crash"),
        _post(b"/secret", b"Content-Length: 2"),
        _post(b"/now", b"Content-Length: 50001"),
        _get(b"/now" + b"a" * 256),
        _get(b"/now", b"no header"),
        _get(b"/now", b"Expect: something"),
        _post(b"/now", b"Transfer-Encoding: chunked", body=b"x\r\n"),
    ],
    ids=["now", "later", "crash", "secret", "body", "head", "header", "expectation", "chunk"],
)
@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        (b"https://a.example", b"https://a.example"),
        (b"null", b"null"),
        (b"", b"*"),
        (b"two words", b"*"),
    ],
)
def test_pages_can_read_every_answer(
    listener: Listener, request_bytes: bytes, origin: bytes, allowed: bytes
) -> None:
    """The answer names the page's origin, with credentials; an invalid origin is treated
    like none.
    """
    line, rest = request_bytes.split(b"\r\n", 1)
    protocol, transport = listener.connect()
    protocol.dataReceived(line + b"\r\nOrigin: " + origin + b"\r\n" + rest)
    if listener.handler.waiting:
        listener.handler.answer_next()
    headers = _headers(transport)
    assert headers[b"access-control-allow-origin"] == allowed
    if allowed == b"*":
        assert b"access-control-allow-credentials" not in headers
    else:
        assert headers[b"access-control-allow-credentials"] == b"true"
        assert headers[b"vary"] == b"Origin"
        assert b"Retry-After" in headers[b"access-control-expose-headers"]


def test_several_origins_are_ignored(listener: Listener) -> None:
    """Browsers send a single one."""
    protocol, transport = listener.connect()
    protocol.dataReceived(_get(b"/now", b"Origin: https://a.example", b"Origin: https://b.example"))
    assert _headers(transport)[b"access-control-allow-origin"] == b"*"


def test_pages_can_read_timeouts(listener: Listener) -> None:
    """Timeouts of the request and of its answer have the headers."""
    for start in (_get(b"/a", b"Origin: null"), _get(b"/a", b"Origin: null")[:-1]):
        protocol, transport = listener.connect()
        protocol.dataReceived(start)
        listener.pass_time(LIMITS.request_timeout + 3)
        assert _headers(transport)[b":status"] == b"408"
        assert _headers(transport)[b"access-control-allow-origin"] == b"null"
        protocol.connectionLost(connectionDone)


def test_connections_above_the_limit_are_refused(listener: Listener) -> None:
    """The limit is exact, and a closed connection frees its place."""
    connections = [listener.connect() for _ in range(3)]
    assert all(transport.value() == b"" for _, transport in connections)
    refused, transport = listener.connect()
    assert transport.value() == responses.dated(
        responses.TOO_MANY_CONNECTIONS, responses.date_line(DAY)
    )
    assert b"Server.Concurrency limit exceeded" in transport.value()
    assert listener.factory.connection_count == 3
    listener.pass_time(LINGER_SECONDS + 2)
    assert transport.disconnected
    refused.connectionLost(connectionDone)
    connections[0][0].connectionLost(connectionDone)
    protocol, transport = listener.connect()
    protocol.dataReceived(_get(b"/now"))
    assert _bodies(transport) == [b"/now"]


def test_idle_connections_are_closed_first(listener: Listener) -> None:
    """The longest idle connection, of the client with the most connections, is closed."""
    oldest, oldest_transport = listener.connect("192.0.2.1")
    _, second = listener.connect("192.0.2.1")
    _, other = listener.connect("192.0.2.2")
    listener.pass_time(1)
    oldest.dataReceived(_get(b"/now"))
    listener.pass_time(2)
    protocol, transport = listener.connect("192.0.2.3")
    assert second.disconnecting and second.value() == b""
    assert not oldest_transport.disconnecting and not other.disconnecting
    assert listener.factory.connection_count == 3
    protocol.dataReceived(_get(b"/now"))
    assert _bodies(transport) == [b"/now"]


def test_slow_requests_are_closed_after_idle_connections(listener: Listener) -> None:
    """Slow requests get an answer; requests that wait for their answer are kept."""
    busy, busy_transport = listener.connect()
    busy.dataReceived(_get(b"/a"))
    slow, slow_transport = listener.connect()
    slow.dataReceived(b"GET /now HT")
    idle, idle_transport = listener.connect()
    listener.pass_time(3)
    _, first = listener.connect("192.0.2.2")
    assert idle_transport.disconnecting and slow_transport.value() == b""
    _, second = listener.connect("192.0.2.2")
    assert _headers(slow_transport)[b":status"] == b"503" and slow_transport.half_closed
    assert _headers(slow_transport)[b"retry-after"] == b"1"
    _, refused = listener.connect("192.0.2.2")
    assert b"Server.Concurrency limit exceeded" in refused.value()
    assert first.value() == second.value() == busy_transport.value() == b""
    listener.handler.answer_next()
    assert _bodies(busy_transport) == [b"/a"]
    stopped = listener.factory.stop()
    for protocol in dict.fromkeys((busy, slow, idle, *listener.factory._connections)):
        assert not _fired(stopped)
        protocol.connectionLost(connectionDone)
    assert _fired(stopped)


def test_a_request_whose_bytes_keep_arriving_makes_room(listener: Listener) -> None:
    """A client can't keep its connections by sending a byte of a body from time to time."""
    slow = [listener.connect() for _ in range(3)]
    for protocol, _ in slow:
        protocol.dataReceived(_post(b"/now", b"Content-Length: 50000"))
    for _ in range(12):
        for protocol, _ in slow:
            protocol.dataReceived(b"x")
        listener.pass_time(0.25)
    protocol, transport = listener.connect("192.0.2.2")
    protocol.dataReceived(_get(b"/now"))
    assert _bodies(transport) == [b"/now"]
    assert [_headers(each)[b":status"] for _, each in slow if each.value()] == [b"503"]


def test_a_network_of_ipv6_is_one_client(listener: Listener) -> None:
    """A client with an address for each of its connections displaces only itself."""
    _, producer = listener.connect("2001:db8:1::1")
    hostile = [listener.connect(f"2001:db8:2::{number}")[1] for number in range(2)]
    listener.pass_time(3)
    listener.connect("2001:db8:2::3")
    assert not producer.disconnecting
    assert [each.disconnecting for each in hostile].count(True) == 1


def _half(target: bytes, size: int) -> bytes:
    """Return an incomplete request with *size* bytes of a body."""
    return _post(target, b"Content-Length: 50000", body=b"x" * size)


def test_the_largest_unfinished_request_is_evicted(listener: Listener) -> None:
    """The request gets 503 and may be retried; the others continue, and no bytes are held
    afterwards.
    """
    heavy = [listener.connect() for _ in range(2)]
    for protocol, _ in heavy:
        protocol.dataReceived(_half(b"/project/heavy", 48_000))
    light, light_transport = listener.connect()
    light.dataReceived(_half(b"/other/now", 8_000))
    heavy[1][0].dataReceived(b"x" * 1_500)
    assert _headers(heavy[1][1])[b":status"] == b"503"
    assert b"stream.in.overloaded" in heavy[1][1].value() and heavy[1][1].half_closed
    assert heavy[0][1].value() == light_transport.value() == b""
    assert listener.factory.producers.size == 56_000
    heavy[0][0].dataReceived(b"x" * 2_000)
    listener.handler.answer_next()
    assert _bodies(heavy[0][1]) == [b"/project/heavy"]
    for protocol in (light, heavy[0][0], heavy[1][0]):
        protocol.connectionLost(connectionDone)
    assert listener.factory.producers.size == listener.factory.strangers.size == 0


def test_heads_have_a_separate_limit(listener: Listener) -> None:
    """Heads of unknown clients can't evict bodies of producers, or the reverse."""
    for part in ("strangers", "producers"):
        assert getattr(listener.factory, part).size == 0
    producer, producer_transport = listener.connect()
    producer.dataReceived(_half(b"/project/source", 50_000))
    protocol, _ = listener.connect()
    protocol.dataReceived(b"GET /" + b"a" * 200)
    assert listener.factory.strangers.size == 205
    assert listener.factory.producers.size == 50_000
    protocol.dataReceived(b" HTTP/1.1\r\nHost: x\r\n\r\n")
    assert listener.factory.strangers.size == 0
    assert producer_transport.value() == b""


def test_a_body_counts_until_its_answer(listener: Listener) -> None:
    """A body counts even if it arrived at once; a project may hold half of the limit."""
    first, first_transport = listener.connect()
    first.dataReceived(_post(b"/p/a", b"Content-Length: 50000", body=b"x" * 50_000))
    assert listener.factory.producers.size == 50_000
    second, transport = listener.connect()
    second.dataReceived(_post(b"/p/b", b"Content-Length: 20000", body=b"x" * 20_000))
    assert _headers(transport)[b":status"] == b"503"
    other, other_transport = listener.connect()
    other.dataReceived(_post(b"/q/b", b"Content-Length: 20000", body=b"x" * 20_000))
    assert listener.factory.producers.size == 70_000
    assert [target for target, _ in listener.handler.waiting] == [b"/p/a", b"/q/b"]
    listener.handler.answer_next()
    listener.handler.answer_next()
    assert listener.factory.producers.size == 0
    assert _bodies(first_transport) == [b"/p/a"] and _bodies(other_transport) == [b"/q/b"]


def test_pipelined_bytes_count_and_are_evicted(listener: Listener) -> None:
    """The current request is answered, and the others must be sent on another connection."""
    ahead, ahead_transport = listener.connect()
    ahead.dataReceived(_get(b"/p/a") + _get(b"/now") * 2000)
    sent_ahead = len(_get(b"/now")) * 2000
    assert listener.factory.producers.size == sent_ahead
    others = [listener.connect() for _ in range(2)]
    for (protocol, _), target in zip(others, (b"/q/b", b"/r/c"), strict=True):
        protocol.dataReceived(_half(target, (105_000 - sent_ahead) // 2 + 1))
    assert listener.factory.producers.size < 105_000 - sent_ahead + 3
    ahead.dataReceived(b"more")
    listener.handler.answer_next()
    assert _bodies(ahead_transport) == [b"/p/a"]
    assert _headers(ahead_transport)[b"connection"] == b"close"
    assert ahead_transport.half_closed and not ahead_transport.disconnecting
    assert [transport.value() for _, transport in others] == [b"", b""]


def test_unread_answers_count(listener: Listener) -> None:
    """Unread answers are evicted by closing the connection."""
    protocol, transport = listener.connect()

    def write(data: bytes) -> None:
        protocol.pauseProducing()

    transport.write = write  # type: ignore[method-assign]
    protocol.dataReceived(_get(b"/now"))
    held = listener.factory.strangers.size
    assert held > 100
    protocol.give_way()
    assert transport.disconnected
    protocol.connectionLost(connectionDone)
    assert listener.factory.strangers.size == 0
    protocol, transport = listener.connect()
    transport.write = write  # type: ignore[method-assign]
    protocol.dataReceived(_get(b"/now"))
    protocol.resumeProducing()
    assert listener.factory.strangers.size == 0


def test_a_half_closed_client_gets_its_answer(listener: Listener) -> None:
    """A client that ends its side after the request gets the answer before the connection
    closes.
    """
    protocol, transport = listener.connect()
    protocol.dataReceived(_get(b"/a"))
    protocol.readConnectionLost()
    assert not transport.disconnecting
    listener.handler.answer_next()
    assert _bodies(transport) == [b"/a"] and transport.disconnecting
    protocol, transport = listener.connect()
    protocol.readConnectionLost()
    assert transport.disconnecting


def test_a_lost_connection_drops_its_answer(listener: Listener) -> None:
    """The answer to a disconnected client is dropped."""
    protocol, transport = listener.connect()
    protocol.dataReceived(_get(b"/a"))
    protocol.connectionLost(connectionDone)
    listener.handler.answer_next()
    assert transport.value() == b""


def _fired(deferred: Deferred[None]) -> bool:
    return deferred.called


def test_stop_answers_received_requests(listener: Listener) -> None:
    """Idle connections close at once, others after their last answer, which announces it."""
    _, idle = listener.connect()
    busy, transport = listener.connect()
    busy.dataReceived(_get(b"/a") + _get(b"/b"))
    half, half_transport = listener.connect()
    half.dataReceived(b"GET /now HT")
    stopped = listener.factory.stop()
    assert idle.disconnecting and not transport.disconnecting
    assert not half_transport.disconnecting
    listener.handler.answer_next()
    assert b"Connection: close" not in transport.value()
    listener.handler.answer_next()
    assert transport.value().count(b"Connection: close") == 1 and transport.disconnecting
    half.dataReceived(b"TP/1.1\r\nHost: x\r\n\r\n")
    assert b"Connection: close" in half_transport.value() and half_transport.disconnecting
    for protocol in tuple(listener.factory._connections):
        assert not _fired(stopped)
        protocol.connectionLost(connectionDone)
    assert _fired(stopped)
    assert listener.clock.getDelayedCalls() == []


def test_stop_has_a_deadline(listener: Listener) -> None:
    """A request without an answer within the shutdown timeout is abandoned."""
    protocol, transport = listener.connect()
    protocol.dataReceived(_get(b"/a"))
    stopped = listener.factory.stop()
    listener.pass_time(LIMITS.shutdown_timeout + 1)
    assert transport.disconnected
    protocol.connectionLost(connectionDone)
    assert _fired(stopped)


def test_stop_without_connections(listener: Listener) -> None:
    """There is nothing to wait for, and no timer remains."""
    assert _fired(listener.factory.stop())
    assert listener.clock.getDelayedCalls() == []


def test_direct_writes_never_overtake_the_transport(listener: Listener) -> None:
    """After an answer that the socket doesn't accept completely, the transport sends the rest."""
    protocol, transport = listener.connect()
    sent: list[bytes] = []

    def send_five_bytes(data: bytes) -> int:
        sent.append(data[:5])
        return 5

    protocol._send_now = send_five_bytes
    protocol.dataReceived(_get(b"/now") + _get(b"/now2"))
    protocol.dataReceived(_get(b"/now3"))
    assert len(sent) == 1
    assert (b"".join(sent) + transport.value()).count(b"HTTP/1.1 200 OK") == 3
    assert transport.value().endswith(b"/now3")
