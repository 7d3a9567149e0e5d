"""The JSON form of entities in the API. Members are in the order of the published schemas."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import attrs

from stream.authority.tokens import TokenRecord
from stream.definition.entity import KEBOOLA, By, Created, Deleted, Sink, Source, Version
from stream.mapping.columns import Column, PathColumn, TemplateColumn
from stream.storage.model.statistics import Aggregated, Statistics
from stream.storage.store.overview import FileOutline
from stream.target.protocol import Quarantine
from stream.task.entity import Task
from stream.values.codec import known_part, to_plain
from stream.values.url import path_of
from stream.values.utctime import format_time

__all__ = [
    "Urls",
    "content_view",
    "file_view",
    "level_view",
    "listed_task_view",
    "page_view",
    "quarantine_view",
    "sink_view",
    "statistics_view",
    "task_view",
    "times_view",
    "token_view",
    "version_view",
]

Plain = dict[str, Any]


@attrs.frozen
class Urls:
    """Public URLs of the service.

    :ivar api: public URL of the API, without a slash at the end.
    :ivar source: public URL of the sources, without a slash at the end.
    """

    api: str
    source: str

    def task(self, task: Task) -> str:
        """Return the URL for polling *task*."""
        return f"{self.api}/v1/tasks{path_of(*task.task_id.split('/'))}"

    def entity(self, branch_id: int, source_id: str, sink_id: str = "") -> str:
        """Return the URL of a source or sink."""
        url = f"{self.api}{path_of('v1', 'branches', branch_id, 'sources', source_id)}"
        return f"{url}{path_of('sinks', sink_id)}" if sink_id else url

    def source_view(self, source: Source) -> Plain:
        """Return the view of a source."""
        key = source.key
        view: Plain = {
            "projectId": key.project_id,
            "branchId": key.branch_id,
            "sourceId": key.source_id,
            "type": source.type,
            "name": source.name,
            "description": source.description,
        }
        if source.missing_part:
            pass  # the URL can't be built; all other members are shown
        elif source.type == "http":
            path = path_of("stream", key.project_id, key.source_id, source.secret)
            view["http"] = {"url": f"{self.source}{path}"}
        else:
            base = f"{self.source}{path_of('otlp', key.project_id, key.source_id)}"
            view["otlp"] = {
                "url": f"{base}{path_of(source.secret)}",
                "baseUrl": base,
                "secret": source.secret,
            }
        return view | _lifecycle(source)


def token_view(record: TokenRecord, now: datetime) -> Plain:
    """Return the view of a token, without its text."""
    view: Plain = {
        "tokenId": record.key.token_id,
        "projectId": record.key.project_id,
        "name": record.name,
        "rights": list(record.known_rights),
        "created": _at_by(record.created),
    }
    if record.expires_at is not None:
        view["expiresAt"] = format_time(record.expires_at)
    return view | {"isExpired": record.has_expired(now)}


def _by(by: By) -> Plain:
    plain: Plain = to_plain(known_part(by))
    return plain


def _at_by(event: Created | Deleted) -> Plain:
    return {"at": format_time(event.at), "by": _by(event.by)}


def version_view(version: Version) -> Plain:
    """Return the view of a version."""
    return {
        "number": version.number,
        "hash": version.hash,
        "description": version.description,
        "at": format_time(version.at),
        "by": _by(version.by),
    }


def _lifecycle(entity: Source | Sink) -> Plain:
    view: Plain = {"version": version_view(entity.version), "created": _at_by(entity.created)}
    if entity.deleted is not None:
        view["deleted"] = _at_by(entity.deleted)
    if entity.disabled is not None:
        view["disabled"] = {
            "at": format_time(entity.disabled.at),
            "by": _by(entity.disabled.by),
            "reason": entity.disabled.reason,
        }
    return view


def content_view(entity: Source | Sink) -> Plain:
    """Return the content of a version, without its secret, its time and its author."""
    view: Plain = {"type": entity.type, "name": entity.name, "description": entity.description}
    if isinstance(entity, Sink):
        shown = sink_view(entity)
        view |= {name: shown[name] for name in ("allowedSignals", "table") if name in shown}
    view["settings"] = {override.key: override.value for override in entity.config}
    return view


def sink_view(sink: Sink) -> Plain:
    """Return the view of a sink."""
    key = sink.key
    view: Plain = {
        "projectId": key.project_id,
        "branchId": key.branch_id,
        "sourceId": key.source_id,
        "sinkId": key.sink_id,
        "type": sink.type,
        "name": sink.name,
        "description": sink.description,
    }
    if sink.allowed_signals:
        view["allowedSignals"] = list(sink.allowed_signals)
    table = sink.table
    place: Plain = {**table.options}
    if table.type == KEBOOLA:
        place = {"tableId": table.table_id} if table.keboola is not None else {}
    if "partitionBy" in place:
        place["partitionBy"] = json.loads(place["partitionBy"])
    view["table"] = {
        "type": table.type,
        **place,
        "mapping": {"columns": [_column(column) for column in table.mapping.columns]},
    }
    return view | _lifecycle(sink)


def _column(column: Column) -> Plain:
    view: Plain = {"type": column.type, "name": column.name}
    if column.primary_key:
        view["primaryKey"] = True
    if column.data_type:
        view["dataType"] = column.data_type
    if column.nullable:
        view["nullable"] = True
    if isinstance(column, PathColumn):
        view["path"] = column.path
        if column.default_value is not None:
            view["defaultValue"] = column.default_value
        view["rawString"] = column.raw_string
    elif isinstance(column, TemplateColumn):
        view["rawString"] = column.raw_string
        view["template"] = {
            "language": column.template.language,
            "content": column.template.content,
        }
    return view


def page_view(limit: int, total: int, after: str, last: str) -> Plain:
    """Return the position of a page in its list.

    :param last: the last id on the page.
    """
    return {
        "limit": limit,
        "totalCount": total,
        "afterId": after,
        "lastId": last,
    }


def level_view(statistics: Statistics) -> Plain:
    """Return the number, size and times of records."""
    view: Plain = {}
    if statistics.first_record_at is not None:
        view["firstRecordAt"] = format_time(statistics.first_record_at)
    if statistics.last_record_at is not None:
        view["lastRecordAt"] = format_time(statistics.last_record_at)
    view["recordsCount"] = statistics.records_count
    view["compressedSize"] = int(statistics.compressed_size)
    view["uncompressedSize"] = int(statistics.uncompressed_size)
    return view


_NO_RECORDS = {"recordsCount": 0, "compressedSize": 0, "uncompressedSize": 0}


def statistics_view(statistics: Aggregated) -> Plain:
    """Return the total (zeros if there are no records) and the levels that have records."""
    view = _levels(statistics)
    if view["total"] is None:
        view["total"] = dict(_NO_RECORDS)
    return view


def _levels(statistics: Aggregated) -> Plain:
    total = statistics.total
    levels = {
        "local": statistics.local,
        "staging": statistics.staging,
        "target": statistics.target,
    }
    return {
        "total": level_view(total) if total.records_count else None,
        "levels": {
            name: level_view(level) for name, level in levels.items() if level.records_count
        },
    }


def file_view(
    file: FileOutline, statistics: Aggregated | None, quarantine: Quarantine | None = None
) -> Plain:
    """Return the view of a file; *statistics* is ``None`` if none were recorded for the file.

    :param quarantine: quarantine of the rows that the target of the file has refused.
    """
    view: Plain = {
        "state": file.state.value,
        "openedAt": format_time(file.key.file_opened_at),
        **times_view(
            closingAt=file.closing_at, importingAt=file.importing_at, importedAt=file.imported_at
        ),
    }
    retry = file.retry
    if retry.retry_attempt:
        view["retryAttempt"] = retry.retry_attempt
        view["retryReason"] = retry.retry_reason
        view |= times_view(retryAfter=retry.retry_after)
    if statistics is not None:
        view["statistics"] = _levels(statistics)
    if quarantine is not None:
        view["quarantine"] = quarantine_view(quarantine)
    return view


def quarantine_view(quarantine: Quarantine) -> Plain:
    """Return the view of the rows that the target has refused.

    ``fileId`` or ``table`` says where the rows are, once all of them are found.
    """
    view: Plain = {
        "recordsCount": quarantine.records_count,
        "reason": quarantine.reason,
        "isFinished": quarantine.is_finished,
    }
    if quarantine.table:
        view["table"] = quarantine.table
    elif quarantine.is_finished:
        view["fileId"] = quarantine.file_id
    return view


def times_view(**moments: datetime | None) -> Plain:
    """Return the members with times; leave out those that are ``None``."""
    return {name: format_time(moment) for name, moment in moments.items() if moment is not None}


_OUTPUTS = (
    *("url", "projectId", "branchId", "sourceId", "sinkId"),
    *("replayed", "stored", "rejected", "results", "isComplete", "hasMore", "notes", "nodes"),
)


def task_view(task: Task, urls: Urls) -> Plain:
    """Return the view of a task; unknown members of a running task are omitted."""
    view: Plain = {
        "taskId": task.task_id,
        "type": task.type,
        "url": urls.task(task),
        "status": task.status,
        "isFinished": task.is_finished,
        "createdAt": format_time(task.created_at),
        **times_view(finishedAt=task.finished_at),
    }
    if task.duration is not None:
        view["duration"] = task.duration // 1_000_000
    if task.is_successful:
        view["result"] = task.result
    elif task.user_error is not None:
        view["error"] = task.user_error.message
    if task.outputs is not None:
        view["outputs"] = {name: task.outputs[name] for name in _OUTPUTS if name in task.outputs}
    return view


def listed_task_view(task: Task, urls: Urls) -> Plain:
    """Return the view of a task in a list, without the long list of results for each record."""
    view = task_view(task, urls)
    view.get("outputs", {}).pop("results", None)
    return view
