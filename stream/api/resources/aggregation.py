"""Sources with all that belongs to them, in one answer."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from twisted.internet.defer import Deferred, DeferredSemaphore, gatherResults

from stream.api.http.call import Call, Handler
from stream.api.resources.statistics import files_of, statistics_of
from stream.api.resources.views import Urls, page_view, sink_view
from stream.definition.entity import Sink, Source
from stream.definition.reads import DefinitionReads
from stream.etcd import EtcdClient
from stream.target.registry import Targets

__all__ = ["Aggregation"]

_PARALLEL = 8
"""How many sources or sinks are looked up at once."""


class Aggregation:
    def __init__(
        self, *, client: EtcdClient, targets: Targets, reads: DefinitionReads, urls: Urls
    ) -> None:
        self._client = client
        self._targets = targets
        self._reads = reads
        self._urls = urls

    def handlers(self) -> dict[str, Handler]:
        return {"AggregationSources": self.sources}

    async def sources(self, call: Call) -> Any:
        after, limit = call.parameters["afterId"], call.parameters["limit"]
        page = await self._reads.sources_page(call.branch, after, limit)
        ids = [source.key.source_id for source in page.items]
        turns = DeferredSemaphore(_PARALLEL)
        views = await gatherResults(
            [turns.run(_start, self._source(source)) for source in page.items], consumeErrors=True
        )
        return {
            "projectId": call.branch.project_id,
            "branchId": call.branch.branch_id,
            "page": page_view(limit, page.total, after, ids),
            "sources": views,
        }

    async def _source(self, source: Source) -> dict[str, Any]:
        turns = DeferredSemaphore(_PARALLEL)
        sinks = await self._reads.with_mappings(await self._reads.sinks(source.key))
        views = await gatherResults(
            [turns.run(_start, self._sink(sink)) for sink in sinks], consumeErrors=True
        )
        return self._urls.source_view(source) | {"sinks": views}

    async def _sink(self, sink: Sink) -> dict[str, Any]:
        statistics = await statistics_of(self._client, sink.key)
        files = await files_of(self._client, self._targets, sink.key)
        statistics["files"] = [view for _, view in reversed(files)]
        return sink_view(sink) | {"statistics": statistics}


def _start(work: Coroutine[Any, Any, Any]) -> Deferred[Any]:
    return Deferred.fromCoroutine(work)
