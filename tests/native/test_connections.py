"""Connections whose small records are parsed, rendered and answered by compiled code."""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterator, Sequence
from socket import socket, socketpair
from typing import Any

import attrs
import pytest

from stream import native
from stream.mapping.columns import IpColumn, Mapping, PathColumn
from stream.mapping.native_plan import native_plan
from stream.ops.process.between import BetweenClients

pytestmark = pytest.mark.skipif(not native.is_built, reason="the compiled code isn't built")

SHARES = (1.0, 0.03, 0.02, 0.2, 0.02, 0.005, 0.003)
HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\n\r\n"
USUAL = b"the usual answer"
READABLE = select.EPOLLIN
OTHER_HEAD = HEAD.replace(b"Host", b"hOST")


@attrs.define(eq=False)
class Client:
    """A connection for compiled code, and the client's end of it."""

    ours: socket
    theirs: socket
    pending: object = None
    since: float = 0.0
    _head: object = None
    data: list[bytes] = attrs.Factory(list)
    finished: list[bytes] = attrs.Factory(list)
    rest: list[bytes] = attrs.Factory(list)
    crashes: list[object] = attrs.Factory(list)
    seconds: float = 0.0
    on_take: Callable[[], None] = lambda: None

    def crashed(self, head: object) -> None:
        """Answer that the service has failed."""
        self.pending = None
        self.crashes.append(head)

    def take_data(self, data: bytes) -> None:
        """Receive the bytes that aren't for the compiled code, and use its *seconds*."""
        self.data.append(data)
        self.on_take()
        _spend(self.seconds)

    def finish(self, answer: bytes) -> None:
        """Send answers from the connection's own code."""
        self.pending = None
        self.finished.append(answer)

    def send_rest(self, data: bytes) -> None:
        """Send the bytes that the socket didn't accept."""
        self.rest.append(data)

    def received(self) -> bytes:
        """Return the bytes received by the client."""
        try:
            return self.theirs.recv(1 << 20)
        except BlockingIOError:
            return b""


@attrs.define(eq=False)
class Lane:
    """A lane that records its blocks."""

    targets: Sequence[tuple[Any, int, int]]
    head: object = "the head"
    length: int = 7
    max_records: int = 0
    headers: bytes = b""
    begun: list[tuple[int, int]] = attrs.Factory(list)
    written: list[tuple[list[bytes], int]] = attrs.Factory(list)
    waiting: list[Any] = attrs.Factory(list)
    completions: list[object] = attrs.Factory(list)
    on_write: Callable[[], None] = lambda: None

    def begin(self, count: int, at: int, size: int, waiting: Any) -> tuple[object, float]:
        """Start a block."""
        self.begun.append((count, size))
        self.waiting.append(waiting)
        self.completions.append(object())
        return self.completions[-1], 42.0

    def write(self, rows: list[bytes], count: int, at: int, completion: object) -> None:
        """Write a block."""
        assert completion is self.completions[-1]
        self.written.append((rows, count))
        self.on_write()


class Table:
    """The connections with their clients, and the lanes that their heads lead to."""

    def __init__(self) -> None:
        plan = native_plan(Mapping((PathColumn("a", path="a"), IpColumn("ip"))), 100)
        self.lane = Lane([(plan, 1 << 20, 1)])
        self.lanes: dict[bytes, Lane | None] = {HEAD: self.lane}
        self.asked: list[bytes] = []
        self.connections = native.Connections(self._lane_of, SHARES)
        self.between = BetweenClients()
        self.clients: list[Client] = []
        self.seconds_of_a_head = 0.0

    def _lane_of(self, head: bytes) -> Any:
        self.asked.append(head)
        _spend(self.seconds_of_a_head)
        return self.lanes.get(head)

    def client(self, *, armed: bool = True) -> Client:
        """Add a connection."""
        ours, theirs = socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        client = Client(ours, theirs)
        self.clients.append(client)
        self.connections.add(ours.fileno(), client, f"10.0.0.{len(self.clients)}")
        if armed:
            self.connections.arm(ours.fileno())
        return client

    def turn(self, *clients: Client, mask: int = READABLE) -> list[tuple[int, int]]:
        """Serve one turn in which *clients* are ready."""
        events = [(client.ours.fileno(), int(mask)) for client in clients]
        return self.connections.serve(events, 10.0, self.between)

    def rows(self) -> list[bytes]:
        """Return all rows that were written to the only sink."""
        return [row for rows, _ in self.lane.written for row in rows[0].splitlines()]

    def answer(self, block: int = -1) -> None:
        """Answer the requests of a block."""
        lane = self.lane
        self.connections.answer(
            lane.waiting[block], lane.completions[block], [(1, OK, USUAL)], 43.0
        )


