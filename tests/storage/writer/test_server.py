"""Authentication and limits of the writer's port, over the network."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.endpoints import (
    TCP4ClientEndpoint,
    TCP4ServerEndpoint,
    connectProtocol,
)
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.protocol import connectionDone
from twisted.internet.task import Clock, deferLater
from twisted.internet.testing import StringTransport
from twisted.logger import capturedLogs
from twisted.protocols import amp
from twisted.python.failure import Failure

from stream.concurrency.paced import SLICE_SECONDS
from stream.storage.network import commands
from stream.storage.network.interface import SourceLife, WriterUnavailable
from stream.storage.volumes.local_volume import FoundVolume
from stream.storage.writer import appender, server
from stream.storage.writer.refusals import RefusalLog
from stream.storage.writer.server import WriterFactory
from stream.storage.writer.writer import OpenVolume, StorageWriter
from tests.storage.register import LIFE, FakeRegister
from tests.storage.samples import sample_slice, uncompressed
from tests.waiting import until

_SLICE = sample_slice(encoding=uncompressed())
_SECRET = "shared"


class Client(amp.AMP):
    """A client that can send any message in any order.

    :ivar lost: fires when the connection is closed.
    """

    transport: Any

    def __init__(self) -> None:
        super().__init__()
        self.lost: Deferred[None] = Deferred()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        self.lost.callback(None)

    async def greet(
        self,
        secret: str = _SECRET,
        version: int = commands.PROTOCOL_VERSION,
        node: str = "n",
        life: int = LIFE.number,
    ) -> Any:
        challenge = (await self.callRemote(commands.Challenge))["nonce"]
        proof = commands.source_proof(secret, challenge, b"", SourceLife(node, life))
        return await self.hello(proof, version, node, life)

    def hello(
        self,
        proof: bytes,
        version: int = commands.PROTOCOL_VERSION,
        node: str = "n",
        life: int = LIFE.number,
    ) -> Any:
        return self.callRemote(
            commands.Hello, version=version, node=node, life=life, nonce=b"", proof=proof
        )

    async def open(self) -> bytes:
        return bytes((await self.opened())["handle"])

    def opened(
        self, resume: int = -1, node: str = "n", life: int = LIFE.number, slice_: str = ""
    ) -> Deferred[dict[str, Any]]:
        opened: Deferred[dict[str, Any]] = self.callRemote(
            commands.Open, slice=slice_ or str(_SLICE.key), node=node, life=life, resume=resume
        )
        return opened

    def append(
        self, handle: bytes, offset: int, data: bytes, *, crc: int | None = None, level: int = 2
    ) -> Deferred[dict[str, int]]:
        appended: Deferred[dict[str, int]] = self.callRemote(
            commands.Append,
            handle=handle,
            offset=offset,
            level=level,
            crc=zlib.crc32(data) if crc is None else crc,
            data=data,
        )
        return appended


class Served:
    """A writer on a free port of loopback."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.register = FakeRegister.of(_SLICE)
        self.writer = StorageWriter(reactor, self.register)
        self.volume = OpenVolume(FoundVolume(path, "hdd", "one"), "my-volume", reactor)
        self.volume.pool.start()
        self.writer.add_volume(self.volume)
        self.factory = WriterFactory(self.writer, _SECRET, reactor)
        self.clients: list[Client] = []
        self.port: Any = None

    async def connect(
        self, *, greeted: bool = True, node: str = "n", life: int = LIFE.number
    ) -> Client:
        if self.port is None:
            here = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
            self.port = await here.listen(self.factory)
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.port.getHost().port)
        client: Client = await connectProtocol(endpoint, Client())
        self.clients.append(client)
        if greeted:
            await client.greet(node=node, life=life)
        return client

    async def stop(self) -> None:
        for client in self.clients:
            if not client.lost.called:
                client.transport.loseConnection()
                await client.lost
        await self.port.stopListening()
        await until(lambda: not self.factory.connections)
        await self.writer.close()
        await self.volume.leave(reactor, 5)


@pytest.fixture
def caught() -> Any:
    with capturedLogs() as events:
        yield events


@pytest.fixture
def served(tmp_path: Path) -> Any:
    served = Served(tmp_path)
    yield served
    pytest_twisted.blockon(Deferred.fromCoroutine(served.stop()))


