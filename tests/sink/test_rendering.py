"""Records whose templates are evaluated in another process, and changes of their sink meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import attrs
import pytest
from twisted.internet.defer import ensureDeferred
from twisted.internet.task import Clock
from twisted.python.threadpool import ThreadPool

from stream import native
from stream.errors import UserError
from stream.mapping.columns import Mapping
from stream.mapping.render import MAX_NATIVE_BYTES
from stream.record.context import RecordContext
from stream.record.headers import RecordHeaders
from stream.record.large import LARGE_BYTES
from stream.sink import sink_pipeline
from stream.sink.balancing import Balancer
from stream.sink.sink_pipeline import PipelineContext, SinkPipeline
from stream.storage.model.entity import Slice
from stream.values.codec import from_plain
from tests.sink.fakes import FakeCompletion, FakeOpener
from tests.sink.test_sink_pipeline import _Publisher
from tests.storage.samples import OPENED_AT, sample_slice, uncompressed
from tests.templates.inprocess import InProcessTemplates

HEADERS = RecordHeaders([(b"Content-Type", b"application/json")])


def _record(body: bytes = b'{"a":1}') -> RecordContext:
    return RecordContext(1714557600123, "203.0.113.7", HEADERS, body)


def _slice(content: str | None, number: int = 0, *, wait: bool = True) -> Slice:
    """Return a slice whose rows are the result of a template, or the body."""
    column: dict[str, Any] = {"type": "body", "name": "c"}
    if content is not None:
        template = {"language": "jsonnet", "content": content}
        column = {"type": "template", "name": "c", "template": template}
    encoding = uncompressed()
    if not wait:
        encoding = attrs.evolve(encoding, sync=attrs.evolve(encoding.sync, wait=False))
    sample = sample_slice(opened_at=OPENED_AT + timedelta(seconds=number), encoding=encoding)
    return attrs.evolve(sample, mapping=from_plain(Mapping, {"columns": [column]}))


class World:
    def __init__(self) -> None:
        self.clock = Clock()
        self.opener = FakeOpener(at_once=False)
        self.templates = InProcessTemplates()
        self.refusal: UserError | None = None
        context = PipelineContext(
            node_id="node-1",
            life=lambda: 1,
            opener=self.opener,
            reactor=self.clock,
            pool=ThreadPool(),
            publisher=_Publisher(),
            balancer=Balancer("roundRobin"),
            templates=self.templates,
        )
        self.pipeline = SinkPipeline(context, check=self.check)

    def check(self) -> None:
        if self.refusal is not None:
            raise self.refusal

    def update(self, *slices: Slice) -> None:
        done = ensureDeferred(self.pipeline.update(slices))
        self.clock.pump([0.0] * 3)
        assert done.called

    def write(self, body: bytes = b'{"a":1}') -> FakeCompletion:
        completion = FakeCompletion()
        self.pipeline.write(_record(body), completion)
        return completion

    def release(self) -> None:
        self.templates.release()
        self.store()

    def store(self) -> None:
        self.clock.pump([0.0] * 3)
        for file in self.opener.files:
            while file.waiting:
                file.answer()
        self.clock.pump([0.0] * 3)

    def disk(self, of: Slice) -> bytes:
        return bytes(self.opener.disk.get(str(of.key), b""))


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    ensureDeferred(world.pipeline.close(UserError("closed", status=503)))


ADDS = "Body('a') + 1"


def test_a_row_waits_for_its_templates(world: World) -> None:
    """The row is written after the evaluation; an engine is started when the slice opens."""
    slice_ = _slice(ADDS)
    world.update(slice_)
    assert world.templates.warmed == 1
    completion = world.write()
    world.clock.advance(1)
    assert (completion.outcome, world.disk(slice_)) == (None, b"")
    world.release()
    assert (completion.outcome, world.disk(slice_)) == ("stored", b'"2"\n')


def test_early_acknowledgements_wait_for_templates(world: World) -> None:
    """A record that can't be rendered is refused even if its producer doesn't wait for the disk."""
    world.update(_slice(ADDS, wait=False))
    completions = [world.write(), world.write(b"{}")]
    assert [completion.outcome for completion in completions] == [None, None]
    world.release()
    assert completions[0].outcome == "accepted 202"
    assert isinstance(completions[1].outcome, UserError)
    assert completions[1].outcome.status == 400


def test_answers_are_sent_at_the_end_of_the_turn(world: World) -> None:
    """All early acknowledgements of a turn are sent together."""
    world.update(_slice(None, wait=False))
    completions = [world.write(), world.write()]
    assert [completion.outcome for completion in completions] == [None, None]
    world.clock.advance(0)
    assert [completion.outcome for completion in completions] == ["accepted 202"] * 2
    last = world.write()
    world.clock.advance(0)
    assert last.outcome == "accepted 202"


def test_a_record_that_can_not_be_rendered(world: World) -> None:
    """The error names the column."""
    world.update(_slice(ADDS))
    completion = world.write(b"{}")
    world.release()
    assert str(completion.outcome) == (
        'cannot convert column "c" to CSV value:\n- path "a" not found in the body'
    )


def test_a_slice_that_is_rotated_meanwhile(world: World) -> None:
    """The row goes to the next slice with the same mapping; the old one is closed at once."""
    first, second = _slice(ADDS, 0), _slice(ADDS, 1)
    world.update(first)
    completion = world.write()
    world.update(second)
    assert world.opener.files[0].closed
    world.release()
    assert completion.outcome == "stored"
    assert (world.disk(first), world.disk(second)) == (b"", b'"2"\n')


@pytest.mark.parametrize(("after", "row"), [("Body('a') + 2", b'"3"\n'), (None, b'"{""a"":1}"\n')])
def test_a_mapping_that_changes_meanwhile(world: World, after: str | None, row: bytes) -> None:
    """The row is rendered with the mapping of the slice that it is written to."""
    world.update(_slice(ADDS, 0))
    completion = world.write()
    second = _slice(after, 1)
    world.update(second)
    world.release()
    world.release()
    assert completion.outcome == "stored"
    assert world.disk(second) == row


def test_slices_with_the_previous_mapping_are_preferred(world: World) -> None:
    """During a change there are slices with both mappings."""
    old, new = _slice(ADDS, 0), _slice("Body('a') + 2", 1)
    world.update(old)
    completions = [world.write() for _ in range(4)]
    world.update(old, new)
    world.release()
    assert [completion.outcome for completion in completions] == ["stored"] * 4
    assert world.disk(old) == b'"2"\n' * 4


def test_a_mapping_that_changes_repeatedly(world: World) -> None:
    """After several attempts the record is refused, and can be retried."""
    world.update(_slice(ADDS, 0))
    completion = world.write()
    for number in range(1, sink_pipeline.MAX_ROUNDS + 2):
        assert completion.outcome is None
        world.update(_slice(f"Body('a') + {number + 1}", number))
        world.release()
    assert isinstance(completion.outcome, UserError)
    assert completion.outcome.status == 503


def test_a_sink_that_is_closed_meanwhile(world: World) -> None:
    """No row is written any more; see Note [Close sync] of the router."""
    slice_ = _slice(ADDS)
    world.update(slice_)
    completion = world.write()
    ensureDeferred(world.pipeline.close(UserError("closed", status=503)))
    world.release()
    assert str(completion.outcome) == "closed"
    assert world.disk(slice_) == b""


def test_a_lease_that_is_lost_meanwhile(world: World) -> None:
    """A node without a lease accepts no records, including those received before."""
    slice_ = _slice(ADDS)
    world.update(slice_)
    completion = world.write()
    world.refusal = UserError("the node has lost its lease", status=503)
    world.release()
    assert completion.outcome is world.refusal
    assert world.disk(slice_) == b""


def test_the_limit_of_waiting_records(world: World) -> None:
    """A record above the limit is refused immediately; batches check the limit first."""
    world.update(_slice(ADDS))
    assert world.pipeline.room() is None
    world.templates.is_full = True
    room = world.pipeline.room()
    assert room is not None and not room.called
    world.release()
    assert room.called
    world.templates.refusal = UserError("full", status=503)
    with pytest.raises(UserError, match="full"):
        world.pipeline.write(_record(), FakeCompletion())


def test_a_large_record_is_limited(world: World) -> None:
    """The engines parse large records, so the limit also applies to mappings without templates."""
    world.update(_slice("Body('a')"))
    world.templates.is_full = True
    assert world.pipeline.room(_record()) is None
    assert world.pipeline.room(_record(LARGE)) is not None


def test_a_sink_without_templates(world: World) -> None:
    """The state of the engines has no effect."""
    slice_ = _slice("Body('a')")
    world.update(slice_)
    world.templates.is_full = True
    world.templates.refusal = UserError("full", status=503)
    assert world.pipeline.room() is None
    completion = world.write()
    world.store()
    assert (completion.outcome, world.disk(slice_)) == ("stored", b'"1"\n')
    assert world.templates.warmed == 0


LARGE = b'{"a":1.0,"b":"%b","c":"x","\\u0064":"\\ud800"}' % (b"x" * 300_000)
"""The compiled code leaves this to the engine, because of a lone surrogate in a large body."""

PLAIN = b'{"a":1.0,"b":"%b"}' % (b"x" * LARGE_BYTES)


def _with_column(slice_: Slice, column: dict[str, Any]) -> Slice:
    return attrs.evolve(slice_, mapping=from_plain(Mapping, {"columns": [column]}))


PATH = {"type": "path", "name": "c", "path": "a"}
IP = {"type": "ip", "name": "c"}


def test_a_large_record_is_parsed_by_the_engine(world: World) -> None:
    """The engine is used although there is no template; a small record doesn't wait for it."""
    slice_ = _with_column(_slice(None), PATH)
    world.update(slice_)
    completion, small = world.write(LARGE), world.write(b'{"a":2.0}')
    world.store()
    assert (completion.outcome, small.outcome) == (None, "stored")
    world.release()
    assert (completion.outcome, world.disk(slice_)) == ("stored", b'"2.0"\n"1.0"\n')


