"""Flow control of appends, and detection of a dead peer."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import attrs
import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.protocols import amp
from twisted.python.failure import Failure

from stream.concurrency.paced import SLICE_SECONDS
from stream.settings import Settings
from stream.settings.declare import with_values
from stream.storage.model.entity import Slice
from stream.storage.network import commands
from stream.storage.network.connection import (
    APPENDS_IN_FLIGHT,
    Connection,
    ConnectionFactory,
    RemoteFile,
)
from stream.storage.network.interface import SyncLevel, WriterError, WriterUnavailable
from stream.values.bytesize import ByteSize
from tests.storage.register import LIFE
from tests.storage.samples import OPENED_AT, sample_slice


class Transport(StringTransport):
    """A transport that records its abort."""

    aborted = False

    def setTcpNoDelay(self, enabled: bool) -> None:
        self.no_delay = enabled

    def setTcpKeepAlive(self, enabled: bool) -> None:
        pass

    def abortConnection(self) -> None:
        self.aborted = True


@attrs.define(eq=False)
class Listener:
    """:ivar takes: called with each notification."""

    reasons: list[WriterError] = attrs.Factory(list)
    drained: int = 0
    takes: Callable[[], object] = lambda: None

    def draining(self) -> None:
        self.drained += 1
        self.takes()

    def lost(self, reason: WriterError) -> None:
        self.reasons.append(reason)
        self.takes()


class Wire:
    """A connection that the writer has accepted. The test acts as the writer.

    :ivar calls: unanswered calls.
    """

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        *,
        window: int = 8 * 1024 * 1024,
        secret: str = "",
        proof: bytes = b"",
    ) -> None:
        self.clock = Clock()
        settings = with_values(
            Settings().storage.level.local.writer.network,
            {("stream_max_window",): ByteSize(window), ("secret",): secret},
        )
        self.factory = ConnectionFactory(LIFE, settings, self.clock)
        self.connection: Connection = self.factory.buildProtocol(None)  # type: ignore[assignment]
        self.calls: list[tuple[type[amp.Command], dict[str, Any], Deferred[Any]]] = []
        monkeypatch.setattr(self.connection, "callRemote", self._call)
        self.transport = Transport()
        self.connection.makeConnection(self.transport)
        self.answer(commands.Challenge, {"nonce": b"n"})
        self.answer(commands.Hello, {"version": 3, "epoch": b"e", "proof": proof})
        self.listener = Listener()

    def _call(self, command: type[amp.Command], **arguments: Any) -> Deferred[Any]:
        answer: Deferred[Any] = Deferred()
        self.calls.append((command, arguments, answer))
        return answer

    def sent(self, command: type[amp.Command]) -> list[dict[str, Any]]:
        return [arguments for called, arguments, _ in self.calls if called is command]

    def answer(self, command: type[amp.Command], result: Any) -> None:
        """Answer the oldest call with this name."""
        for index, (called, _, answer) in enumerate(self.calls):
            if called is command:
                del self.calls[index]
                answer.callback(result)
                return
        raise AssertionError("no such call")

    def open(self, handle: bytes = b"h") -> RemoteFile:
        opening = self.connection.open(sample_slice(), LIFE, self.listener, -1)
        self.answer(commands.Open, {"handle": handle, "length": 0})
        opened: list[Any] = []
        opening.addCallback(opened.append)
        assert isinstance(opened[0], RemoteFile)
        return opened[0]


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    return Wire(monkeypatch)


def _numbered(number: int) -> Slice:
    """Return a slice of the volume of `sample_slice`."""
    return sample_slice(opened_at=OPENED_AT + timedelta(seconds=number))


def _append(file: RemoteFile, count: int, size: int = 10) -> list[Deferred[int]]:
    return [
        file.append(index * size, bytes(size), level=SyncLevel.SYNCED) for index in range(count)
    ]


@pytest.mark.parametrize("proof", [b"", b"guessed"])
def test_a_writer_without_the_secret_gets_nothing(
    monkeypatch: pytest.MonkeyPatch, proof: bytes
) -> None:
    """The connection is closed before any row is sent to an unknown server."""
    wire = Wire(monkeypatch, secret="shared", proof=proof)
    assert wire.transport.aborted
    assert wire.factory.refusals == 1


def test_appends_of_a_file_are_limited(wire: Wire) -> None:
    """Further appends follow the answers, in order."""
    answers = _append(wire.open(), 10)
    assert len(wire.sent(commands.Append)) == APPENDS_IN_FLIGHT
    for index in range(10):
        wire.answer(commands.Append, {"end": (index + 1) * 10})
        assert answers[index].called
    assert wire.sent(commands.Append) == []


def test_all_files_share_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files take turns; an append larger than the whole window is sent alone."""
    wire = Wire(monkeypatch, window=25)
    first, second = wire.open(b"1"), wire.open(b"2")
    _append(first, 5)
    _append(second, 2)
    second.append(20, bytes(100), level=SyncLevel.SYNCED)
    order = []
    while wire.sent(commands.Append):
        on_the_way = wire.sent(commands.Append)
        size = sum(len(call["data"]) for call in on_the_way)
        assert size <= 25 or len(on_the_way) == 1
        order.append((on_the_way[0]["handle"], on_the_way[0]["offset"]))
        wire.answer(commands.Append, {"end": 0})
    assert [offset for handle, offset in order if handle == b"1"] == [0, 10, 20, 30, 40]
    assert [offset for handle, offset in order if handle == b"2"] == [0, 10, 20]
    assert order.index((b"2", 0)) < order.index((b"1", 30))


