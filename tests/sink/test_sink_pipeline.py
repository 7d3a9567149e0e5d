"""The pipelines of one sink, opened and closed together."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import Clock
from twisted.python.threadpool import ThreadPool

from stream.errors import UserError
from stream.sink.balancing import Balancer
from stream.sink.counters import SliceCounters
from stream.sink.sink_pipeline import PipelineContext, SinkPipeline
from stream.storage.key import SliceKey
from tests.sink.fakes import FakeOpener, FakeWaiter
from tests.storage.samples import sample_slice, uncompressed


class _Collector:
    def opened(self, key: SliceKey, counters: SliceCounters) -> None:
        """Nothing is stored."""

    async def stored(self, key: SliceKey) -> None:
        """At once."""

    async def closed(self, key: SliceKey) -> None:
        """At once."""


def test_a_pipeline_being_closed_takes_no_record_and_ends_with_its_slices() -> None:
    """Its slices may be opened again only when what it holds has been sent."""
    clock = Clock()
    opener = FakeOpener(at_once=False)
    context = PipelineContext(
        node_id="node-1",
        opener=opener,
        reactor=clock,
        pool=ThreadPool(),
        collector=_Collector(),
        balancer=Balancer("roundRobin"),
    )
    pipeline = SinkPipeline(context)
    ensureDeferred(pipeline.update([sample_slice(encoding=uncompressed())]))
    renderer = pipeline.renderer()
    waiter = FakeWaiter()
    pipeline.write_rows(b"a\n", 1, 1000, renderer, waiter)
    clock.advance(0)
    ended: Deferred[None] = ensureDeferred(pipeline.close(UserError("closed", status=503)))
    with pytest.raises(UserError, match="closed"):
        pipeline.write_rows(b"b\n", 1, 1000, renderer, FakeWaiter())
    assert not ended.called
    opener.files[-1].answer()
    assert waiter.outcome == "stored"
    assert ended.called
    assert opener.files[-1].closed
