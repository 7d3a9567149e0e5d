"""Versions of sources and sinks, and rollback to one of them."""

from __future__ import annotations

from typing import Any

from stream.api.http.call import Call, Handler
from stream.api.resources.change_tasks import ChangeTasks
from stream.api.resources.views import content_view, page_view, version_view
from stream.definition.change import sinks as sink_changes
from stream.definition.change import sources as source_changes
from stream.definition.entity import Sink, Source
from stream.definition.reads import DefinitionReads, Page, padded

__all__ = ["Versions"]


class Versions:
    """The operations on versions of sources and sinks."""

    def __init__(self, *, reads: DefinitionReads, tasks: ChangeTasks) -> None:
        self._reads = reads
        self._tasks = tasks

    def handlers(self) -> dict[str, Handler]:
        """The operations of this resource, by id."""
        return {
            "ListSourceVersions": self.list_of_source,
            "SourceVersionDetail": self.get_of_source,
            "RollbackSourceVersion": self.roll_back_source,
            "ListSinkVersions": self.list_of_sink,
            "SinkVersionDetail": self.get_of_sink,
            "RollbackSinkVersion": self.roll_back_sink,
        }

    async def list_of_source(self, call: Call) -> Any:
        """Return a page of the versions of a source."""
        after, limit = call.parameters["afterId"], call.parameters["limit"]
        await self._reads.source(call.source_key)
        page = await self._reads.source_versions_page(call.source_key, after, limit)
        return _page(page, limit, after)

    async def list_of_sink(self, call: Call) -> Any:
        """Return a page of the versions of a sink."""
        after, limit = call.parameters["afterId"], call.parameters["limit"]
        await self._reads.sink_in_source(call.sink_key)
        page = await self._reads.sink_versions_page(call.sink_key, after, limit)
        # Lists for sources show the number as the caller sent it; lists for sinks show it as in
        # keys. Clients rely on both.
        return _page(page, limit, padded(after))

    async def get_of_source(self, call: Call) -> Any:
        """Return one version of a source."""
        await self._reads.source(call.source_key)
        number = call.parameters["versionNumber"]
        source = await self._reads.source_version(call.source_key, number)
        view = version_view(source.version)
        return view | {"content": content_view(source)} if call.parameters["content"] else view

    async def get_of_sink(self, call: Call) -> Any:
        """Return one version of a sink."""
        await self._reads.sink_in_source(call.sink_key)
        sink = await self._reads.sink_version(call.sink_key, call.parameters["versionNumber"])
        view = version_view(sink.version)
        if not call.parameters["content"]:
            return view
        return view | {"content": content_view(await self._reads.with_mapping(sink))}

    async def roll_back_source(self, call: Call) -> Any:
        """Restore an earlier version of a source, in a task."""
        key, number = call.source_key, call.parameters["versionNumber"]
        await self._reads.source(key)
        await self._reads.source_version(key, number)
        done = "Source version was rolled back successfully."
        return await self._tasks.start(call, source_changes.roll_back(key, number), done)

    async def roll_back_sink(self, call: Call) -> Any:
        """Restore an earlier version of a sink, in a task."""
        key, number = call.sink_key, call.parameters["versionNumber"]
        await self._reads.sink_in_source(key)
        await self._reads.sink_version(key, number)
        done = "Sink version was rolled back successfully."
        return await self._tasks.start(call, sink_changes.roll_back(key, number), done)


def _page(page: Page[Source] | Page[Sink], limit: int, after: str) -> Any:
    versions = [entity.version for entity in page.items]
    return {
        "versions": [version_view(version) for version in versions],
        "page": page_view(limit, page.total, after, page.last),
    }