@pytest.mark.parametrize("greeting", [{"secret": "wrong"}, {"secret": ""}, {"version": 1}], ids=str)
@pytest_twisted.ensureDeferred
async def test_a_wrong_greeting_ends_the_connection(
    served: Served, greeting: dict[str, Any]
) -> None:
    """A wrong secret and a wrong version are refused."""
    client = await served.connect(greeted=False)
    with pytest.raises(commands.Unauthorized):
        await client.greet(**greeting)
    await client.lost


@pytest_twisted.ensureDeferred
async def test_a_proof_is_valid_for_one_connection_and_node(served: Served) -> None:
    """A proof captured on another connection or for another node is refused."""
    first = await served.connect(greeted=False)
    second, third = [await served.connect(greeted=False) for _ in range(2)]
    nonce = (await first.callRemote(commands.Challenge))["nonce"]
    overheard = commands.source_proof(_SECRET, nonce, b"", SourceLife("n", LIFE.number))
    with pytest.raises(commands.Unauthorized):
        await second.hello(overheard)
    with pytest.raises(commands.Unauthorized):
        await first.hello(overheard, node="other")
    nonce = (await third.callRemote(commands.Challenge))["nonce"]
    overheard = commands.source_proof(_SECRET, nonce, b"", SourceLife("n", LIFE.number))
    with pytest.raises(commands.Unauthorized):
        await third.hello(overheard, life=LIFE.number + 1)


@pytest_twisted.ensureDeferred
async def test_the_proof_of_the_writer_differs(served: Served) -> None:
    """No proof is valid in the other direction, and none contains the secret."""
    client = await served.connect(greeted=False)
    challenge = (await client.callRemote(commands.Challenge))["nonce"]
    shared = (_SECRET, challenge, b"", SourceLife("n", LIFE.number))
    answer = await client.hello(commands.source_proof(*shared))
    assert answer["proof"] == commands.writer_proof(*shared) != commands.source_proof(*shared)
    assert _SECRET.encode() not in answer["proof"]


@pytest_twisted.ensureDeferred
async def test_refused_connections_are_logged_rarely(
    served: Served, caught: list[dict[str, Any]]
) -> None:
    """The first refusal is logged, then few of them, without the received data."""
    for _ in range(5):
        client = await served.connect(greeted=False)
        with pytest.raises(commands.Unauthorized):
            await client.greet(secret="guessed")
        await client.lost
    refused = [event for event in caught if event["log_namespace"].endswith("refusals")]
    assert [event["peer"] for event in refused] == ["127.0.0.1"]
    assert "guessed" not in str(refused)


def test_suppressed_refusals_are_counted() -> None:
    """The log contains the number of suppressed refusals."""
    clock = Clock()
    log = RefusalLog(clock.seconds)
    with capturedLogs() as caught:
        for _ in range(3):
            log.refused("a", "why")
        clock.advance(60)
        log.refused("b", "why")
    assert [(event["peer"], event["more"]) for event in caught] == [("a", 0), ("b", 2)]


@pytest_twisted.ensureDeferred
async def test_calls_before_the_greeting_are_refused(served: Served) -> None:
    """Every other call is refused."""
    client = await served.connect(greeted=False)
    with pytest.raises(commands.Unauthorized):
        await client.open()
    with pytest.raises(commands.Unauthorized):
        await client.append(b"handle", 0, b"x")
    with pytest.raises(commands.Unauthorized):
        await client.callRemote(commands.Close, handle=b"handle")
    assert list(served.path.iterdir()) == []