@pytest.fixture
def table() -> Iterator[Table]:
    """A table whose sockets are closed at the end of the test."""
    table = Table()
    yield table
    for client in table.clients:
        client.ours.close()
        client.theirs.close()


def _spend(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def _send(client: Client, body: bytes = b'{"a":1}', head: bytes = HEAD) -> None:
    client.theirs.sendall(head + body)


def test_records_of_a_turn_are_written_and_answered_together(table: Table) -> None:
    """Each row has its own address, and a head is resolved once."""
    clients = [table.client() for _ in range(3)]
    for number, client in enumerate(clients):
        _send(client, b'{"a":%d}' % number)
    assert table.turn(*clients) == []
    assert table.rows() == [b'"0","10.0.0.1"', b'"1","10.0.0.2"', b'"2","10.0.0.3"']
    assert sum(count for count, _ in table.lane.begun) == 3
    assert sum(size for _, size in table.lane.begun) == 21
    assert table.asked == [HEAD]
    assert all(client.pending in table.lane.completions for client in clients)
    assert [(client.since, client._head) for client in clients] == [(42.0, "the head")] * 3
    assert [client.received() for client in clients] == [b""] * 3
    for block in range(len(table.lane.begun)):
        table.answer(block)
    assert [client.received() for client in clients] == [OK] * 3
    assert [(client.pending, client.since) for client in clients] == [(None, 43.0)] * 3
    _send(clients[0])  # it is armed again, and the next turn resolves the head again
    table.turn(clients[0])
    assert len(table.rows()) == 4
    assert table.asked == [HEAD, HEAD]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (HEAD, "the body is missing"),
        (HEAD[:-2], "the head isn't whole"),
        (HEAD + b'{"a":1', "the body isn't whole"),
        (HEAD + b'{"a":1}P', "another request has begun"),
        (HEAD + b'{"b":1}', "there is no value at the path"),
        (HEAD + b'{"a":1 ', "it isn't JSON"),
        (HEAD + b'\xef\xbb\xbf"a"', "a byte order mark"),
        (OTHER_HEAD + b'{"a":1}', "the head leads to no lane"),
        (b"\r\n" + HEAD + b'{"a":1}', "an empty line before the request"),
        (b"GET /" + b"x" * 20_000, "a head that doesn't end"),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 64 + b"\r\n", "many fields"),
    ],
)
def test_unusual_requests_are_left_to_the_connection(
    table: Table, data: bytes, reason: str
) -> None:
    """The connection gets all bytes that were read, and reads the next ones itself."""
    client = table.client()
    client.theirs.sendall(data)
    assert table.turn(client) == [], reason
    assert table.lane.written == []
    assert b"".join(client.data) == data
    assert client.pending is None
    assert table.turn(client) == [(client.ours.fileno(), READABLE)]


