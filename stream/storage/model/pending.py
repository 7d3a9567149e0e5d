"""The number and the oldest time of each sink's records that aren't in its table yet. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

import attrs

from stream.definition.key import SinkKey
from stream.storage.model.key import FileKey
from stream.storage.model.statistics import Aggregated

__all__ = ["Pending", "pending_by_sink"]


@attrs.frozen
class Pending:
    """The records of a sink that are not in its table yet.

    :ivar oldest: when the oldest record was received.
    """

    records: int
    oldest: datetime


def pending_by_sink(files: Iterable[tuple[FileKey, Aggregated]]) -> Mapping[SinkKey, Pending]:
    """Return the pending records in *files* by sink.

    Sinks without pending records are omitted. A file is imported as a whole, so its oldest record
    is pending as long as any of its slices isn't at level target.
    """
    pending: dict[SinkKey, Pending] = {}
    for key, levels in files:
        waiting = levels.local + levels.staging
        oldest = waiting.oldest_record_at
        if not waiting.records_count or oldest is None:
            continue
        sink = key.sink_key
        known = pending.get(sink)
        if known is None:
            pending[sink] = Pending(waiting.records_count, oldest)
        else:
            pending[sink] = Pending(
                known.records + waiting.records_count, min(known.oldest, oldest)
            )
    return pending