@pytest_twisted.ensureDeferred
async def test_unauthenticated_clients_can_not_fill_the_memory(served: Served) -> None:
    """An endless call is cut off, with a low limit before the greeting and a higher one
    after it.
    """
    for greeted, limit in ((False, server._MAX_GREETING_BYTES), (True, server._MAX_CALL_BYTES)):
        client = await served.connect(greeted=greeted)
        endless = b"".join(
            b"\0\x08%08d\xff\xff" % index + bytes(0xFFFF) for index in range(limit // 0xFFFF + 3)
        )
        client.transport.write(endless)
        await client.lost
    assert not served.factory.connections


@pytest_twisted.ensureDeferred
async def test_a_connection_without_a_greeting_is_closed(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other data doesn't count as a greeting."""
    monkeypatch.setattr(server, "_HELLO_SECONDS", 0.05)
    client = await served.connect(greeted=False)
    await client.callRemote(commands.Challenge)
    await client.lost


def _box(**fields: bytes) -> bytes:
    box = amp.AmpBox()
    box.update({name.encode(): value for name, value in fields.items()})
    return bytes(box.serialize())


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff" * 100,
        b"\0\0",
        _box(x=b"y"),
        _box(_answer=b"1"),
        _box(_error=b"1"),
        _box(_ask=b"1", _command=b"Hello"),
        _box(_ask=b"1", _command=b"Hello", version=b"x", node=b"\xff", life=b"-"),
        _box(_command=b"Open", slice=b"", node=b"", life=b"1", resume=b"1"),
    ],
    ids=str,
)
@pytest_twisted.ensureDeferred
async def test_garbage_is_logged_as_a_refusal(
    served: Served, caught: list[dict[str, Any]], data: bytes
) -> None:
    """Whatever a stranger sends ends the connection, without a traceback in the log."""
    client = await served.connect(greeted=False)
    client.transport.write(data)
    await client.lost
    await until(lambda: not served.factory.connections)
    assert [event["log_namespace"].rpartition(".")[2] for event in caught if "peer" in event]
    assert not [event for event in caught if "log_failure" in event]


@pytest_twisted.ensureDeferred
async def test_garbage_of_a_source_node_ends_its_connection(
    served: Served, caught: list[dict[str, Any]]
) -> None:
    """The log names the node, and its files are closed."""
    client = await served.connect()
    await client.open()
    client.transport.write(b"\0\0")
    await client.lost
    await until(lambda: not served.writer.open_files)
    (event,) = [event for event in caught if "an invalid call" in event["log_format"]]
    assert event["node"] == "n"


