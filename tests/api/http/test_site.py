"""Connections of the API: bytes and time of unauthenticated clients are limited."""

from __future__ import annotations

import socket
from typing import Any
from unittest.mock import AsyncMock

import attrs
import orjson
import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure

from stream.api.http import site as site_module
from stream.api.http.app import build_app
from stream.api.http.call import Call, Send, StreamingResponse
from stream.api.http.guard import Guard
from stream.api.http.server import Front
from stream.api.http.site import (
    BODY_SECONDS,
    HEADERS_SECONDS,
    MAX_BODY_BYTES,
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    ApiSite,
)
from stream.api.spec.operation import Operation
from stream.api.spec.request_schemas import CREATE_SOURCE
from stream.authority import TokenInfo
from stream.errors import UserError
from tests.api.conftest import MACHINE, SOURCES, TOKEN, Api

ensure = pytest_twisted.ensureDeferred

PUBLIC = Operation(id="Public", method="GET", path="/public", summary="For anybody.", public=True)
ECHO = Operation(
    id="Echo",
    method="POST",
    path="/echo",
    summary="Counts bytes.",
    right="read",
    raw_body=True,
)
LASTING = Operation(id="Lasting", method="GET", path="/lasting", summary="Lasts.", public=True)
KNOWN = TokenInfo(id="1", description="", is_master=True, project_id=1, project_name="")
POST = b"POST /echo HTTP/1.1\r\nHost: x\r\nX-StorageApi-Token: t\r\n"


class Verifier:
    """A verifier of tokens that answers when the test says so."""

    challenge = ""
    tokens = None

    def __init__(self) -> None:
        self.waiting: list[Deferred[TokenInfo]] = []
        self.at_once = False

    async def verify(self, token: object) -> TokenInfo:
        if self.at_once:
            return KNOWN
        self.waiting.append(Deferred())
        return await self.waiting[-1]


class Server:
    """A site with a public operation and one that needs a token."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.verifier = Verifier()
        self.bodies: list[bytes] = []
        self.lasting: list[Deferred[None]] = []
        self.left = 0

        async def public(call: Call) -> Any:
            return {"text": "x" * 20_000}

        async def echo(call: Call) -> Any:
            self.bodies.append(call.raw_body)
            return {"bytes": len(call.raw_body)}

        async def write(send: Send) -> None:
            await send(b"first")
            self.lasting.append(Deferred())
            try:
                await self.lasting[-1]
            except CancelledError:
                self.left += 1
                raise

        async def lasting(call: Call) -> Any:
            return StreamingResponse(content_type="text/plain", write=write)

        guard = Guard(self.clock, self.verifier, None)  # type: ignore[arg-type]
        operations = {"Public": PUBLIC, "Echo": ECHO, "Lasting": LASTING}
        handlers = {"Public": public, "Echo": echo, "Lasting": lasting}
        app = build_app(self.clock, guard, operations, handlers, awaited=AsyncMock())
        self.site = ApiSite(Front(self.clock, app.resource()), self.clock)

    def connect(self) -> Connection:
        return Connection(self)


class Connection:
    """A client of a `Server`."""

    def __init__(self, server: Server) -> None:
        self.transport = StringTransport()
        self.channel: Any = server.site.buildProtocol(None)
        self.channel.makeConnection(self.transport)

    def send(self, data: bytes) -> None:
        self.channel.dataReceived(data)

    @property
    def reads(self) -> bool:
        """Return whether the server reads from the connection."""
        return self.transport.producerState == "producing"

    @property
    def answer(self) -> tuple[int, Any]:
        """Return the status and the JSON of the last answer."""
        head, _, body = self.transport.value().rpartition(b"HTTP/1.1 ")[2].partition(b"\r\n\r\n")
        return int(head[:3]), orjson.loads(body) if body else None

    def lose(self) -> None:
        self.channel.connectionLost(Failure(ConnectionDone()))


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def client(server: Server) -> Connection:
    return server.connect()


def test_no_body_is_read_before_the_token_is_known(server: Server, client: Connection) -> None:
    """The server stops reading after the head, and resumes when the token is verified."""
    client.send(POST + b"Content-Length: 6\r\n\r\nabc")
    assert not client.reads
    server.verifier.waiting[0].callback(KNOWN)
    assert client.reads
    client.send(b"def")
    assert client.answer == (200, {"bytes": 6})
    assert server.bodies == [b"abcdef"]
    assert not client.transport.disconnecting


def test_a_transport_with_room_does_not_resume_reading(server: Server, client: Connection) -> None:
    """A transport that has sent its buffer doesn't resume reading before the token is verified."""
    client.send(POST + b"Content-Length: 6\r\n\r\n")
    client.channel.pauseProducing()
    client.channel.resumeProducing()
    assert not client.reads


