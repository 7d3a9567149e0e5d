"""Statistics of sinks and of their files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import Logger

from stream.api.http.call import Answer, Call, Handler
from stream.api.resources.change_tasks import ChangeTasks
from stream.api.resources.views import file_view, statistics_view
from stream.definition.change.making import DefinitionChange
from stream.definition.key import SinkKey
from stream.definition.reads import DefinitionReads
from stream.definition.transaction import Change
from stream.etcd import EtcdClient
from stream.rejected.nodes import rejected_counts
from stream.rejected.state import COUNT, RejectedCount, rejected_view, sum_of
from stream.storage.model.key import FileKey
from stream.storage.model.state import FileState
from stream.storage.store.overview import NOTHING, FileOutline, SinkOverview, Within, overview
from stream.storage.store.statistics_reads import clear, last_reset, sink_statistics
from stream.target.protocol import Quarantine
from stream.target.registry import Targets

__all__ = ["SinkStatistics", "files_view", "with_rejected"]

_log = Logger(namespace="api")


def files_view(
    overview: SinkOverview, quarantines: Mapping[FileKey, Quarantine]
) -> list[tuple[FileOutline, dict[str, Any]]]:
    """Return the files of a sink with their views, the oldest first.

    :param quarantines: quarantines of rows that targets have refused.
    """
    return [
        (file, file_view(file, overview.file_statistics.get(file.key), quarantines.get(file.key)))
        for file in overview.files
    ]


def with_rejected(view: dict[str, Any], counts: Iterable[RejectedCount]) -> dict[str, Any]:
    """Add the count of rejected records, if any, to *view*, the statistics of a sink.

    :param counts: counts of all source nodes.
    """
    total = sum_of(counts)
    return view | {"rejected": rejected_view(total)} if total.count else view


def _is_failing(file: FileOutline) -> bool:
    return file.state is not FileState.IMPORTED and file.retry.retry_attempt > 0


def _order(file: FileOutline) -> tuple[bool, bool, datetime]:
    """Return the sort key: imported files first, then those without failures, each by time."""
    return (
        file.state is not FileState.IMPORTED,
        bool(file.retry.retry_reason),
        file.key.file_opened_at,
    )


class SinkStatistics:
    """The operations on the statistics of sinks."""

    def __init__(
        self,
        *,
        client: EtcdClient,
        targets: Targets,
        reads: DefinitionReads,
        tasks: ChangeTasks,
    ) -> None:
        self._client = client
        self._targets = targets
        self._reads = reads
        self._tasks = tasks

    def handlers(self) -> dict[str, Handler]:
        """The operations of this resource, by id."""
        return {
            "SinkStatisticsTotal": self.total,
            "SinkStatisticsFiles": self.files,
            "SinkStatisticsClear": self.clear_sink,
            "SourceStatisticsClear": self.clear_source,
        }

    async def total(self, call: Call) -> Any:
        """Return the totals of a sink by level, with its rejected records."""
        key = (await self._reads.sink_in_source(call.sink_key)).key
        view = statistics_view(await sink_statistics(self._client, key))
        counts = await rejected_counts(self._client, key)
        return with_rejected(view, counts.get(key, {}).values())

    async def files(self, call: Call) -> Any:
        """Return the statistics of a sink's files since the last reset."""
        key = (await self._reads.sink_in_source(call.sink_key)).key
        reset = await last_reset(self._client, key)
        cleared_at = reset.reset_at if reset is not None else None
        found = (await overview(self._client, Within(key))).get(key, NOTHING)
        quarantines = await self._targets.quarantines(key, found.files)
        shown = [
            (file, view)
            for file, view in files_view(found, quarantines)
            if (cleared_at is None or file.key.file_opened_at > cleared_at)
            and (not call.parameters["failedFiles"] or _is_failing(file))
        ]
        shown.sort(key=lambda pair: _order(pair[0]))
        return {"files": [view for _, view in shown]}

    async def clear_sink(self, call: Call) -> Answer:
        """Reset the statistics of a sink."""
        key = (await self._reads.sink_in_source(call.sink_key)).key
        await self._clear(call, key)
        _log.info('cleared the statistics of the sink "{sink}" in 2 operations', sink=str(key))
        return Answer()

    async def clear_source(self, call: Call) -> Answer:
        """Reset the statistics of all sinks of a source."""
        source = await self._reads.source(call.source_key)
        sinks = await self._reads.sinks(source.key)
        await gatherResults(
            [Deferred.fromCoroutine(self._clear(call, sink.key)) for sink in sinks],
            consumeErrors=True,
        )
        _log.info(
            'cleared the statistics of {count} sinks of the source "{source}"',
            source=str(source.key),
            count=len(sinks),
        )
        return Answer()

    async def _clear(self, call: Call, key: SinkKey) -> None:
        await self._tasks.apply(call, DefinitionChange(key=key, write=partial(_clear, key)))


async def _clear(key: SinkKey, change: Change, _: object) -> None:
    await clear(change, key)
    change.txn.delete_prefix(f"{COUNT}{key}/")