def test_nothing_is_sent_while_the_transport_is_full(wire: Wire) -> None:
    """Waiting appends are sent when the transport has room again."""
    file = wire.open()
    wire.connection.pauseProducing()
    _append(file, 2)
    assert wire.sent(commands.Append) == []
    wire.connection.resumeProducing()
    assert len(wire.sent(commands.Append)) == 2


def test_a_file_is_closed_after_its_last_append(wire: Wire) -> None:
    """The writer keeps the order, so the close doesn't wait for the answers."""
    file = wire.open()
    _append(file, APPENDS_IN_FLIGHT + 1)
    closed = file.close()
    assert wire.sent(commands.Close) == []
    wire.answer(commands.Append, {"end": 10})
    assert len(wire.sent(commands.Close)) == 1
    wire.answer(commands.Close, {})
    assert closed.called


def test_closing_has_a_deadline(wire: Wire) -> None:
    """A writer that doesn't answer doesn't block the close."""
    closed = wire.open().close()
    wire.clock.advance(9)
    assert not closed.called
    wire.clock.advance(1)
    assert closed.called


def test_an_append_that_is_too_large_is_refused(wire: Wire) -> None:
    """The writer wouldn't accept it; the connection and the file are still usable."""
    file = wire.open()
    refused = file.append(0, bytes(commands.MAX_APPEND_BYTES + 1), level=SyncLevel.SYNCED)
    with pytest.raises(ValueError, match="cannot append"):
        _result(refused)
    assert wire.sent(commands.Append) == []


def _result(deferred: Deferred[Any]) -> Any:
    results: list[Any] = []
    deferred.addBoth(results.append)
    assert results, "no result yet"
    if isinstance(results[0], Failure):
        results[0].raiseException()
    return results[0]


def test_a_lost_connection_fails_all_appends(wire: Wire) -> None:
    """Every append fails, every listener is notified, and every later call is refused."""
    file = wire.open()
    answers = _append(file, APPENDS_IN_FLIGHT + 2)
    wire.connection.connectionLost(Failure(ConnectionLost()))
    for _, _, answer in wire.calls:
        answer.errback(ConnectionLost())
    for answer in answers:
        with pytest.raises(WriterUnavailable):
            _result(answer)
    assert len(wire.listener.reasons) == 1
    with pytest.raises(WriterUnavailable):
        _result(file.append(0, b"x", level=SyncLevel.SYNCED))
    assert _result(file.close()) is None


def _turn(clock: Clock) -> None:
    """Make the calls that are due now, and not those that they add."""
    due = [call for call in clock.calls if call.getTime() <= clock.seconds()]
    for call in due:
        clock.calls.remove(call)
        call.func(*call.args, **call.kw)


def test_few_files_are_lost_in_a_turn(wire: Wire) -> None:
    """A file that is used before its pipeline is notified stores nothing, and can be closed."""
    files = [wire.open(b"%d" % number) for number in range(4)]
    wire.listener.takes = lambda: wire.clock.advance(SLICE_SECONDS / 2)
    wire.connection.connectionLost(Failure(ConnectionLost()))
    assert len(wire.listener.reasons) == 2
    late = files[2].append(0, b"x", level=SyncLevel.SYNCED)
    closed = files[3].close()
    assert wire.sent(commands.Append) == []
    wire.answer(commands.Close, {})
    assert closed.called
    _turn(wire.clock)
    with pytest.raises(WriterUnavailable):
        _result(late)
    assert len(wire.listener.reasons) == 3


