from __future__ import annotations

from base64 import b64encode
from itertools import pairwise
from typing import Any

import orjson
import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from stream.etcd import Compacted, EtcdClient, EtcdUnavailable
from stream.etcd.errors import InvalidToken
from stream.etcd.watch import Event, LineSplitter, WatchBatch, WatchStream


@given(st.lists(st.binary().filter(bool)), st.lists(st.integers(0, 400)))
def test_lines_of_a_split_stream(lines: list[bytes], cuts: list[int]) -> None:
    """The lines of a stream don't depend on how it is split."""
    lines = [line.replace(b"\n", b" ") + b"." for line in lines]
    data = b"".join(line + b"\n" for line in lines)
    bounds = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    splitter = LineSplitter()
    found: list[bytes] = []
    for start, end in pairwise(bounds):
        found += splitter.feed(data[start:end])
    assert found == lines


@given(st.integers(1, 50), st.integers(1, 50))
def test_an_endless_line(limit: int, piece: int) -> None:
    """A line of the maximum length is accepted, and a longer one is refused."""
    splitter = LineSplitter(limit)
    fed = 0
    while fed + piece <= limit:
        assert splitter.feed(b"x" * piece) == []
        fed += piece
    with pytest.raises(ValueError, match="longer than"):
        splitter.feed(b"x" * piece)


def _text(value: str) -> str:
    return b64encode(value.encode()).decode()


def _put(key: str, revision: int, value: str = "v") -> dict[str, Any]:
    kv = {"key": _text(key), "value": _text(value), "mod_revision": str(revision)}
    return {"kv": kv}


def _answer(revision: int, *events: dict[str, Any], **more: Any) -> bytes:
    result = {"header": {"revision": str(revision)}, "events": list(events), **more}
    return orjson.dumps({"result": result}) + b"\n"


def _stream() -> tuple[WatchStream, StringTransport]:
    stream, transport = WatchStream("ns/", lambda: 0.0), StringTransport()
    stream.makeConnection(transport)
    return stream, transport


def test_when_etcd_was_last_heard() -> None:
    """Each part of an answer counts, even without the end of its line."""
    now = 1.0
    stream = WatchStream("ns/", lambda: now)
    stream.makeConnection(StringTransport())
    assert stream.heard_at == 1.0
    now = 2.0
    stream.dataReceived(_answer(7)[:3])
    now = 3.0
    assert stream.heard_at == 2.0


def _error(failing: Deferred[Any]) -> BaseException:
    caught: list[Failure] = []
    failing.addErrback(caught.append)
    return caught[0].value  # type: ignore[return-value]


def _results(stream: WatchStream, count: int) -> list[WatchBatch]:
    found: list[WatchBatch] = []
    for _ in range(count):
        stream.next().addCallback(found.append)
    return found


def test_a_split_answer() -> None:
    """A watch reports the same changes, even if its answer is split into single bytes."""
    deleted = {"type": "DELETE", "kv": {"key": _text("ns/b"), "mod_revision": "7"}}
    data = _answer(5, created=True) + _answer(9, _put("ns/a", 6, "ö"), deleted) + _answer(12)
    splits = [[data[:i], data[i:]] for i in range(len(data))]
    splits.append([data[i : i + 1] for i in range(len(data))])
    for pieces in splits:
        stream, _ = _stream()
        for piece in pieces:
            stream.dataReceived(piece)
        changes, progress = _results(stream, 2)
        assert [event.key for event in changes.events] == ["a", "b"]
        assert changes.events[0].kv is not None and changes.events[0].kv.value == "ö".encode()
        assert changes.events[1].kv is None
        assert (changes.revision, progress.revision, progress.events) == (7, 12, ())


def test_a_slow_reader() -> None:
    """The connection is paused at many or large unread batches, and resumed when they are read."""
    for value, count in (("v", 300), ("v" * 1_000_000, 20)):
        stream, transport = _stream()
        stream.dataReceived(_answer(1, created=True))
        sent = 0
        while transport.producerState == "producing":
            sent += 1
            stream.dataReceived(_answer(sent, _put("ns/a", sent, value)))
        assert sent < count
        found = _results(stream, sent)
        assert [batch.revision for batch in found] == list(range(1, sent + 1))
        assert transport.producerState == "producing"


def test_the_end_follows_the_batches() -> None:
    """Changes before the end of the stream are delivered, then the error, on each call."""
    stream, _ = _stream()
    stream.dataReceived(_answer(1, created=True) + _answer(2, _put("ns/a", 2)))
    stream.connectionLost(Failure(ConnectionDone()))
    assert [batch.revision for batch in _results(stream, 1)] == [2]
    for _ in range(2):
        assert isinstance(_error(stream.next()), EtcdUnavailable)


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (_answer(9, canceled=True, compact_revision="8"), Compacted),
        (_answer(9, canceled=True, cancel_reason="etcdserver: permission denied"), InvalidToken),
        (b'{"error":{"grpc_code":14,"message":"no leader"}}\n', EtcdUnavailable),
        (b"<html>\n", EtcdUnavailable),
        (b"[]\n", EtcdUnavailable),
        (b'{"result":{}}\n', EtcdUnavailable),
    ],
)
def test_a_refused_watch(line: bytes, kind: type[Exception]) -> None:
    """A refused watch fails with the reason."""
    stream, _ = _stream()
    stream.dataReceived(line)
    assert isinstance(_error(stream.created), kind)
    assert isinstance(_error(stream.next()), kind)


def test_a_cancelled_next() -> None:
    """A batch that arrives after a cancelled call is returned by the next call."""
    stream, _ = _stream()
    stream.dataReceived(_answer(1, created=True))
    waiting = stream.next()
    waiting.addErrback(lambda _: None)
    waiting.cancel()
    stream.dataReceived(_answer(2, _put("ns/a", 2)))
    assert [batch.revision for batch in _results(stream, 1)] == [2]


@pytest_twisted.ensureDeferred
async def test_watch_of_etcd(etcd: EtcdClient) -> None:
    """A watch starts with the changes since its start revision."""
    start = await etcd.put("w/a", b"1")
    await etcd.put("other/a", b"")
    await etcd.delete("w/a")
    stream = await etcd.watch("w/", start)
    found: list[Event] = []
    while len(found) < 2:
        found += (await stream.next()).events
    await etcd.put("w/b", b"2")
    found += (await stream.next()).events
    seen = [(event.key, event.kv.value if event.kv else None) for event in found]
    assert seen == [("w/a", b"1"), ("w/a", None), ("w/b", b"2")]
    assert [event.mod_revision for event in found] == [start, start + 2, start + 3]
    stream.cancel()


@pytest_twisted.ensureDeferred
async def test_watch_from_a_compacted_revision(etcd: EtcdClient) -> None:
    """A watch from a compacted revision fails with Compacted."""
    start = await etcd.put("w/a", b"1")
    await etcd.put("w/a", b"2")
    await etcd.call("kv/compaction", {"revision": await etcd.put("w/a", b"3")})
    with pytest.raises(Compacted):
        await (await etcd.watch("w/", start)).next()
