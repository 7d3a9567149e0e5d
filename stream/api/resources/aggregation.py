"""Sources with their sinks and statistics in one answer.

Definitions come from memory. Files and statistics of all sinks are read together, with one request
for each kind of record. So the number of requests to etcd doesn't grow with the number of sources.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import orjson
from twisted.internet.defer import Deferred, gatherResults

from stream.api.http.call import Answer, Call, Handler, json_answer, json_body, json_list
from stream.api.resources.statistics import files_view, with_rejected
from stream.api.resources.views import Urls, page_view, sink_view, statistics_view
from stream.definition.entity import Sink, Source
from stream.definition.key import SinkKey
from stream.definition.live import LiveDefinitions
from stream.definition.reads import DefinitionReads
from stream.definition.repository import MAX_SINKS
from stream.etcd import EtcdClient
from stream.rejected.nodes import rejected_counts
from stream.rejected.state import RejectedCount
from stream.storage.model.key import FileKey
from stream.storage.store.overview import NOTHING, SinkOverview, Within, overview
from stream.target.protocol import Quarantine
from stream.target.registry import Targets

__all__ = ["Aggregation"]

Shown = tuple[bytes, list[tuple[SinkKey, bytes]]]
"""A source and its sinks, as their own routes show them."""


class Aggregation:
    """The operation that shows sources with their sinks and statistics.

    :param live: definitions in memory; everything else is read from etcd.
    """

    def __init__(
        self,
        *,
        client: EtcdClient,
        targets: Targets,
        reads: DefinitionReads,
        live: LiveDefinitions,
        urls: Urls,
    ) -> None:
        self._client = client
        self._targets = targets
        self._reads = reads
        self._live = live
        self._urls = urls

    def handlers(self) -> dict[str, Handler]:
        """The operations of this resource, by id."""
        return {"AggregationSources": self.sources}

    async def sources(self, call: Call) -> Answer:
        """Return a page of sources, each with its sinks and their statistics."""
        after, limit = call.parameters["afterId"], call.parameters["limit"]
        ids, total, last, shown = await self._known(call) or await self._read(call)
        found: Mapping[SinkKey, SinkOverview] = {}
        quarantines: Mapping[FileKey, Quarantine] = {}
        rejected: Mapping[SinkKey, Mapping[str, RejectedCount]] = {}
        if any(sinks for _, sinks in shown):
            found = await overview(self._client, Within(call.branch, tuple(ids)))
            files = [file for each in found.values() for file in each.files]
            quarantines = await self._targets.quarantines(call.branch, files)
            rejected = await rejected_counts(self._client, call.branch)
        head = {
            "projectId": call.branch.project_id,
            "branchId": call.branch.branch_id,
            "page": page_view(limit, total, after, last),
        }
        sources = [
            _with_last_member(
                source,
                "sinks",
                b"[%b]"
                % b",".join(
                    _with_last_member(
                        sink,
                        "statistics",
                        _statistics(
                            found.get(key, NOTHING), quarantines, rejected.get(key, {}).values()
                        ),
                    )
                    for key, sink in sinks
                ),
            )
            + b"\n"
            for source, sinks in shown
        ]
        return json_answer(json_list(head, "sources", sources))

    async def _known(self, call: Call) -> tuple[list[str], int, str, list[Shown]] | None:
        """Return the page from memory; ``None`` if it has to be read from etcd."""
        after, limit = call.parameters["afterId"], call.parameters["limit"]
        page = self._live.sources_page(call.branch, after, limit)
        if page is None:
            return None
        of_sources = []
        for source in page.items:
            sinks = self._live.sinks_page(source.value.key, "", MAX_SINKS)
            if sinks is None:
                return None
            of_sources.append((source, sinks.items))
        all_sinks = [sink for _, sinks in of_sources for sink in sinks]
        complete = {sink.value.key for sink in await self._live.complete(all_sinks)}
        shown = [
            (
                source.shown(self._show_source),
                [
                    (sink.value.key, sink.shown(_show_sink))
                    for sink in sinks
                    if sink.value.key in complete
                ],
            )
            for source, sinks in of_sources
        ]
        ids = [source.value.key.source_id for source in page.items]
        return ids, page.total, page.last, shown

    async def _read(self, call: Call) -> tuple[list[str], int, str, list[Shown]]:
        after, limit = call.parameters["afterId"], call.parameters["limit"]
        page = await self._reads.sources_page(call.branch, after, limit)
        shown: list[Shown] = await gatherResults(
            [Deferred.fromCoroutine(self._read_sinks(source)) for source in page.items],
            consumeErrors=True,
        )
        return [source.key.source_id for source in page.items], page.total, page.last, shown

    async def _read_sinks(self, source: Source) -> Shown:
        sinks = await self._reads.with_mappings(await self._reads.sinks(source.key))
        return self._show_source(source), [(sink.key, _show_sink(sink)) for sink in sinks]

    def _show_source(self, source: Source) -> bytes:
        return json_body(self._urls.source_view(source))


def _show_sink(sink: Sink) -> bytes:
    return json_body(sink_view(sink))


def _statistics(
    overview: SinkOverview,
    quarantines: Mapping[FileKey, Quarantine],
    rejected: Iterable[RejectedCount],
) -> bytes:
    view = with_rejected(statistics_view(overview.statistics), rejected)
    view["files"] = [shown for _, shown in reversed(files_view(overview, quarantines))]
    return orjson.dumps(view)


def _with_last_member(body: bytes, name: str, value: bytes) -> bytes:
    """Return *body* with one more member.

    :param body: an object with members, as made by `json_body`.
    :param value: JSON.
    """
    return b'%b,"%b":%b}' % (body[:-2], name.encode(), value)
