"""Requests whose rows another node, or a former life of this node, may have stored."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import attrs
import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from stream.definition.key import SinkKey
from stream.mapping.columns import PathColumn
from stream.source.http.earlier_attempts import MAX_WAITING_BYTES, EarlierAttempts
from stream.storage.model.marks import Mark
from stream.storage.network.interface import Enquiry, StoredRows, WriterUnavailable
from tests.source.http.test_handler import KEY, PATH, FakeSink, Listener

_HEADERS = "Content-Type: application/x-ndjson\r\nIdempotency-Key: one\r\n"
_BODY = b'{"a":1}\n{"a":2}\nbroken\n'


@attrs.define
class Writers:
    """The knowledge of all writers: marks of rows, by their keys.

    :ivar stored: rows of sinks.
    :ivar asked: number of requests in each query.
    :ivar waited: whether each query waited for a writer that doesn't answer.
    """

    stored: list[tuple[str, Mark]] = attrs.Factory(list)
    asked: list[int] = attrs.Factory(list)
    waited: list[bool] = attrs.Factory(list)
    is_away: bool = False

    async def enquire(
        self, enquiries: Sequence[Enquiry], /, *, are_first: bool
    ) -> list[list[StoredRows]]:
        self.asked.append(len(enquiries))
        self.waited.append(not are_first)
        if self.is_away and not are_first:
            raise WriterUnavailable("no answer")
        return [
            [
                StoredRows(SinkKey.parse(f"{KEY}/{sink}"), mark.content)
                for sink, mark in self.stored
                if mark.key == enquiry.key
            ]
            for enquiry in enquiries
        ]


@attrs.define(slots=False)
class Node:
    """A source node with two sinks, and writers that it shares with other nodes."""

    writers: Writers
    away: list[str] = attrs.Factory(list)
    sinks: dict[str, FakeSink] = attrs.Factory(
        lambda: {name: FakeSink(columns=[PathColumn("a", path="a")]) for name in ("k", "l")}
    )

    def __attrs_post_init__(self) -> None:
        self.listener = Listener(enquire=self.writers.enquire, away=lambda _: self.away)
        self.listener.router.sinks[KEY] = list(self.sinks.items())

    def push(self, body: bytes = _BODY, headers: str = _HEADERS) -> tuple[int, Any]:
        answer = self.listener.send(PATH, body, headers=headers)
        self.finish()
        answer = answer or self.listener.connection.answers.pop()
        head, _, content = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), json.loads(content)

    def finish(self) -> None:
        while self.listener.connection.pending is not None:
            self.listener.clock.advance(0)

    def keep(self, *names: str) -> None:
        """Store the rows of these sinks at the writers."""
        for name in names:
            mark = self.sinks[name].marks[-1]
            assert mark is not None
            self.writers.stored.append((name, mark))


@pytest.fixture
def writers() -> Writers:
    return Writers()


def test_rows_stored_by_another_node_are_not_written_again(writers: Writers) -> None:
    """The answer is that of the first attempt, including the rejected lines."""
    first, second = Node(writers), Node(writers)
    status, document = first.push()
    assert (status, document["accepted"], document["rejected"]) == (207, 2, 1)
    first.keep("k", "l")
    assert second.push() == (status, document)
    assert [sink.blocks for sink in second.sinks.values()] == [[], []]
    assert [sink.dead for sink in second.sinks.values()] == [[], []]


def test_only_the_sinks_without_rows_are_written(writers: Writers) -> None:
    """The first attempt was interrupted between its sinks."""
    first, second = Node(writers), Node(writers)
    first.push()
    first.keep("l")
    assert second.push()[0] == 207
    assert [len(sink.blocks) for sink in second.sinks.values()] == [1, 0]


def test_attempts_have_different_marks(writers: Writers) -> None:
    """A writer recognises the latest attempt; key and content are the same."""
    nodes = [Node(writers), Node(writers)]
    for node in nodes:
        node.push()
    marks = [node.sinks["k"].marks[-1] for node in nodes]
    assert marks[0] is not None and marks[1] is not None
    assert marks[0] == nodes[0].sinks["l"].marks[-1]
    assert (marks[0].key, marks[0].content) == (marks[1].key, marks[1].content)
    assert marks[0].attempt != marks[1].attempt


def test_another_body_with_the_key_is_refused(writers: Writers) -> None:
    """The body is refused also if another node has stored the first body."""
    first, second = Node(writers), Node(writers)
    first.push()
    first.keep("k", "l")
    status, document = second.push(b'{"a":3}\n')
    assert (status, document["error"]) == (422, "stream.in.idempotencyKeyReused")


def test_a_writer_without_an_answer_may_have_the_rows(writers: Writers) -> None:
    """The request must be retried, unless its client says that it is the first attempt."""
    writers.is_away = True
    node = Node(writers)
    status, document = node.push()
    assert (status, document["error"]) == (503, "stream.in.notStored")
    assert "No answer" in document["message"]
    assert not node.sinks["k"].blocks
    assert node.push(headers=f"{_HEADERS}Idempotency-Attempt: 1\r\n")[0] == 207
    assert writers.waited == [True, False]


@pytest.mark.parametrize(
    ("attempt", "expected"), [("", 207), ("1", 207), ("2", 503), ("12", 503), ("x", 207)]
)
def test_waiting_for_a_writer_that_has_left(writers: Writers, attempt: str, expected: int) -> None:
    """A later attempt waits, if its client says that it is one."""
    node = Node(writers, away=["volume-1"])
    header = f"Idempotency-Attempt: {attempt}\r\n" if attempt else ""
    status, document = node.push(headers=_HEADERS + header)
    assert status == expected
    if expected == 503:
        assert "volume-1" in document["message"]
        node.away.clear()
        node.listener.clock.advance(1.0)
        assert node.push(headers=_HEADERS + header)[0] == 207


def test_rows_of_another_source_are_ignored(writers: Writers) -> None:
    """A file with other sources' records may appear to contain the mark."""
    node, foreign = Node(writers), SinkKey(KEY.project_id + 1, 1, KEY.source_id, "k")

    async def enquire(
        enquiries: Sequence[Enquiry], /, *, are_first: bool
    ) -> list[list[StoredRows]]:
        return [[StoredRows(foreign, b"x" * 8)] for _ in enquiries]

    node.listener = Listener(enquire=enquire)
    node.listener.router.sinks[KEY] = list(node.sinks.items())
    assert node.push()[0] == 207
    assert [len(sink.blocks) for sink in node.sinks.values()] == [1, 1]