def test_few_files_leave_a_stopping_writer_in_a_turn(wire: Wire) -> None:
    """A file that is lost meanwhile isn't notified: its pipeline may use another file."""
    for number in range(4):
        wire.open(b"%d" % number)
    wire.listener.takes = lambda: wire.clock.advance(SLICE_SECONDS / 2)
    wire.connection.draining()
    assert wire.listener.drained == 2
    wire.connection.lost(b"2", b"unavailable", "stopped")
    _turn(wire.clock)
    assert wire.listener.drained == 3


def test_waiting_openings_are_limited(wire: Wire) -> None:
    """A writer that answers no openings doesn't cause a long queue."""
    limit = wire.factory.settings.max_waiting_streams_per_conn
    for number in range(limit):
        wire.connection.open(_numbered(number), LIFE, wire.listener, -1)
    with pytest.raises(WriterUnavailable, match="too many"):
        _result(wire.connection.open(_numbered(limit), LIFE, wire.listener, -1))


def test_openings_that_hang_do_not_stop_others(wire: Wire) -> None:
    """They count only for their volume; each slice is asked for once, however often it is tried."""
    hanging = [_numbered(number) for number in range(100)]
    for _ in range(wire.factory.settings.max_waiting_streams_per_conn // 50):
        for each in hanging:
            opening = wire.connection.open(each, LIFE, wire.listener, -1)
            opening.addErrback(lambda failure: failure.trap(CancelledError))
            opening.cancel()
    assert len(wire.sent(commands.Open)) == len(hanging)
    wire.connection.open(_numbered(100), LIFE, wire.listener, -1)
    wire.connection.open(sample_slice(volume_id="other"), LIFE, wire.listener, -1)
    assert len(wire.sent(commands.Open)) == len(hanging) + 2


@pytest.mark.parametrize("is_lost", [False, True])
def test_a_slice_is_opened_again_after_a_late_answer(wire: Wire, is_lost: bool) -> None:
    """The file that is opened late is closed before the next attempt is sent."""
    wire.connection.open(sample_slice(), LIFE, wire.listener, -1).addErrback(
        lambda _: None
    ).cancel()
    again = wire.connection.open(sample_slice(), LIFE, wire.listener, 5)
    ((_, _, first),) = [call for call in wire.calls if call[0] is commands.Open]
    wire.calls.clear()
    if is_lost:
        first.errback(WriterUnavailable("the connection was lost"))
    else:
        first.callback({"handle": b"late", "length": 0})
    names = [command for command, _, _ in wire.calls]
    assert names == ([commands.Open] if is_lost else [commands.Close, commands.Open])
    assert wire.sent(commands.Open)[0]["resume"] == 5
    wire.answer(commands.Open, {"handle": b"h", "length": 5})
    assert _result(again).length == 5
    assert wire.connection._unanswered == {sample_slice().key.volume_id: {}}


def test_a_file_that_is_opened_late_is_closed(wire: Wire) -> None:
    """The caller has already given up."""
    opening = wire.connection.open(sample_slice(), LIFE, wire.listener, -1)
    opening.addErrback(lambda _: None)
    opening.cancel()
    wire.answer(commands.Open, {"handle": b"late", "length": 0})
    assert wire.sent(commands.Close) == [{"handle": b"late"}]


def test_a_silent_writer_is_disconnected(wire: Wire) -> None:
    """The connection is closed after the limit, and at least one heartbeat without data."""
    wire.clock.pump([5.0, 5.0])
    assert not wire.transport.aborted
    wire.clock.pump([5.0])
    assert wire.transport.aborted


def test_any_data_of_the_writer_counts(wire: Wire) -> None:
    """An answer to an append counts like one to a ping."""
    for _ in range(20):
        wire.clock.advance(5.0)
        wire.connection.dataReceived(b"\0\1")
        wire.connection._heard = True
    assert not wire.transport.aborted


def test_a_pause_of_the_source_is_not_silence_of_the_writer(wire: Wire) -> None:
    """Data that the writer sent meanwhile is read before the check."""
    wire.clock.advance(120.0)
    assert not wire.transport.aborted


def test_small_packets_are_sent_at_once(wire: Wire) -> None:
    """Nagle's algorithm with delayed acknowledgements would cost 40 ms per call."""
    assert wire.transport.no_delay
