"""Counters of all sinks, updated with each statistics value in etcd. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import attrs

from stream.definition.key import BranchKey, SinkKey
from stream.rejected.state import COUNT, RejectedCount, sink_of, sum_of
from stream.storage.model import prefix
from stream.storage.model.state import Level
from stream.values.bytesize import ByteSize
from stream.values.codec import field
from stream.values.utctime import format_time

__all__ = ["STATISTICS", "Counted", "Counters", "Known"]

STATISTICS = "storage/stats/"

Known = Mapping[str, Sequence[str]]
"""The ids of the sources of a branch, each with the ids of its sinks."""


@attrs.frozen
class Counted:
    """The part of a stored `stream.storage.model.statistics.Statistics` that is used here."""

    first_record_at: datetime | None = field(default=None, empty_text=True)
    last_record_at: datetime | None = field(default=None, empty_text=True)
    records_count: int = 0
    uncompressed_size: ByteSize = ByteSize(0)  # noqa: RUF009 — immutable


@attrs.define
class _Sink:
    """The counters of a sink.

    :ivar values: statistics by level and by the part of the key after the level.
    :ivar rejected: counts of rejected records by node.
    :ivar waiting: time of the first record of each file or slice that isn't in the table yet.
    """

    records: int = 0
    bytes: int = 0
    last_record_at: datetime | None = None
    values: dict[tuple[str, str], Counted] = attrs.Factory(dict)
    waiting: dict[tuple[str, str], datetime] = attrs.Factory(dict)
    rejected: dict[str, RejectedCount] = attrs.Factory(dict)

    def put(self, key: tuple[str, str], value: Counted | None) -> None:
        before = self.values.pop(key, None)
        self.waiting.pop(key, None)
        if before is not None:
            self.records -= before.records_count
            self.bytes -= before.uncompressed_size
        if value is None:
            return
        self.values[key] = value
        self.records += value.records_count
        self.bytes += value.uncompressed_size
        if value.last_record_at is not None and (
            self.last_record_at is None or value.last_record_at > self.last_record_at
        ):
            self.last_record_at = value.last_record_at
        oldest = value.first_record_at or value.last_record_at  # an estimate has only the latter
        if key[0] != Level.TARGET.value and value.records_count and oldest:
            self.waiting[key] = oldest


class Counters:
    """Counters of the sinks of all branches.

    Statistics that a user has cleared still count, so a sink's numbers never decrease.
    """

    def __init__(self) -> None:
        self._sinks: dict[SinkKey, _Sink] = {}
        self._changed: dict[BranchKey, set[SinkKey]] = {}

    def clear(self) -> None:
        """Remove the statistics before a full reload."""
        rejected = {key: sink.rejected for key, sink in self._sinks.items() if sink.rejected}
        self._sinks = {key: _Sink(rejected=nodes) for key, nodes in rejected.items()}

    def clear_rejected(self) -> None:
        """Remove the rejected counts before a full reload."""
        for sink in self._sinks.values():
            sink.rejected = {}

    def put(self, key: str, value: Counted | None) -> None:
        """Apply a statistics value; ``None`` means that it was deleted.

        :param key: key in etcd, with the prefix `STATISTICS`.
        """
        level, _, text = key.removeprefix(STATISTICS).partition("/")
        project, branch, source, sink, *rest = text.split("/")
        if not rest or rest[-1] == prefix.RESET_STATISTICS:
            return
        of = SinkKey(int(project), int(branch), source, sink)
        if value is not None or of in self._sinks:
            self._sinks.setdefault(of, _Sink()).put((level, text), value)
            self._note(of)

    def put_rejected(self, key: str, value: RejectedCount | None) -> None:
        """Apply a node's count of a sink's rejected records; ``None`` means that it was deleted.

        :param key: key in etcd, with the prefix `stream.rejected.state.COUNT`.
        """
        of, node = sink_of(key, COUNT)
        if value is not None:
            self._sinks.setdefault(of, _Sink()).rejected[node] = value
        elif of in self._sinks:
            self._sinks[of].rejected.pop(node, None)
        self._note(of)

    def _note(self, of: SinkKey) -> None:
        self._changed.setdefault(of.branch_key, set()).add(of)
        counted = self._sinks.get(of)
        if counted is not None and not counted.values and not counted.rejected:
            del self._sinks[of]

    def take_changed(self) -> Mapping[BranchKey, set[SinkKey]]:
        """Return the sinks that have changed since the last call, by branch."""
        changed, self._changed = self._changed, {}
        return changed

    def below(self, sink: SinkKey, text: str) -> tuple[int, int]:
        """Return the number of records and bytes of a file or slice of *sink*.

        :param text: the text form of its key.
        """
        counted = self._sinks.get(sink)
        values = () if counted is None else counted.values.items()
        found = [value for (_, key), value in values if key.startswith(f"{text}/")]
        return (
            sum(value.records_count for value in found),
            sum(int(value.uncompressed_size) for value in found),
        )

    def sources(
        self, branch: BranchKey, known: Known, only: Iterable[SinkKey] | None = None
    ) -> list[dict[str, Any]]:
        """Return the counters of a branch's sources as the API shows them.

        :param known: the existing sources and sinks.
        :param only: the sinks to show; ``None`` for all.
        """
        if only is None:
            return [
                {
                    "sourceId": source,
                    "sinks": [self._view(branch.source(source).sink(sink)) for sink in sinks],
                }
                for source, sinks in known.items()
            ]
        by_source: dict[str, list[dict[str, Any]]] = {}
        for key in sorted(only):
            if key.sink_id in known.get(key.source_id, ()):
                by_source.setdefault(key.source_id, []).append(self._view(key))
        return [{"sourceId": source, "sinks": sinks} for source, sinks in by_source.items()]

    def _view(self, key: SinkKey) -> dict[str, Any]:
        counted = self._sinks.get(key, _NOTHING)
        rejected = sum_of(counted.rejected.values())
        return {
            "sinkId": key.sink_id,
            "records": counted.records,
            "bytes": counted.bytes,
            "rejected": rejected.count,
            "lastRecordTime": _time(counted.last_record_at),
            "oldestPendingTime": _time(min(counted.waiting.values(), default=None)),
            "lastError": rejected.last_error and rejected.last_error.view(),
        }


_NOTHING = _Sink()


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else format_time(moment)
