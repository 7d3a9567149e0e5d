"""The pipelines of one sink, opened and closed together."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise

import attrs
import pytest
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import Clock
from twisted.python.threadpool import ThreadPool

from stream.errors import UserError
from stream.mapping.columns import Mapping
from stream.sink.balancing import Balancer
from stream.sink.counters import SliceCounters
from stream.sink.sink_pipeline import LEAVE_SECONDS, PipelineContext, SinkPipeline
from stream.storage.model.key import SliceKey
from stream.values.codec import from_plain
from tests.sink.fakes import FakeCompletion, FakeOpener
from tests.storage.samples import OPENED_AT, sample_slice, uncompressed


class _Publisher:
    def opened(self, key: SliceKey, counters: SliceCounters) -> None:
        """Do nothing."""

    async def closed(self, key: SliceKey) -> None:
        """Do nothing."""


def _context(opener: FakeOpener, clock: Clock) -> PipelineContext:
    return PipelineContext(
        node_id="node-1",
        life=lambda: 1,
        opener=opener,
        reactor=clock,
        pool=ThreadPool(),
        publisher=_Publisher(),
        balancer=Balancer("roundRobin"),
    )


def test_a_closing_pipeline_accepts_no_record() -> None:
    """Slices of a closing pipeline can be opened again only when its rows have been sent."""
    clock = Clock()
    opener = FakeOpener(at_once=False)
    context = _context(opener, clock)
    pipeline = SinkPipeline(context)
    ensureDeferred(pipeline.update([sample_slice(encoding=uncompressed())]))
    renderer = pipeline.renderer()
    completion = FakeCompletion()
    pipeline.write_rows(b"a\n", 1, 1000, renderer, completion)
    clock.advance(0)
    ended: Deferred[None] = ensureDeferred(pipeline.close(UserError("closed", status=503)))
    with pytest.raises(UserError, match="closed"):
        pipeline.write_rows(b"b\n", 1, 1000, renderer, FakeCompletion())
    assert not ended.called
    opener.files[-1].answer()
    assert completion.outcome == "stored"
    assert ended.called
    assert opener.files[-1].closed


def test_abandoning_a_sink_waits_for_no_writer() -> None:
    """Open and closing files aren't waited for, and the outcome of their rows is unknown."""
    clock = Clock()
    opener = FakeOpener(at_once=False)
    pipeline = SinkPipeline(_context(opener, clock))
    first, second = (
        sample_slice(opened_at=OPENED_AT + timedelta(seconds=number), encoding=uncompressed())
        for number in range(2)
    )
    completions = [FakeCompletion(), FakeCompletion()]
    for slice_, completion in zip((first, second), completions, strict=True):
        updated: Deferred[None] = ensureDeferred(pipeline.update([slice_]))
        pipeline.write_rows(b"a\n", 1, 1000, pipeline.renderer(), completion)
        clock.advance(0)
    reason = UserError("lost", status=503)
    pipeline.stop(reason)
    left: Deferred[None] = ensureDeferred(pipeline.leave())
    ended: Deferred[None] = ensureDeferred(pipeline.close(reason))
    with pytest.raises(UserError, match="lost"):
        pipeline.renderer()
    clock.advance(LEAVE_SECONDS - 1)
    assert not updated.called
    assert not (left.called or ended.called)
    clock.advance(1)
    assert updated.called
    assert left.called and ended.called
    assert all(file.closed for file in opener.files)
    outcomes = [completion.outcome for completion in completions]
    assert [isinstance(each, UserError) and each.status for each in outcomes] == [500, 500]
    assert not clock.getDelayedCalls()


class _Counts(_Publisher):
    """Remembers the number of records in each final value."""

    def __init__(self) -> None:
        self.counters: dict[SliceKey, SliceCounters] = {}
        self.final: list[int] = []

    def opened(self, key: SliceKey, counters: SliceCounters) -> None:
        self.counters[key] = counters

    async def closed(self, key: SliceKey) -> None:
        self.final.append(self.counters[key].records)


def test_statistics_of_a_slice_that_is_closed_twice() -> None:
    """A lost lease closes it, and so does the change that has replaced it; its rows count."""
    clock, publisher = Clock(), _Counts()
    opener = FakeOpener(at_once=False)
    pipeline = SinkPipeline(attrs.evolve(_context(opener, clock), publisher=publisher))
    first, second = (
        sample_slice(opened_at=OPENED_AT + timedelta(seconds=number), encoding=uncompressed())
        for number in range(2)
    )
    ensureDeferred(pipeline.update([first]))
    completion = FakeCompletion()
    pipeline.write_rows(b"a\n", 1, 1000, pipeline.renderer(), completion)
    clock.advance(0)
    opener.held = True
    updated: Deferred[None] = ensureDeferred(pipeline.update([second]))
    reason = UserError("lost", status=503)
    pipeline.stop(reason)
    left: Deferred[None] = ensureDeferred(pipeline.leave())
    opener.release()
    assert not (updated.called or left.called)
    assert publisher.final == []
    opener.files[0].answer()
    assert completion.outcome == "stored"
    assert updated.called and left.called
    assert set(publisher.final) == {1}
    ensureDeferred(pipeline.close(reason))
    assert all(file.closed for file in opener.files)


def test_renderers_are_shared() -> None:
    """Slices with the same mapping share a renderer; only renderers in use are kept."""
    context = _context(FakeOpener(), Clock())
    opened_at = [OPENED_AT + timedelta(seconds=number) for number in range(20)]
    slices = [
        attrs.evolve(
            sample_slice(opened_at=opened, encoding=uncompressed()), mapping=_mapping(number // 2)
        )
        for number, opened in enumerate(opened_at)
    ]
    pipeline = SinkPipeline(context)
    for before, after in pairwise(slices):
        done = ensureDeferred(pipeline.update([before, after]))
        assert done.called
        assert len(context.renderers) == len({before.mapping, after.mapping})
    assert context.renderer(slices[-1]) is context.renderer(slices[-2])
    ensureDeferred(pipeline.close(UserError("closed", status=503)))
    assert len(context.renderers) == 0


def _mapping(number: int) -> Mapping:
    return from_plain(Mapping, {"columns": [{"type": "body", "name": f"body {number}"}]})
