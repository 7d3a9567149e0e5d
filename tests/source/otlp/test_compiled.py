"""Exports in compiled code have the answers and rows of the Python code."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from stream import native
from stream.errors import UserError
from stream.mapping.columns import (
    BodyColumn,
    Column,
    HeadersColumn,
    PathColumn,
    Template,
    TemplateColumn,
)
from stream.record.context import RecordContext
from stream.sink.outcome import Completion
from stream.source.dispatcher import SourceEntry
from stream.source.otlp import compiled, handler
from stream.source.otlp.decode import Signal
from stream.source.otlp.handler import RECORDS_AT_ONCE
from stream.tail.sampler import Watched
from tests.effort import examples
from tests.native.exports import columns, damaged, export
from tests.source.http.test_handler import KEY, SECRET, FakeSink, Listener
from tests.source.otlp.test_flatten import as_protobuf, logs
from tests.templates.inprocess import row

URL = f"/otlp/123/my-source/{SECRET}/v1/logs"
PROTOBUF = "Content-Type: application/x-protobuf\r\n"

pytestmark = pytest.mark.skipif(not native.is_built, reason="the compiled code isn't built")


class OrderedSink(FakeSink):
    """A sink that keeps rows in order, whether they were written together or not.

    It renders records that need the engine at once, and refuses blocks of rows if *takes_blocks* is
    false.
    """

    def __init__(self, outcome: Any, columns: tuple[Column, ...], takes_blocks: bool) -> None:
        super().__init__(outcome, columns)
        self._takes_blocks = takes_blocks
        self.written: list[bytes] = []

    def renderer(self) -> Any:
        if not self._takes_blocks:
            raise UserError("not several at once", status=503)
        return super().renderer()

    def take(self, record: RecordContext, completion: Completion) -> None:
        self.records.append(record)
        self.written.append(row(self._render, record))
        self._answer(completion)

    def write_rows(self, rows: bytes, *args: Any) -> None:
        self.written.append(rows)
        super().write_rows(rows, *args)


def _listener(*sinks: FakeSink) -> Listener:
    listener = Listener()
    listener.dispatcher.clear()
    listener.otlp_dispatcher.put(SourceEntry(KEY, "otlp", True, SECRET))
    listener.router.sinks[KEY] = [(f"k{number}", sink) for number, sink in enumerate(sinks)]
    return listener


def _answer(listener: Listener, body: bytes) -> bytes | None:
    answer = listener.send(URL, body, headers=PROTOBUF)
    for _ in range(1000):
        if answer is not None or not listener.clock.getDelayedCalls():
            break
        listener.clock.advance(0)
        answer = listener.connection.answers.pop() if listener.connection.answers else None
    return answer


def _logs(*bodies: str) -> bytes:
    records = [{"body": {"stringValue": body}} for body in bodies]
    return as_protobuf(Signal.LOGS, logs(*records))


def _sinks(random: Random) -> list[OrderedSink]:
    found = []
    for _ in range(random.choice([0, 1, 1, 1, 2, 3])):
        outcome: Any = random.choice([200, 200, 200, 202, UserError("full", status=503)])
        found.append(OrderedSink(outcome, columns(random, templates=True), random.random() < 0.8))
    return found


def _took(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets the number of records of each export in compiled code."""
    taken: list[int] = []

    def read_logs(*args: Any) -> native.LogExport | None:
        logs = compiled.read_logs(*args)
        if logs is not None:
            taken.append(len(logs))
        return logs

    monkeypatch.setattr(handler, "read_logs", read_logs)
    return taken


def test_answers_and_rows_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled code and the Python code agree for any export and any sinks, also with tails."""
    taken = _took(monkeypatch)
    count = examples(150)
    for seed in range(count):
        random = Random(seed)
        body = export(random)
        if random.random() < 0.2:
            body = damaged(random, body)
        results = []
        for is_built in (True, False):
            monkeypatch.setattr(native, "is_built", is_built)
            sinks = _sinks(Random(seed))
            listener = _listener(*sinks)
            if seed % 3 == 0:
                listener.taps[KEY] = Watched()
            answer = _answer(listener, body)
            shown = [watched.offered for watched in listener.taps.values()]
            written = [b"".join(sink.written) for sink in sinks]
            results.append((answer, written, shown, listener.metrics.page()))
        assert results[0] == results[1], (seed, body)
    assert len(taken) > count / 3


def test_records_of_a_request_are_written_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each sink gets the records with one call, up to a limit of bytes."""
    sinks = [FakeSink(), FakeSink(columns=(PathColumn("b", path="body", raw_string=True),))]
    listener = _listener(*sinks)
    bodies = [f"r{number}" for number in range(100)]
    assert _answer(listener, _logs(*bodies)) is not None
    assert [[count for _, count in sink.blocks] for sink in sinks] == [[100], [100]]
    assert sinks[1].blocks[0][0] == "".join(f'"{body}"\n' for body in bodies).encode()
    monkeypatch.setattr(compiled, "BYTES_AT_ONCE", 10_000)
    assert _answer(listener, _logs(*bodies)) is not None
    later = [count for _, count in sinks[1].blocks[1:]]
    assert sum(later) == 100
    assert len(later) > 2