def test_an_invalid_token_is_refused_at_once(server: Server, client: Connection) -> None:
    """The answer doesn't wait for the body, which is discarded."""
    client.send(POST + b"Content-Length: 16000000\r\n\r\n" + b"x" * 1000)
    refused = UserError("invalid access token", status=401, name="storage.tokenInvalid")
    server.verifier.waiting[0].errback(refused)
    status, document = client.answer
    assert (status, document["error"]) == (401, "storage.tokenInvalid")
    assert b"Connection: close\r\n" in client.transport.value()
    assert client.transport.disconnecting
    sent = client.transport.value()
    client.send(b"GET /public HTTP/1.1\r\nHost: x\r\n\r\n")
    assert client.transport.value() == sent


def test_without_a_token(server: Server, client: Connection) -> None:
    """A request without a token is refused without asking the authority."""
    client.send(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
    status, document = client.answer
    assert (status, document["error"]) == (400, "stream.api.missingField")
    assert server.verifier.waiting == []


def test_a_client_that_asks_before_it_sends(server: Server, client: Connection) -> None:
    """The client gets ``100 Continue`` when its token is verified, and not earlier."""
    client.send(POST + b"Content-Length: 3\r\nExpect: 100-continue\r\n\r\n")
    assert client.transport.value() == b""
    server.verifier.waiting[0].callback(KNOWN)
    assert client.transport.value() == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.send(b"abc")
    assert client.answer == (200, {"bytes": 3})


def test_an_announced_length(server: Server, client: Connection) -> None:
    """A body whose announced length is too large is refused before it is read."""
    server.verifier.at_once = True
    client.send(POST + b"Content-Length: %d\r\n\r\n" % (MAX_BODY_BYTES + 1))
    status, document = client.answer
    assert (status, document["error"]) == (413, "stream.api.payloadTooLarge")
    assert str(MAX_BODY_BYTES) in document["message"]


def test_a_length_without_end(server: Server, client: Connection) -> None:
    """The bytes of chunks are counted, and too many are refused."""
    server.verifier.at_once = True
    client.send(POST + b"Transfer-Encoding: chunked\r\n\r\n")
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    for _ in range(MAX_BODY_BYTES // 0x10000):
        client.send(chunk)
        assert client.transport.value() == b""
    client.send(chunk)
    assert client.answer[0] == 413
    assert server.site._waiting_bytes == 0


def test_the_largest_body(server: Server, client: Connection) -> None:
    """A body of exactly the limit is accepted, and its bytes are released afterwards."""
    server.verifier.at_once = True
    client.send(POST + b"Content-Length: %d\r\n\r\n" % MAX_BODY_BYTES)
    client.send(b"x" * MAX_BODY_BYTES)
    assert client.answer == (200, {"bytes": MAX_BODY_BYTES})
    assert server.site._waiting_bytes == 0


def test_bodies_have_a_common_limit(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request above the common limit gets 503, until another body ends."""
    monkeypatch.setattr(site_module, "MAX_WAITING_BYTES", 1000)
    server.verifier.at_once = True
    first, second = server.connect(), server.connect()
    for each in (first, second):
        each.send(POST + b"Content-Length: 900\r\n\r\n" + b"x" * 600)
    assert second.answer[0] == 503
    assert b"Retry-After: 1" in second.transport.value()
    first.lose()
    third = server.connect()
    third.send(POST + b"Content-Length: 900\r\n\r\n" + b"x" * 900)
    assert third.answer == (200, {"bytes": 900})


def test_bodies_of_one_project_leave_room(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the limit, the largest incomplete body of the project with the most bytes gets 503, and a
    project is never refused because of one with more bytes.
    """
    monkeypatch.setattr(site_module, "MAX_WAITING_BYTES", 1000)
    small, large, other, more = [server.connect() for _ in range(4)]

    def begin(client: Connection, project: int, size: int) -> None:
        client.send(POST + b"Content-Length: 900\r\n\r\n")
        server.verifier.waiting.pop().callback(attrs.evolve(KNOWN, project_id=project))
        client.send(b"x" * size)

    begin(small, 1, 400)
    begin(large, 1, 600)
    begin(other, 2, 300)
    assert large.answer[0] == 503
    begin(more, 1, 400)
    assert more.answer[0] == 503
    small.send(b"x" * 500)
    assert small.answer[0] == 503
    other.send(b"x" * 600)
    assert other.answer == (200, {"bytes": 900})
    assert server.site._waiting_bytes == 0


def test_connections_of_one_project_leave_room(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the limit, the oldest connection of the project with the most is closed."""
    monkeypatch.setattr(site_module, "MAX_CONNECTIONS", 4)

    def known(project: int) -> Connection:
        client = server.connect()
        client.send(POST + b"Content-Length: 900\r\n\r\n")
        server.verifier.waiting.pop().callback(attrs.evolve(KNOWN, project_id=project))
        return client

    other = known(2)
    busy = [known(1) for _ in range(3)]
    server.connect()
    assert busy[0].transport.disconnected
    assert not any(each.transport.disconnected for each in (other, *busy[1:]))


@pytest.mark.parametrize("piece", [b"POST /ech", b"POST /echo HTTP/1.1\r\n", POST, b"\r\n"])
def test_a_head_that_does_not_end(server: Server, client: Connection, piece: bytes) -> None:
    """An incomplete head is answered with 408, however regularly data arrives."""
    client.send(piece)
    for _ in range(HEADERS_SECONDS + 1):
        server.clock.advance(1)
        client.send(b"" if piece == b"\r\n" else b"x")
    status, document = client.answer
    assert (status, document["error"]) == (408, "stream.api.requestTimeout")
    assert client.transport.disconnecting
    client.lose()
    server.clock.advance(1)
    assert server.clock.getDelayedCalls() == []


def test_a_body_that_does_not_end(server: Server, client: Connection) -> None:
    """An incomplete body is answered with 408, however regularly data arrives."""
    server.verifier.at_once = True
    client.send(POST + b"Content-Length: 1000\r\n\r\n")
    for _ in range(BODY_SECONDS + 1):
        client.send(b"x")
        server.clock.advance(1)
    status, document = client.answer
    assert (status, document["error"]) == (408, "stream.api.requestTimeout")
    assert "body" in document["message"]
    assert server.site._waiting_bytes == 0
    client.lose()
    server.clock.advance(1)
    assert server.clock.getDelayedCalls() == []


def test_an_idle_connection(server: Server, client: Connection) -> None:
    """An idle connection is kept for some seconds, also after a request with a body."""
    server.verifier.at_once = True
    client.send(POST + b"Content-Length: 1\r\n\r\nx")
    server.clock.advance(HEADERS_SECONDS - 1)
    assert not client.transport.disconnecting
    server.clock.advance(1)
    assert client.transport.disconnecting


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /" + b"x" * MAX_HEAD_BYTES, 431),
        (b"GET / HTTP/1.1\r\nA: " + b"x" * MAX_HEAD_BYTES, 431),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * (MAX_HEADERS + 2) + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"A: " + b"x" * 9000 + b"\r\nB: " + b"x" * 9000 + b"\r\n", 431),
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (b"nonsense\r\n", 400),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (POST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n", 413),
        (POST + b"Content-Length: -1\r\n\r\n", 400),
        (POST + b"Content-Length: \xb2\r\n\r\n", 400),
        (POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"GET /v1 HTTP/1.1\r\nHost: a..b\r\n\r\n", 404),
        (b"GET /v1 HTTP/1.1\r\nHost: \xff\xff\r\n\r\n", 404),
        (b"GET /v1 HTTP/1.1\r\nHost: " + b"x" * 300 + b"\r\n\r\n", 404),
        (b"GET /%ff HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /public?" + b"a&" * 4000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        (POST + b"X-KBC-ProjectId: " + b"9" * 5000 + b"\r\n\r\n", 401),
    ],
)
def test_odd_heads(server: Server, client: Connection, head: bytes, status: int) -> None:
    """Each unusual head gets the right status, with JSON in the body."""
    client.send(head)
    for waiting in server.verifier.waiting:
        waiting.errback(UserError("no", status=401))
    assert client.transport.value().startswith(b"HTTP/1.1 %d " % status)
    assert b"Content-Type: application/json\r\n" in client.transport.value()
    assert b"X-Content-Type-Options: nosniff\r\n" in client.transport.value()
    assert client.transport.value().count(b"HTTP/1.1 ") == 1
    assert len(client.transport.value()) < 1000 or status == 200


def test_refused_heads_do_nothing(server: Server, client: Connection) -> None:
    """Bytes behind a refused head are not parsed as a request."""
    server.verifier.at_once = True
    client.send(POST + b"Content-Length: 1x\r\nX: y\r\n\r\nGET /public HTTP/1.1\r\n\r\n")
    assert server.bodies == []
    assert client.transport.value().count(b"HTTP/1.1 ") == 1


def test_a_client_that_reads_no_answers(server: Server, client: Connection) -> None:
    """The connection closes after one answer that the client doesn't read; later requests aren't
    handled.
    """
    client.send(b"")
    client.channel.pauseProducing()  # the transport's buffer is full
    client.send(b"GET /public HTTP/1.1\r\nHost: x\r\n\r\n" * 100)
    assert client.transport.value().count(b"HTTP/1.1 200") == 1
    assert client.transport.disconnecting
    server.clock.advance(60)
    assert client.transport.disconnected


@pytest.mark.parametrize("ahead", [0, 1, 50, 1000])
def test_a_client_that_leaves_a_stream(server: Server, client: Connection, ahead: int) -> None:
    """The disconnect is noticed despite pipelined requests, which aren't answered."""
    request = b"GET /lasting HTTP/1.1\r\nHost: x\r\nX: %b\r\n\r\n" % (b"x" * 900)
    client.send(request)
    for _ in range(ahead):
        client.send(request)
    assert client.reads
    assert (len(server.lasting), server.left) == (1, 0)
    client.lose()
    assert (len(server.lasting), server.left) == (1, 1)


def test_a_client_that_leaves_a_stream_before_its_body(server: Server, client: Connection) -> None:
    """The connection is read although nobody reads the body of its request."""
    client.send(b"GET /lasting HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n")
    assert client.reads
    assert (len(server.lasting), server.left) == (1, 0)
    client.lose()
    assert (len(server.lasting), server.left) == (1, 1)


def test_pipelined_requests_start_in_later_turns(
    server: Server, client: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each pipelined request is answered, but a turn of the reactor starts only as many as it has
    time for.
    """
    started: list[object] = []
    counts: list[int] = []
    begin, start_some = site_module.ApiRequest._begin, ApiSite._start_some

    def slow(request: site_module.ApiRequest, *head: bytes) -> None:
        server.clock.rightNow += site_module._AHEAD_SECONDS / 2
        started.append(request)
        begin(request, *head)

    def turn(site: ApiSite) -> None:
        counts.append(len(started))
        start_some(site)

    monkeypatch.setattr(site_module.ApiRequest, "_begin", slow)
    monkeypatch.setattr(ApiSite, "_start_some", turn)
    client.send(b"GET /unknown HTTP/1.1\r\nHost: x\r\n\r\n" * 20)
    server.clock.advance(0)
    assert counts == list(range(1, 20, 2))
    assert client.transport.value().count(b"HTTP/1.1 404") == 20


def test_a_pipelined_request_of_a_lost_connection_does_not_start(
    server: Server, client: Connection
) -> None:
    """Pipelined requests of a lost connection don't start."""
    client.send(b"GET /public HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
    client.lose()
    server.clock.advance(0)
    assert client.transport.value().count(b"HTTP/1.1 200") == 1


def test_no_request_follows_a_stream(server: Server, client: Connection) -> None:
    """The connection ends with the stream that it carries."""
    request = b"GET /lasting HTTP/1.1\r\nHost: x\r\n\r\n"
    client.send(2 * request)
    server.lasting[0].callback(None)
    assert client.transport.value().count(b"HTTP/1.1 200") == 1
    assert b"Connection: close" in client.transport.value()
    assert client.transport.disconnecting


def test_a_client_that_sends_without_end_during_a_stream(
    server: Server, client: Connection
) -> None:
    """A client that keeps sending during a stream is disconnected."""
    client.send(b"GET /lasting HTTP/1.1\r\nHost: x\r\n\r\n")
    for _ in range(site_module.MAX_DISCARDED_BYTES // MAX_BODY_BYTES + 1):
        client.send(bytes(MAX_BODY_BYTES))
    assert client.transport.disconnected


def test_the_oldest_unauthenticated_connection_is_closed(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above the limit, the oldest unauthenticated connection is closed; authenticated ones
    remain.
    """
    monkeypatch.setattr(site_module, "MAX_CONNECTIONS", 3)
    server.verifier.at_once = True
    known = server.connect()
    known.send(POST + b"Content-Length: 1\r\n\r\nx")
    strangers = [server.connect() for _ in range(2)]
    newest = server.connect()
    assert [each.transport.disconnected for each in (known, *strangers, newest)] == [
        *(False, True),
        *(False, False),
    ]


PIECES = (
    *(POST, b"\r\n", b"\r\n\r\n", b"GET /public HTTP/1.1\r\n", b"Host: x\r\n", b"abc"),
    *(b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"3\r\nabc\r\n", b"0\r\n\r\n"),
)
BYTES = st.binary(max_size=200) | st.sampled_from(PIECES)


@given(st.lists(BYTES, max_size=12), st.booleans())
def test_any_bytes(pieces: list[bytes], known: bool) -> None:
    """Any bytes get answers below 500, and no state remains."""
    server = Server()
    server.verifier.at_once = known
    client = server.connect()
    for piece in pieces:
        if client.transport.disconnecting or client.transport.disconnected:
            break
        client.send(piece)
    for waiting in server.verifier.waiting:
        waiting.errback(UserError("no", status=401))
    assert b"HTTP/1.1 5" not in client.transport.value()
    client.lose()
    server.clock.advance(1)
    assert server.clock.getDelayedCalls() == []
    assert server.site._waiting_bytes == 0
    assert server.site.connections == []


def _send_everything(port: int, head: bytes, size: int) -> bytes:
    """Return the answer to a client that reads only after sending its whole body."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(head)
        piece = b"[" * 65536
        for _ in range(size // len(piece)):
            connection.sendall(piece)
        answer = b""
        while data := connection.recv(65536):
            answer += data
        return answer


@pytest.mark.parametrize("token", ["123-456-unknown", MACHINE])
@ensure
async def test_unauthenticated_clients_with_large_bodies(api: Api, token: str) -> None:
    """A client that sends 16 MB before it reads gets its answer instead of a reset connection."""
    port = int(api.url.rpartition(":")[2])
    head = (
        f"POST {SOURCES} HTTP/1.1\r\nHost: x\r\nX-StorageApi-Token: {token}\r\n"
        f"Content-Length: {16 << 20}\r\n\r\n"
    ).encode()
    answer = await deferToThread(_send_everything, port, head, 16 << 20)
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert len(answer) < 1000
    assert (await api.call("GET", SOURCES, token=TOKEN)).status == 200


@pytest.mark.parametrize("strict", [False, True])
def test_unknown_members(strict: bool) -> None:
    """The answer warns of unknown members or refuses them, depending on the setting."""
    clock, verifier = Clock(), Verifier()
    verifier.at_once = True

    async def create(call: Call) -> Any:
        return {"name": call.body["name"]}

    operation = Operation(
        id="Create",
        method="POST",
        path="/echo",
        summary="Takes JSON.",
        right="read",
        body=CREATE_SOURCE,
    )
    guard = Guard(clock, verifier, None, strict=strict)  # type: ignore[arg-type]
    app = build_app(clock, guard, {"Create": operation}, {"Create": create}, awaited=AsyncMock())
    site = ApiSite(Front(clock, app.resource()), clock)
    transport, channel = StringTransport(), site.buildProtocol(None)
    assert channel is not None
    channel.makeConnection(transport)
    body = b'{"type":"http","name":"n","descripton":"d"}'
    channel.dataReceived(POST + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    document = orjson.loads(transport.value().partition(b"\r\n\r\n")[2])
    text = 'ember "descripton" of body is not known: did you mean "description"?'
    if strict:
        assert (document["statusCode"], document["error"]) == (400, "stream.api.unknownMember")
        assert text in document["message"]
    else:
        [warning] = document["warnings"]
        assert (warning["param"], document["name"]) == ("body.descripton", "n")
        assert text in warning["message"]