@pytest_twisted.ensureDeferred
async def test_a_slow_greeting_has_a_deadline(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls and single bytes don't extend the time for the greeting, and neither does the second
    look.
    """
    monkeypatch.setattr(server, "_HELLO_SECONDS", 0.2)
    monkeypatch.setattr(server, "_SECOND_LOOK_SECONDS", 0.1)
    asking, dripping = [await served.connect(greeted=False) for _ in range(2)]
    while not (asking.lost.called and dripping.lost.called):
        with suppress(ConnectionLost, ConnectionDone):
            await asking.callRemote(commands.Ping)
        if not dripping.lost.called:
            dripping.transport.write(b"\0\1x\0\1y")
        await deferLater(reactor, 0.02)
    assert not served.factory.connections


@pytest_twisted.ensureDeferred
async def test_connections_without_a_greeting_are_limited(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest one is closed; connections of source nodes don't count."""
    monkeypatch.setattr(server, "MAX_STRANGERS", 3)
    known = await served.connect()
    strangers = [await served.connect(greeted=False) for _ in range(5)]
    await strangers[0].lost
    await strangers[1].lost
    await until(lambda: len(served.factory.connections) == 4)
    assert not any(each.lost.called for each in strangers[2:])
    await known.callRemote(commands.Ping)
    await strangers[2].greet(node="m")
    assert not known.lost.called


@pytest_twisted.ensureDeferred
async def test_a_silent_node_is_disconnected(served: Served) -> None:
    """Files of the node are closed; a node that sends pings stays connected."""
    served.factory.silence_seconds = 0.5
    silent, alive = await served.connect(), await served.connect(node="m")
    await silent.open()
    while not silent.lost.called:
        await alive.callRemote(commands.Ping)
        await deferLater(reactor, 0.02)
    await until(lambda: not served.writer.open_files)
    assert not alive.lost.called


@pytest_twisted.ensureDeferred
async def test_a_handle_belongs_to_its_connection(served: Served) -> None:
    """Another connection can't write with the handle, and a closed handle is invalid."""
    first, second = await served.connect(), await served.connect(node="m")
    handle = await first.open()
    with pytest.raises(commands.UnavailableOnWire):
        await second.append(handle, 0, b"x\n")
    assert (await first.append(handle, 0, b"a\n"))["end"] == 2
    await first.callRemote(commands.Close, handle=handle)
    with pytest.raises(commands.UnavailableOnWire):
        await first.append(handle, 2, b"x\n")


def test_few_files_of_a_lost_connection_are_closed_in_a_turn(tmp_path: Path) -> None:
    """The others are closed in later turns, even if one can't be closed."""
    clock = Clock()
    closed: list[int] = []

    class File:
        """A file whose closing takes time."""

        def __init__(self, number: int) -> None:
            self.number = number

        def close(self) -> None:
            clock.advance(SLICE_SECONDS / 2)
            closed.append(self.number)
            if self.number == 0:
                raise OSError("no")

    factory = WriterFactory(StorageWriter(clock, FakeRegister.of(_SLICE)), _SECRET, clock)
    connection: Any = factory.buildProtocol(None)
    transport: Any = StringTransport()
    transport.setTcpNoDelay = transport.setTcpKeepAlive = lambda _: None
    connection.makeConnection(transport)
    connection._files = {b"%d" % number: File(number) for number in range(4)}
    with capturedLogs() as events:
        connection.connectionLost(Failure(ConnectionLost()))
    assert closed == [0, 1]
    logged = [event["log_format"] for event in events]
    assert logged.count("cannot close a slice file of a lost connection") == 1
    clock.advance(0)
    assert closed == [0, 1, 2, 3]


@pytest_twisted.ensureDeferred
async def test_a_file_of_a_lost_connection_is_opened_again(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new opening waits until the old one is closed, even before its turn to be closed."""
    held: list[Callable[[], object]] = []
    monkeypatch.setattr(
        server,
        "begin_in_turns",
        lambda files, close, *_: held.extend(partial(close, file) for file in files),
    )
    first = await served.connect()
    handle = await first.open()
    await first.append(handle, 0, b"a\n")
    first.transport.abortConnection()
    await until(lambda: bool(held))
    second = await served.connect()
    opened = await second.opened(resume=2)
    assert opened["length"] == 2
    for close in held:
        close()
    assert await second.append(opened["handle"], 2, b"b\n") == {"end": 4}


@pytest_twisted.ensureDeferred
async def test_errors_keep_the_connection_open(served: Served) -> None:
    """Damaged data, an unknown level, a negative offset and an invalid slice are refused."""
    client = await served.connect()
    handle = await client.open()
    with pytest.raises(commands.UnavailableOnWire, match="damaged"):
        await client.append(handle, 0, b"a\n", crc=1)
    with pytest.raises(commands.UnavailableOnWire, match="level"):
        await client.append(handle, 0, b"a\n", level=9)
    with pytest.raises(commands.WrongOffsetOnWire, match="0"):
        await client.append(handle, -1, b"a\n")
    with pytest.raises(commands.UnavailableOnWire, match="can't be read"):
        await client.opened(slice_="{}")
    assert (await client.append(handle, 0, b"a\n"))["end"] == 2


@pytest_twisted.ensureDeferred
async def test_calls_of_an_older_connection_are_ignored(served: Served) -> None:
    """A late opening on an abandoned connection doesn't truncate newer rows."""
    early = await served.connect()
    (early_connection,) = served.factory.connections
    transport = early_connection.transport
    transport.pauseProducing()  # calls from here on arrive late
    late = early.opened(resume=0)
    client = await served.connect()
    handle = await client.open()
    assert (await client.append(handle, 0, b"acknowledged\n"))["end"] == 13
    await client.callRemote(commands.Close, handle=handle)
    transport.resumeProducing()
    with pytest.raises(ConnectionLost):
        await late
    assert (await client.opened(resume=13))["length"] == 13


@pytest_twisted.ensureDeferred
async def test_connections_of_other_nodes_are_kept(served: Served) -> None:
    """Several nodes write concurrently, each to its own files."""
    first, second = await served.connect(node="n"), await served.connect(node="m")
    assert (await first.opened())["length"] == 0
    assert (await second.opened(node="m"))["length"] == 0
    assert (await first.opened())["length"] == 0


@pytest_twisted.ensureDeferred
async def test_unexpected_failures_are_not_described(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The details of an internal error are only logged."""

    async def fail(*_: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(served.writer, "open_file", fail)
    client = await served.connect()
    with pytest.raises(commands.UnavailableOnWire) as refused:
        await client.open()
    assert "detail" not in str(refused.value)


@pytest_twisted.ensureDeferred
async def test_open_files_are_limited(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """One connection can't use all descriptors."""
    monkeypatch.setattr(server, "MAX_FILES_PER_CONNECTION", 1)
    client = await served.connect()
    await client.open()
    with pytest.raises(commands.UnavailableOnWire, match="too many"):
        await client.open()


@pytest_twisted.ensureDeferred
async def test_a_volume_above_the_high_watermark(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection isn't read until the disk has caught up, and doesn't time out meanwhile."""
    monkeypatch.setattr(appender, "HIGH_WATERMARK_BYTES", 0)
    monkeypatch.setattr(appender, "LOW_WATERMARK_BYTES", 0)
    served.factory.silence_seconds = 0.3
    client = await served.connect()
    handle = await client.open()
    (connection,) = served.factory.connections
    relaxed: Deferred[None] = Deferred()
    monkeypatch.setattr(served.volume.appender, "below_low_watermark", lambda: relaxed)
    assert (await client.append(handle, 0, b"a\n"))["end"] == 2
    second = client.append(handle, 2, b"b\n")
    await deferLater(reactor, 0.8)
    assert not second.called
    assert connection in served.factory.connections
    served.factory.silence_seconds = 30.0
    monkeypatch.undo()
    relaxed.callback(None)
    assert (await second)["end"] == 4


@pytest_twisted.ensureDeferred
async def test_the_client_is_notified_of_a_lost_file(served: Served) -> None:
    """The notification has the kind of the error."""
    told: Deferred[tuple[bytes, bytes]] = Deferred()

    class Listening(Client):
        @commands.Lost.responder
        def lost_file(self, handle: bytes, kind: bytes, reason: str) -> dict[str, object]:
            told.callback((handle, kind))
            return {}

    await served.connect()
    endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", served.port.getHost().port)
    client: Listening = await connectProtocol(endpoint, Listening())
    served.clients.append(client)
    await client.greet()
    handle = await client.open()
    served.writer.seal(_SLICE.key)
    assert await told == (handle, b"SEALED")


def test_errors_are_transferred() -> None:
    """Unknown errors are received as an unavailable writer."""
    for kind in commands._KINDS:
        assert type(commands.from_wire(commands.to_wire(kind("why")))) is kind
    assert type(commands.from_wire(RuntimeError("x"))) is WriterUnavailable


@pytest_twisted.ensureDeferred
async def test_a_former_life_is_refused(served: Served) -> None:
    """The greeting of a former life doesn't close the connection of the current life."""
    former = await served.connect()
    served.register.lives["n"] = LIFE.number + 1
    present = await served.connect(life=LIFE.number + 1)
    await former.lost
    handle = bytes((await present.opened(life=LIFE.number + 1))["handle"])
    again = await served.connect(greeted=False)
    with pytest.raises(commands.FencedOnWire):
        await again.greet()
    await again.lost
    assert (await present.append(handle, 0, b"a\n"))["end"] == 2


@pytest_twisted.ensureDeferred
async def test_an_unclaimed_life_is_refused(served: Served) -> None:
    """The greeting is refused, and so is an opening after another life's greeting."""
    client = await served.connect()
    for life in (0, LIFE.number - 1, LIFE.number + 1):
        with pytest.raises(commands.FencedOnWire):
            await client.opened(life=life)
        stranger = await served.connect(greeted=False)
        with pytest.raises(commands.FencedOnWire):
            await stranger.greet(life=life)
    served.register.lives["n"] = 0
    with pytest.raises(commands.FencedOnWire):
        await client.opened(life=0)


@pytest_twisted.ensureDeferred
async def test_a_greeting_overtaken_by_a_later_life_is_refused(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next life claimed the name after etcd's answer, but before the writer received it."""
    slow: Deferred[None] = Deferred()
    life_of = served.register.life_of

    async def slowly(node: str) -> int:
        number = await life_of(node)
        if number == LIFE.number:
            await slow
        return number

    monkeypatch.setattr(FakeRegister, "life_of", lambda self, node: slowly(node))
    former = await served.connect(greeted=False)
    greeting = ensureDeferred(former.greet())
    asked = await served.connect(greeted=False)
    await asked.callRemote(commands.Challenge)  # the greeting arrives after it
    await asked.callRemote(commands.Challenge)
    served.register.lives["n"] = LIFE.number + 1
    present = await served.connect(life=LIFE.number + 1)
    slow.callback(None)
    with pytest.raises(commands.FencedOnWire):
        await greeting
    assert bytes((await present.opened(life=LIFE.number + 1))["handle"])