def test_a_record_without_a_row() -> None:
    """Earlier records are written together, and those of its group one by one."""
    column = PathColumn("b", path="body.name", raw_string=True)
    picky = FakeSink(columns=(column,))
    named = {"kvlistValue": {"values": [{"key": "name", "value": {"stringValue": "n"}}]}}
    records: list[Any] = [{"body": named}] * 81
    records[40] = {"body": {"stringValue": "no name"}}
    answer = _answer(_listener(picky), as_protobuf(Signal.LOGS, logs(*records)))
    assert answer is not None
    assert b"1 of 81 records rejected" in answer
    assert [count for _, count in picky.blocks] == [40, 40 - RECORDS_AT_ONCE + 1]
    assert len(picky.rows) == RECORDS_AT_ONCE - 1


def test_compiled_and_other_sinks() -> None:
    """Each record has one outcome, whichever sinks get it."""
    template = Template("jsonnet", "Body('body') + std.length(Body('body'))")
    computing = OrderedSink(200, (TemplateColumn("t", template=template, raw_string=True),), True)
    simple = OrderedSink(UserError("full", status=503), (BodyColumn("b"),), True)
    listener = _listener(computing, simple)
    answer = _answer(listener, _logs("a", "bc"))
    assert answer is not None
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"Stream-Stored: 2/4" in answer
    assert computing.written == [b'"a1"\n', b'"bc2"\n']
    assert simple.blocks[0][1] == 2


def test_headers_without_the_token() -> None:
    """A mapping of headers doesn't render the token, also from the cache of a head."""
    sink = FakeSink(columns=(HeadersColumn("h"),))
    listener = _listener(sink)
    headers = PROTOBUF + f"Authorization: Bearer {SECRET}\r\nX-Team: a\r\n"
    for _ in range(2):
        assert listener.send("/otlp/123/my-source/v1/logs", _logs("a"), headers=headers)
    assert b"X-Team" in sink.blocks[1][0]
    assert SECRET.encode() not in sink.blocks[0][0] + sink.blocks[1][0]


class Broken:
    """An export whose records can be printed up to a position."""

    def __init__(self, logs: native.LogExport, good: int) -> None:
        self._logs = logs
        self._good = good

    def __len__(self) -> int:
        return len(self._logs)

    def print(self, *args: Any) -> Any:
        if not self._good:
            return None
        self._good -= 1
        arguments: Any = (*args[:5], 1, args[6])
        return self._logs.print(*arguments)


@pytest.mark.parametrize("good", [0, 1, 2])
def test_an_error_in_compiled_code_loses_no_record(
    monkeypatch: pytest.MonkeyPatch, good: int
) -> None:
    """The Python code continues after the last handled record."""

    def read_logs(*args: Any) -> Any:
        logs = compiled.read_logs(*args)
        return None if logs is None else Broken(logs, good)

    monkeypatch.setattr(handler, "read_logs", read_logs)
    sink = OrderedSink(200, (PathColumn("b", path="body", raw_string=True),), True)
    answer = _answer(_listener(sink), _logs("a", "b", "c"))
    assert answer is not None
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"".join(sink.written) == b'"a"\n"b"\n"c"\n'


def test_a_disconnected_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """The remaining records of its export aren't handled."""
    monkeypatch.setattr(compiled, "RECORDS_AT_ONCE", 10)
    sink = FakeSink()
    listener = _listener(sink)
    ticks = iter(range(10_000))
    monkeypatch.setattr(listener.clock, "seconds", lambda: next(ticks) * 0.01)
    put_off: list[Any] = []
    monkeypatch.setattr(listener.clock, "callLater", lambda _, work: put_off.append(work))
    assert listener.send(URL, _logs(*["r"] * 100), headers=PROTOBUF) is None
    put_off.pop(0)()
    assert sink.blocks
    listener.connection.pending = None
    for work in put_off:
        work()
    assert sum(count for _, count in sink.blocks) < 100
    assert listener.connection.answers == []