def test_bodies_that_wait_for_writers_are_limited() -> None:
    """A source may hold its share of the limit, and always a single body of any size."""
    clock, unanswered = Clock(), list[Deferred[list[list[StoredRows]]]]()

    async def enquire(
        enquiries: Sequence[Enquiry], /, *, are_first: bool
    ) -> list[list[StoredRows]]:
        unanswered.append(Deferred())
        return await unanswered[-1]

    earlier = EarlierAttempts(clock, enquire)
    enquiry = Enquiry(b"k" * 16, b"a" * 8)
    failed: list[Failure] = []
    first = earlier.ask(enquiry, [KEY], 0, MAX_WAITING_BYTES)
    earlier.ask(enquiry, [KEY], 0, 1).addErrback(failed.append)
    assert [failure.value.name for failure in failed] == ["overloaded"]  # type: ignore[union-attr]
    clock.advance(0)
    unanswered[0].callback([[]])
    assert first.called
    earlier.ask(enquiry, [KEY], 0, 1).addErrback(failed.append)
    assert len(failed) == 1


def test_requests_of_one_turn_share_a_query(writers: Writers) -> None:
    """Requests without a key aren't part of it."""
    node = Node(writers)
    connections = []
    for number in range(5):
        headers = f"Content-Type: application/json\r\nIdempotency-Key: {number}\r\n"
        assert node.listener.send(PATH, b'{"a":1}', headers=headers) is None
        connections.append(node.listener.connection)
    node.listener.get(PATH, b'{"a":1}', headers="Content-Type: application/json\r\n")
    node.listener.clock.advance(0)
    assert writers.asked == [5]
    assert len(node.sinks["k"].rows) == 6