def test_unrelated_events_are_returned(table: Table) -> None:
    """Events of unknown descriptors, of connections that aren't armed or wait, and of other kinds
    are returned.
    """
    cold, waiting, closed = table.client(armed=False), table.client(), table.client()
    _send(cold)
    _send(waiting)
    assert table.turn(cold, waiting) == [(cold.ours.fileno(), READABLE)]
    _send(waiting)
    assert table.turn(waiting) == [(waiting.ours.fileno(), READABLE)]
    mask = READABLE | select.EPOLLHUP
    assert table.turn(closed, mask=mask) == [(closed.ours.fileno(), mask)]
    assert table.connections.serve([(9999, 1)], 10.0, table.between) == [(9999, 1)]
    closed.theirs.close()
    assert table.turn(closed) == [(closed.ours.fileno(), READABLE)]  # the end of the input
    assert len(table.rows()) == 1


def test_a_connection_is_not_answered_twice(table: Table) -> None:
    """The connection had a timeout, or is closed and its descriptor is reused."""
    late, gone = table.client(), table.client()
    _send(late)
    _send(gone)
    table.turn(late, gone)
    late.pending = None
    table.connections.remove(gone.ours.fileno())
    gone.pending = None
    other = Client(gone.ours, gone.theirs)
    table.connections.add(gone.ours.fileno(), other, "10.0.0.9")
    for block in range(len(table.lane.begun)):
        table.answer(block)
    assert (late.received(), gone.received()) == (b"", b"")
    assert late.finished == gone.finished == other.finished == []


def test_a_connection_with_further_bytes_answers_itself(table: Table) -> None:
    """Further bytes disarmed the connection while it waited."""
    client = table.client()
    _send(client)
    table.turn(client)
    table.connections.disarm(client.ours.fileno())
    table.answer()
    assert client.finished == [USUAL]
    assert client.received() == b""


def test_a_partial_answer_is_completed_by_the_transport(table: Table) -> None:
    """The transport sends the bytes that the socket didn't accept; the connection is no longer
    armed.
    """
    client = table.client()
    _send(client)
    table.turn(client)
    filled = 0
    while True:
        try:
            filled += client.ours.send(b"x" * 65536)
        except BlockingIOError:
            break
    table.answer()
    assert b"".join(client.rest) == OK
    assert client.pending is None
    _send(client)
    assert table.turn(client) == [(client.ours.fileno(), READABLE)]


def test_rows_above_the_limit_of_a_sink_take_the_general_path(table: Table) -> None:
    """On the general path the sink decides whether it refuses them."""
    plan = table.lane.targets[0][0]
    row = len(b'"1","10.0.0.1"\n')
    table.lane.targets = [(plan, 1 << 20, 1), (plan, 2 * row, 2)]
    clients = [table.client() for _ in range(3)]
    for client in clients:
        _send(client)
    table.turn(*clients)
    assert [len(client.data) for client in clients] == [0, 0, 1]
    first = b"".join(rows[0] for rows, _ in table.lane.written)
    second = b"".join(rows[1] for rows, _ in table.lane.written)
    assert first == second == b'"1","10.0.0.1"\n"1","10.0.0.2"\n'


def test_lanes_to_one_slice_share_its_room(table: Table) -> None:
    """Whatever the heads are; rows for another sink that were taken back leave their room."""
    plan = table.lane.targets[0][0]
    row = len(b'"1","10.0.0.1"\n')
    table.lane.targets = [(plan, 3 * row, 1)]
    table.lanes[OTHER_HEAD] = other = Lane([(plan, 3 * row, 1), (plan, row, 2)])
    clients = [table.client() for _ in range(5)]
    for number, client in enumerate(clients):
        _send(client, head=OTHER_HEAD if number in (1, 2) else HEAD)
    table.turn(*clients)
    assert [len(client.data) for client in clients] == [0, 0, 1, 0, 1]
    assert sum(len(rows[0]) for rows, _ in table.lane.written) == 2 * row
    assert [len(block) for rows, _ in other.written for block in rows] == [row, row]


def test_all_connections_are_left_to_their_own_code(table: Table) -> None:
    """When the listener stops, the answers are the last ones of their connections."""
    idle, waiting = table.client(), table.client()
    _send(waiting)
    table.turn(waiting)
    table.connections.disarm_all()
    table.answer()
    assert waiting.finished == [USUAL]
    _send(idle)
    assert table.turn(idle) == [(idle.ours.fileno(), READABLE)]