@pytest.mark.skipif(not native.is_built, reason="the compiled code isn't built")
def test_a_large_record_in_compiled_code(world: World) -> None:
    """The engine isn't used unless the record exceeds the limit of the compiled code."""
    slice_ = _with_column(_slice(None), PATH)
    world.update(slice_)
    completion = world.write(PLAIN)
    huge = world.write(PLAIN + b" " * MAX_NATIVE_BYTES)
    world.store()
    assert (completion.outcome, huge.outcome) == ("stored", None)
    world.release()
    assert (huge.outcome, world.disk(slice_)) == ("stored", b'"1.0"\n"1.0"\n')


def test_a_large_record_that_needs_no_parsing(world: World) -> None:
    """The engine isn't used."""
    slice_ = _with_column(_slice(None), IP)
    world.update(slice_)
    completion = world.write(LARGE)
    world.store()
    assert completion.outcome == "stored"


@pytest.mark.parametrize(
    ("column", "row"),
    [(PATH | {"path": "c", "rawString": True}, b'"x"\n'), (IP, b'"203.0.113.7"\n')],
)
def test_the_mapping_changes_during_parsing(
    world: World, column: dict[str, Any], row: bytes
) -> None:
    """The record is parsed again for the new mapping, or rendered with it."""
    before = _with_column(_slice(None), PATH)
    world.update(before)
    completion = world.write(LARGE)
    after = _with_column(_slice(None, 1), column)
    world.update(after)
    world.release()
    world.release()
    assert (completion.outcome, world.disk(before)) == ("stored", b"")
    assert world.disk(after) == row
