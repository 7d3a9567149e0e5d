"""The etcd watch behind the live streams of a node.

Note [Order of changes]: the files and the slices of two levels are in four mirrors. Their batches
arrive in any order, within milliseconds of each other. So changes are collected for a moment and
sorted by revision. Only the last event of such a round has an id; a caller that sends this id gets
the rounds that follow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Any, cast

import attrs
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from stream.api.live.counters import STATISTICS, Counted, Counters
from stream.api.live.transitions import FileInPipeline, Followed, SliceInPipeline, transition
from stream.definition.key import BranchKey
from stream.etcd import Batch, Change, EtcdClient, Mirror, json_values
from stream.rejected.state import COUNT, RejectedCount
from stream.storage.model import prefix
from stream.storage.model.state import Level
from stream.values.codec import decode

__all__ = ["PipelineEvent", "PipelineWatch"]

_log = Logger(namespace="stream.api.live")

ROUND_SECONDS = 0.1
"""How long changes are collected."""
MAX_COLLECTED = 10_000
"""Maximum number of changes in a round; if there are more, all followers start from scratch."""


@attrs.frozen
class PipelineEvent:
    """A change of a file or a slice.

    :ivar name: ``file`` or ``slice``.
    """

    branch: BranchKey
    name: str
    revision: int
    data: dict[str, Any]


@attrs.frozen
class _Kind:
    """The records of files, or those of slices.

    :ivar all: prefix that the records of all levels share.
    """

    name: str
    record: type[Any]
    all: str
    local: Mirror[Any]
    staging: Mirror[Any]


@attrs.frozen
class _Collected:
    """A change that waits for the end of its round.

    :ivar text: key of the file or slice, without a prefix.
    """

    kind: _Kind
    text: str
    change: Change[Any]

    @property
    def key(self) -> str:
        """The key of the record of the file or slice."""
        return self.kind.all + self.text


class PipelineWatch(Service):
    """Watches statistics, rejected records, files and slices of all branches.

    The Deferred of startService fires when everything is loaded. A stopped watch can't be started
    again.

    :param now: returns the current time in UTC.
    :param on_events: called with the events of a round and its revision.
    :param on_reset: called when events were lost; the counters are still complete.

    :ivar counters: counters of all sinks.
    """

    def __init__(
        self,
        reactor: Any,
        client: EtcdClient,
        now: Callable[[], datetime],
        *,
        on_events: Callable[[Sequence[PipelineEvent], int], None],
        on_reset: Callable[[], None],
    ) -> None:
        self._reactor = reactor
        self._client = client
        self._now = now
        self._on_events = on_events
        self._on_reset = on_reset
        self.counters = Counters()
        self._statistics: Mirror[Counted] = Mirror(
            client, STATISTICS, json_values(Counted), on_change=self._statistics_changed
        )
        self._rejected: Mirror[RejectedCount] = Mirror(
            client, COUNT, json_values(RejectedCount), on_change=self._rejected_changed
        )
        self._kinds = (
            self._kind("file", FileInPipeline, prefix.FILE_ALL, prefix.file_level),
            self._kind("slice", SliceInPipeline, prefix.SLICE_ALL, prefix.slice_level),
        )
        self._mirrors: list[Mirror[Any]] = [
            self._statistics,
            self._rejected,
            *(mirror for kind in self._kinds for mirror in (kind.local, kind.staging)),
        ]
        self._collected: list[_Collected] = []
        self._is_lost = False
        self._next_round: IDelayedCall | None = None
        self._in_round: Deferred[None] | None = None

    def _kind(self, name: str, record: type[Any], all: str, level: Callable[[Level], str]) -> _Kind:
        local, staging = (
            Mirror(self._client, level(where), json_values(record))
            for where in (Level.LOCAL, Level.STAGING)
        )
        kind = _Kind(name, record, all, local, staging)
        for mirror in (local, staging):
            mirror.listen(partial(self._changed, kind, mirror))
        return kind

    async def startService(self) -> None:
        for mirror in self._mirrors:
            await mirror.startService()
        super().startService()

    async def stopService(self) -> None:
        """Stop the watch; also called after a failed start."""
        super().stopService()
        if self._next_round is not None:
            self._next_round.cancel()
            self._next_round = None
        if self._in_round is not None:
            self._in_round.cancel()
        for mirror in self._mirrors:
            await mirror.stopService()

    @property
    def revision(self) -> int:
        """The etcd revision up to which all changes are applied."""
        return max(mirror.revision for mirror in self._mirrors)

    @property
    def behind_seconds(self) -> float:
        """Seconds for which the shown data may have been out of date; 0 while it is current."""
        return max(mirror.lag_seconds for mirror in self._mirrors)

    def _statistics_changed(self, batch: Batch[Counted]) -> None:
        if batch.reset:
            self.counters.clear()
        for change in batch.changes:
            self.counters.put(change.key, change.value)
        if batch.reset and self.running:
            self._lose()

    def _rejected_changed(self, batch: Batch[RejectedCount]) -> None:
        if batch.reset:
            self.counters.clear_rejected()
        for change in batch.changes:
            self.counters.put_rejected(change.key, change.value)
        if batch.reset and self.running:
            self._lose()

    def _changed(self, kind: _Kind, mirror: Mirror[Any], batch: Batch[Any]) -> None:
        if not self.running:
            return
        if batch.reset or len(self._collected) + len(batch.changes) > MAX_COLLECTED:
            self._lose()
            return
        self._collected += [
            _Collected(kind, change.key.removeprefix(mirror.prefix), change)
            for change in batch.changes
        ]
        self._schedule()

    def _lose(self) -> None:
        self._is_lost = True
        self._collected.clear()
        self._schedule()

    def _schedule(self) -> None:
        if self._next_round is None and self._in_round is None:
            self._next_round = self._reactor.callLater(ROUND_SECONDS, self._begin_round)

    def _begin_round(self) -> None:
        self._next_round = None
        in_round = Deferred.fromCoroutine(self._round())
        if not in_round.called:
            self._in_round = in_round
        in_round.addErrback(self._round_failed)
        in_round.addCallback(self._end_round)

    def _round_failed(self, failure: Any) -> None:
        if failure.check(CancelledError) is None:
            _log.warn("missed file changes: {error}", error=str(failure.value))
            self._is_lost = True

    def _end_round(self, _: None) -> None:
        self._in_round = None
        if self.running and (self._collected or self._is_lost):
            self._schedule()

    async def _round(self) -> None:
        collected, self._collected = self._collected, []
        if self._is_lost:
            self._is_lost = False
            self._on_reset()
            return
        collected.sort(key=lambda each: each.change.mod_revision)
        put = {each.key: each.change.mod_revision for each in collected if each.change.value}
        # Skip a record that has moved to another level; the mirror of that level reports it.
        gone = {
            each.key: each
            for each in collected
            if each.change.mod_revision > put.get(each.key, 0) and not _is_known(each)
        }
        found, _ = await self._client.get_many(sorted(gone)) if gone else ({}, 0)
        events = []
        for each in collected:
            now: Followed | None = each.change.value
            if now is None:
                if gone.get(each.key) is not each:
                    continue
                stored = found[each.key]
                if stored is not None:
                    now = decode(each.kind.record, stored.value)
            data = transition(now, each.change.previous, self._now())
            if data is not None:
                events.append(self._event(each, data))
        if events:
            self._on_events(events, max(each.change.mod_revision for each in collected))

    def _event(self, collected: _Collected, data: dict[str, Any]) -> PipelineEvent:
        followed = cast(Followed, collected.change.value or collected.change.previous)
        sink = followed.key.sink_key
        data["records"], data["bytes"] = self.counters.below(sink, collected.text)
        return PipelineEvent(
            sink.branch_key, collected.kind.name, collected.change.mod_revision, data
        )


def _is_known(each: _Collected) -> bool:
    """Return whether the file or slice is at a level that is followed."""
    return any(
        mirror.prefix + each.text in mirror.items for mirror in (each.kind.local, each.kind.staging)
    )
