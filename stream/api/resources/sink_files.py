"""The files and slices of a sink that are on their way to its table, for a dashboard."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from stream.api.http.call import Call, Handler
from stream.api.resources.views import level_view, quarantine_view, times_view
from stream.definition.reads import DefinitionReads
from stream.etcd import EtcdClient
from stream.storage.model.entity import File, Slice
from stream.storage.model.key import FileKey
from stream.storage.model.pending import pending_by_sink
from stream.storage.model.progress import Condition, file_progress, slice_progress
from stream.storage.model.retry import Retry
from stream.storage.model.state import FileState, SliceState
from stream.storage.store.pipeline import (
    PipelineFile,
    PipelineSlice,
    SinkPipeline,
    sink_pipeline,
)
from stream.target.protocol import Quarantine
from stream.target.registry import Targets
from stream.values.utctime import format_time

__all__ = ["SinkFiles", "pipeline_view"]

Plain = dict[str, Any]


class SinkFiles:
    """The operation that shows the files of a sink that are on their way to its table.

    :param now: returns the current time in UTC.
    """

    def __init__(
        self,
        *,
        client: EtcdClient,
        targets: Targets,
        reads: DefinitionReads,
        now: Callable[[], datetime],
    ) -> None:
        self._client = client
        self._targets = targets
        self._reads = reads
        self._now = now

    def handlers(self) -> dict[str, Handler]:
        """The operations of this resource, by id."""
        return {"SinkFiles": self.files}

    async def files(self, call: Call) -> Any:
        """Return the open and the most recently imported files of a sink, with their slices."""
        key = (await self._reads.sink_in_source(call.sink_key)).key
        found = await sink_pipeline(self._client, key, call.parameters["imports"])
        targets = {each.file.target.provider for each in (*found.active, *found.imported)}
        quarantines = await self._targets.quarantines_of(key, targets)
        return {
            "projectId": key.project_id,
            "branchId": key.branch_id,
            "sourceId": key.source_id,
            "sinkId": key.sink_id,
            **pipeline_view(found, quarantines, self._now()),
        }


def pipeline_view(
    pipeline: SinkPipeline, quarantines: Mapping[FileKey, Quarantine], now: datetime
) -> Plain:
    """Return the files of a sink as shown at the time *now*.

    :param quarantines: quarantines of rows that the target has refused.
    """
    return {
        "time": format_time(now),
        "freshness": _freshness(pipeline),
        "files": [_file(each, quarantines, now) for each in pipeline.active],
        "imports": [_imported(each, quarantines) for each in pipeline.imported],
    }


def _freshness(pipeline: SinkPipeline) -> Plain:
    """Return the time up to which all rows are in the table."""
    pending = pending_by_sink((each.file.key, each.statistics) for each in pipeline.active)
    [waiting] = pending.values() or [None]
    last = max(
        (
            each.statistics.total.last_record_at
            for each in (*pipeline.active, *pipeline.imported)
            if each.statistics.total.last_record_at is not None
        ),
        default=None,
    )
    return {
        "pendingRecords": waiting.records if waiting else 0,
        **times_view(oldestPendingAt=waiting.oldest if waiting else None, lastRecordAt=last),
    }


def _file(each: PipelineFile, quarantines: Mapping[FileKey, Quarantine], now: datetime) -> Plain:
    file = each.file
    conditions: Sequence[Condition] = ()
    if file.state is FileState.WRITING:
        conditions = file_progress(
            file.target.import_,
            file.key.file_opened_at,
            file.staging.expiration,
            each.statistics.total,
            now,
        )
    return {
        "fileId": format_time(file.key.file_opened_at),
        "state": file.state.value,
        **_file_times(file),
        **_retry(file.retry),
        "statistics": level_view(each.statistics.total),
        "conditions": _conditions(conditions),
        **_quarantine(quarantines.get(file.key)),
        "slices": [_slice(slice_, now) for slice_ in each.slices],
    }


def _imported(each: PipelineFile, quarantines: Mapping[FileKey, Quarantine]) -> Plain:
    file = each.file
    view = {"fileId": format_time(file.key.file_opened_at), **_file_times(file)}
    if file.imported_at is not None and file.importing_at is not None:
        seconds = (file.imported_at - file.importing_at).total_seconds()
        view["duration"] = max(0, round(1000 * seconds))
    return {
        **view,
        "statistics": level_view(each.statistics.total),
        **_quarantine(quarantines.get(file.key)),
    }


def _slice(each: PipelineSlice, now: datetime) -> Plain:
    slice_: Slice = each.slice
    conditions: Sequence[Condition] = ()
    if slice_.state is SliceState.WRITING:
        conditions = slice_progress(
            slice_.staging.upload, slice_.key.slice_opened_at, each.statistics.local, now
        )
    return {
        "sliceId": slice_.key.slice_id,
        "volumeId": slice_.key.volume_id,
        "state": slice_.state.value,
        "openedAt": format_time(slice_.key.slice_opened_at),
        **times_view(
            closingAt=slice_.closing_at,
            uploadingAt=slice_.uploading_at,
            uploadedAt=slice_.uploaded_at,
        ),
        **_retry(slice_.retry),
        "statistics": level_view(each.statistics.total),
        "conditions": _conditions(conditions),
    }


def _file_times(file: File) -> Plain:
    return {
        "openedAt": format_time(file.key.file_opened_at),
        **times_view(
            closingAt=file.closing_at, importingAt=file.importing_at, importedAt=file.imported_at
        ),
    }


def _retry(retry: Retry) -> Plain:
    if not retry.retry_attempt:
        return {}
    return {
        "retryAttempt": retry.retry_attempt,
        "retryReason": retry.retry_reason,
        **times_view(retryAfter=retry.retry_after),
    }


def _conditions(conditions: Iterable[Condition]) -> list[Plain]:
    return [
        {
            "name": condition.name,
            "value": round(condition.value, 3),
            "limit": round(condition.limit, 3),
            "progress": round(condition.progress, 4),
            **times_view(at=condition.at),
        }
        for condition in conditions
    ]


def _quarantine(quarantine: Quarantine | None) -> Plain:
    return {} if quarantine is None else {"quarantine": quarantine_view(quarantine)}