def test_connections_change_while_a_block_is_written(table: Table) -> None:
    """A sink that answers at once may close connections meanwhile."""
    client, other = table.client(), table.client()

    def answer_at_once() -> None:
        table.answer()
        table.connections.remove(other.ours.fileno())

    table.lane.on_write = answer_at_once
    _send(client)
    table.turn(client)
    assert client.received() == OK
    assert client.pending is None


def test_a_failing_lane_affects_only_its_own_requests(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The failure is reported as an unexpected error."""
    reported: list[Any] = []
    monkeypatch.setattr("sys.unraisablehook", reported.append)
    table.lanes[OTHER_HEAD] = broken = Lane(table.lane.targets)

    def fail() -> None:
        raise RuntimeError("broken")

    broken.on_write = fail
    clients = [table.client() for _ in range(2)]
    _send(clients[0], head=OTHER_HEAD)
    _send(clients[1])
    table.turn(*clients)
    assert len(table.rows()) == 1
    assert [str(each.exc_value) for each in reported] == ["broken"]
    assert [client.crashes for client in clients] == [["the head"], []]
    _send(clients[0])
    assert table.turn(clients[0]) == [(clients[0].ours.fileno(), READABLE)]


def test_a_busy_client_is_served_after_the_others(table: Table) -> None:
    """New and busy connections follow light ones, as in `stream.ops.process.fair_turns`."""
    busy, light = table.client(), table.client()
    served: list[Client] = []
    for second in (1.0, 2.5, 4.0):
        _send(light)
        _send(busy)
        served.clear()
        events = [(busy.ours.fileno(), 1), (light.ours.fileno(), 1)]
        if second == 4.0:
            late = table.client()
            _send(late)
            events.insert(0, (late.ours.fileno(), 1))
        table.connections.serve(events, second, table.between)
        for block in range(len(table.lane.begun)):
            table.answer(block)
    assert table.rows()[-3:] == [
        b'"1","10.0.0.1"',
        b'"1","10.0.0.2"',
        b'"1","10.0.0.3"',
    ]


def test_blocks_are_committed_and_answered_before_unusual_requests_end(table: Table) -> None:
    """A record waits neither for the Python code of other clients nor for the next turn."""
    order: list[str] = []
    usual, *unusual = (table.client() for _ in range(3))

    def write() -> None:
        table.between.call_soon(lambda: order.append("committed"))

    table.lane.on_write = write
    table.between.watch(lambda: order.append("checked"))
    for client in unusual:
        client.on_take = lambda: order.append("unusual")
        client.theirs.sendall(HEAD + b"unusual")
    _send(usual)
    table.turn(*unusual, usual)
    assert order == ["committed", "unusual", "checked", "unusual", "checked"]


@pytest.mark.parametrize("expensive", ["heads", "requests"])
def test_the_python_code_has_its_share_of_a_turn(table: Table, expensive: str) -> None:
    """Unknown heads or unusual requests that take long end the turn; the others stay ready."""
    python_turn = SHARES[6]
    clients = [table.client() for _ in range(12)]

    def turn(second: float, body: bytes) -> int:
        for number, client in enumerate(clients):
            client.data.clear()
            table.connections.arm(client.ours.fileno())
            client.theirs.sendall(HEAD.replace(b"x", b"%d" % number) + body)
        events = [(client.ours.fileno(), int(READABLE)) for client in clients]
        table.connections.serve(events, second, table.between)
        return sum(bool(client.data) for client in clients)

    assert turn(1.0, b"unusual") == len(clients)  # the next period, in which all are light
    if expensive == "heads":
        table.seconds_of_a_head = python_turn / 2
    else:
        for client in clients:
            client.seconds = python_turn / 2
        assert turn(2.5, b"unusual") == len(clients)  # their mean time isn't known yet
    # Some because their requests have been cheap, some because they have waited the longest.
    assert 2 <= turn(4.0, b"unusual") <= 8
