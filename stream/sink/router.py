"""The sinks and open slices of a source node, and routing of records to them.

The router mirrors the active sinks, and the slices at level local. It finds the sinks for the
records of a source. Changes of slices open and close pipelines. This happens sequentially for one
sink but concurrently for different sinks, because each waits for disks and for etcd.

Note [Close sync]: the node reports a revision, which means "I no longer write to slices closed up
to this revision". A change is therefore reported only when every slice that it, or an earlier
change, closes is actually closed. Coordinators wait for the lowest report before a slice may be
uploaded. The report is stored under the node's lease, and a node without a lease accepts no
records, so a node that can't report can't write.

Note [Lost lease]: with the lease the node loses its name, and its open files belong to a life that
has ended (`stream.etcd.claims`). Therefore all pipelines stop immediately, and records are refused
until the node holds its name again. The stopped pipelines are closed `SINKS_AT_ONCE` at a time,
because closing thousands in one turn of the reactor would delay the new lease. All have the same
deadline; the outcome of rows that a writer hasn't acknowledged by then is unknown. In the new life
each sink gets a new pipeline as soon as its previous one is closed. Until then its records are
refused.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial

import attrs
from twisted.application.service import Service
from twisted.internet.defer import (
    Deferred,
    DeferredList,
    ensureDeferred,
)
from twisted.internet.task import deferLater
from twisted.logger import Logger

from stream.concurrency.paced import Paced, in_turns
from stream.concurrency.waiters import ended
from stream.definition import prefix as definition_prefix
from stream.definition.entity import Sink
from stream.definition.key import SinkKey, SourceKey
from stream.definition.mappings import read_mappings
from stream.errors import UserError, without_frames
from stream.etcd import Batch, EtcdClient, EtcdError, Mirror, Registration, Session, json_values
from stream.mapping.stored import StoredMapping
from stream.ops.clock import wall_clock
from stream.record.context import RecordContext
from stream.sink.balancing import slice_share
from stream.sink.outcome import Completion, no_opened_slice, shutting_down
from stream.sink.quota import Quotas
from stream.sink.sink_pipeline import DirectTarget, PipelineContext, SinkPipeline
from stream.sink.slice_pipeline import SlicePipeline
from stream.storage.model import prefix as storage_prefix
from stream.storage.model.entity import Slice
from stream.storage.model.key import SliceKey
from stream.storage.model.marks import Mark
from stream.storage.model.state import Level, SliceState
from stream.storage.model.volume import Volume
from stream.values.utctime import from_milliseconds

__all__ = ["SinkRouter", "SinkTarget"]

_Mappings = Mapping[tuple[SinkKey, StoredMapping], StoredMapping]

_log = Logger()

READ_AGAIN_SECONDS = (0.1, 5.0)
"""First and maximum delay before mappings that etcd didn't return are read again."""

RETRY_AFTER_MILLISECONDS = 100
"""Delay after which a producer may retry if a sink has no open slice."""

SINKS_AT_ONCE = 32
"""Maximum number of sinks that follow a change concurrently.

It is below the limit of files that are opened concurrently.
"""


@attrs.define(eq=False)
class SinkTarget:
    """One sink, as a source sees it.

    :ivar opened: pipeline of the sink; ``None`` before the first record and after the pipeline is
        closed.
    """

    key: SinkKey
    enabled: bool
    allowed_signals: tuple[str, ...]
    _router: SinkRouter
    opened: SinkPipeline | None = None

    def accepts(self, signal: str) -> bool:
        """Return whether the sink accepts this OTLP *signal* (empty for HTTP records)."""
        return self.enabled and (
            not signal or not self.allowed_signals or signal in self.allowed_signals
        )

    def write(
        self, record: RecordContext, completion: Completion, mark: Mark | None = None
    ) -> None:
        """Render and write *record*; call *completion*, immediately or later. Never raises."""
        try:
            pipeline, router = self.opened, self._router
            if pipeline is None or router.refusal is not None or router.over_quota:
                pipeline = self.open(record.timestamp_ms)
            pipeline.write(record, completion, mark)
        except UserError as error:
            completion.failed(without_frames(error))
        except Exception as error:
            _log.failure("write record error: {reason}", reason=str(error))
            completion.failed(without_frames(error))

    def direct(self) -> DirectTarget | None:
        """Return the slice that accepts rows without waiting; ``None`` if there is none."""
        pipeline, router = self.opened, self._router
        if pipeline is None or router.refusal is not None or router.over_quota:
            return None
        return pipeline.direct()

    def open(self, now_ms: int) -> SinkPipeline:
        """Return the sink's pipeline, opened on first use.

        Raises UserError: the node accepts no records, or none for this sink.

        :param now_ms: milliseconds since the epoch.
        """
        router = self._router
        if router.refusal is not None:
            raise router.refusal
        pipeline = self.opened
        if pipeline is None:
            pipeline = self.opened = router.open(self.key, now_ms)
        if router.over_quota:
            router.check(self.key)
        return pipeline


class SinkRouter(Service):
    """Routes the rows of sinks to the slices to which this source node writes.

    :param nodes: sorted IDs of all source nodes that this node knows.
    :param minimum_slices: minimum number of slices to which each source node writes, if a sink has
        that many.
    :param volume: returns the registered volume with an ID; ``None`` while its writer is
        unavailable.

    :ivar refusal: why the node accepts no records; ``None`` if it accepts them.
    :ivar over_quota: sinks that accept no records, with the reasons.
    """

    def __init__(
        self,
        client: EtcdClient,
        session: Session,
        context: PipelineContext,
        *,
        nodes: Callable[[], Sequence[str]],
        minimum_slices: int,
        volume: Callable[[str], Volume | None],
        quotas: Quotas,
    ) -> None:
        self._client = client
        self._session = session
        self._context = context
        self._nodes = nodes
        self._minimum_slices = minimum_slices
        self._volume = volume
        self._writers: dict[str, str] = {}
        self._quotas = quotas
        self._clock = wall_clock(context.reactor)
        self._uploaded: dict[tuple[SourceKey, str], datetime] = {}
        self.over_quota = quotas.refusals
        self._targets: dict[SourceKey, dict[str, SinkTarget]] = {}
        self._eligible: dict[SourceKey, tuple[tuple[str, SinkTarget], ...]] = {}
        self._writing: dict[SinkKey, dict[SliceKey, Slice]] = {}
        self._pipelines: dict[SinkKey, SinkPipeline] = {}
        self._report: Registration | None = None
        self._unreported: deque[_Unreported] = deque()
        self._at_once = Paced(context.reactor, SINKS_AT_ONCE)
        self._to_leave: deque[tuple[SinkKey, SinkPipeline]] = deque()
        self._leavers = 0
        self._leaving: dict[SinkPipeline, Deferred[None]] = {}
        self._sinks: Mirror[Sink] = Mirror(
            client, definition_prefix.SINK_ACTIVE, json_values(Sink), on_change=self._sinks_changed
        )
        self._slices: Mirror[Slice] = Mirror(
            client,
            storage_prefix.slice_level(Level.LOCAL),
            json_values(Slice),
            on_change=self._slices_changed,
        )
        self.refusal: UserError | None = shutting_down()

    async def startService(self) -> None:
        """Start, and wait until all sinks and slices are known and the node has reported."""
        super().startService()
        self._report = await self._session.register(
            f"{storage_prefix.CLOSE_SYNC}{self._context.node_id}", b"0"
        )
        await self._sinks.startService()
        await self._slices.startService()
        self._take_records()

    async def stopService(self) -> None:
        """Stop, and wait until rows are answered, files closed and the report withdrawn."""
        super().stopService()
        self.refusal = shutting_down()
        await self._sinks.stopService()
        await self._slices.stopService()
        pipelines = list(self._pipelines.values())
        closing: list[Deferred[None]] = []
        reason = self.refusal

        def close(pipeline: SinkPipeline) -> None:
            closing.append(ensureDeferred(pipeline.close(reason)))

        # The lease must last until all are closed.
        await in_turns(pipelines, close, self._context.reactor)
        await _settled(closing, "cannot close a sink pipeline")
        for key in self._pipelines:
            _log.info("closed sink pipeline: {cause}", cause="shutting down", sink_id=str(key))
        # Pipelines that a change is closing must not be interrupted.
        await DeferredList([pipeline.turn.acquire() for pipeline in pipelines])
        if self._report is not None:
            await self._report.remove()

    def session_lost(self) -> None:
        """Stop accepting records, because the lease is lost; see Note [Lost lease]."""
        if not self.running:
            return
        self.refusal = _lease_lost()
        pipelines = list(self._pipelines.items())
        for _, pipeline in pipelines:
            pipeline.stop(self.refusal)
        for key, pipeline in pipelines:
            if pipeline not in self._leaving:  # otherwise it is closing since an earlier loss
                self._leaving[pipeline] = Deferred()
                self._to_leave.append((key, pipeline))
        while self._to_leave and self._leavers < SINKS_AT_ONCE:
            self._leavers += 1
            leaving = ensureDeferred(self._leave_some())
            leaving.addErrback(lambda failure: _log.failure("cannot close pipelines", failure))

    async def _leave_some(self) -> None:
        """Leave pipelines one after another, until none is left.

        Each takes a separate turn of the reactor, because most have nothing to wait for.
        """
        try:
            while self._to_leave:
                key, pipeline = self._to_leave.popleft()
                # Its turn may be held by a task that waits for a file to open or for a writer.
                try:
                    await pipeline.leave()
                except Exception:
                    _log.failure("cannot leave a pipeline")
                closing = pipeline.turn.run(self._close_left, key, pipeline)
                closing.addErrback(lambda failure: _log.failure("cannot close a pipeline", failure))
                closing.addCallback(lambda _, pipeline: self._has_left(pipeline), pipeline)
                await deferLater(self._context.reactor, 0)
        finally:
            self._leavers -= 1

    def _has_left(self, pipeline: SinkPipeline) -> None:
        leaving = self._leaving.pop(pipeline, None)
        if leaving is not None:
            leaving.callback(None)

    async def _close_left(self, key: SinkKey, pipeline: SinkPipeline) -> None:
        if self._pipelines.get(key) is pipeline:
            await self._close_pipeline(key, "the lease is lost")

    def session_renewed(self) -> None:
        """Accept records again; see Note [Lost lease]."""
        if self.running:
            self._take_records()

    def _take_records(self) -> None:
        """Accept records if the node still holds its name."""
        self.refusal = None if self._context.life() else _lease_lost()

    # Records.

    def eligible(self, source: SourceKey, signal: str) -> Sequence[tuple[str, SinkTarget]]:
        """Return the enabled sinks of a source for *signal* (empty for HTTP records).

        :returns: IDs and targets, sorted by ID.
        """
        eligible = self._eligible.get(source, ())
        if not signal:
            return eligible
        return [(sink_id, target) for sink_id, target in eligible if target.accepts(signal)]

    def check(self, key: SinkKey) -> None:
        """Check that the node accepts records of this sink. Raises UserError."""
        if self.refusal is not None:
            raise self.refusal
        if self.over_quota and key in self.over_quota:
            raise self.over_quota[key]

    def open(self, key: SinkKey, now_ms: int) -> SinkPipeline:
        """Return the pipeline of a sink; the first record opens it.

        Raises UserError: the sink has no slice to which this node may write.
        """
        pipeline = self._pipelines.get(key)
        if pipeline is not None:
            return pipeline
        share = self._share(key)
        if not share:
            raise no_opened_slice(from_milliseconds(now_ms + RETRY_AFTER_MILLISECONDS))
        _log.info("opening sink pipeline", sink_id=str(key))
        pipeline = self._pipelines[key] = SinkPipeline(self._context, key, lambda: self.check(key))
        self._quotas.watch(key, share[-1].quota)
        ensureDeferred(pipeline.update(share)).addCallbacks(
            lambda _: _log.info("opened sink pipeline", sink_id=str(key)),
            lambda failure: _log.failure("cannot open sink pipeline", failure),
        )
        return pipeline

    def _share(self, key: SinkKey) -> list[Slice]:
        slices = self._writing.get(key, {})
        share = slice_share(
            [slices[slice_key] for slice_key in sorted(slices)],
            self._nodes(),
            self._context.node_id,
            self._minimum_slices,
            self._writer_of,
        )
        return sorted(share, key=lambda slice_: slice_.key)

    def _writer_of(self, slice_: Slice) -> str:
        """Return the last known writer of the volume, so that an outage doesn't move slices."""
        volume_id = slice_.key.volume_id
        volume = self._volume(volume_id)
        if volume is not None:
            self._writers[volume_id] = volume.node_id
        return self._writers.get(volume_id, "")

    def volumes_away(self, sources: Sequence[SourceKey], since: datetime) -> set[str]:
        """Return the volumes of unavailable writers that may have recent rows of *sources*.

        Rows newer than *since* count. Uploaded slices count, too, because only their writer knows
        which requests have rows in them.
        """
        wanted = set(sources)
        away: dict[str, bool] = {}
        found = set()
        for slice_ in self._slices.items.values():
            volume_id = slice_.key.volume_id
            if volume_id not in away:  # checked first, because it is rare
                away[volume_id] = self._volume(volume_id) is None
            if (
                away[volume_id]
                and slice_.key.source_key in wanted
                and (slice_.closing_at is None or slice_.closing_at >= since)
            ):
                found.add(volume_id)
        for (source, volume_id), uploaded_at in list(self._uploaded.items()):
            if uploaded_at < since:
                del self._uploaded[source, volume_id]
            elif source in wanted:
                found.add(volume_id)
        return {volume_id for volume_id in found if self._volume(volume_id) is None}

    def slices(self) -> Iterator[SlicePipeline]:
        """Return all slices to which this node writes."""
        for pipeline in self._pipelines.values():
            yield from pipeline.slices

    # Changes of sinks.

    def _sinks_changed(self, batch: Batch[Sink]) -> None:
        known = self._targets
        if batch.reset:
            self._targets = {}
        touched: set[SourceKey] = set(known) if batch.reset else set()
        meters = self._context.meters
        if batch.reset and meters is not None:
            meters.keep({_sink_key(change.key) for change in batch.changes})
        for change in batch.changes:
            key = _sink_key(change.key)
            source = key.source_key
            touched.add(source)
            if change.value is None:
                self._targets.get(source, {}).pop(key.sink_id, None)
                if self._context.rejected is not None:
                    self._context.rejected.forget(key)
                if meters is not None:
                    meters.forget(key)
                continue
            sink = change.value
            target = known.get(source, {}).get(key.sink_id)
            if target is None:
                target = SinkTarget(key, sink.is_enabled, sink.allowed_signals, self)
            target.enabled, target.allowed_signals = sink.is_enabled, sink.allowed_signals
            self._targets.setdefault(source, {})[key.sink_id] = target
        for source in touched:
            targets = self._targets.get(source, {})
            eligible = tuple((i, targets[i]) for i in sorted(targets) if targets[i].enabled)
            if eligible:
                self._eligible[source] = eligible
            else:
                self._eligible.pop(source, None)

    # Changes of slices.

    async def _slices_changed(self, batch: Batch[Slice]) -> None:
        """Apply a change of slices.

        The next change waits until the mappings of new slices are read. This doesn't delay other
        changes for long, because they come from the same etcd.
        """
        new = [
            slice_
            for slice_ in (change.value for change in batch.changes)
            if slice_ is not None
            and slice_.state is SliceState.WRITING
            and self._known_mapping(slice_) is None
        ]
        read = await self._read_mappings(new) if new else {}
        self._apply(batch, read)

    def _known_mapping(self, slice_: Slice) -> StoredMapping | None:
        """Return the mapping of the slice, if it or another slice of the sink has its content."""
        if slice_.mapping.content is not None:
            return slice_.mapping
        for other in self._writing.get(slice_.key.sink_key, {}).values():
            if other.mapping == slice_.mapping:
                return other.mapping
        return None

    async def _read_mappings(self, slices: Sequence[Slice]) -> _Mappings:
        wanted = [(slice_.key.sink_key, slice_.mapping) for slice_ in slices]
        delay, most = READ_AGAIN_SECONDS
        while True:
            try:
                return await read_mappings(self._client, wanted)
            except EtcdError as error:
                if not self.running:
                    raise
                _log.warn("cannot read the mappings of new slices: {error}", error=error)
            await deferLater(self._client.reactor, delay)
            delay = min(2 * delay, most)

    def _apply(self, batch: Batch[Slice], read: _Mappings) -> None:
        known = {
            change.key: self._known_mapping(change.value)
            for change in batch.changes
            if change.value is not None
        }
        touched = set(self._writing) if batch.reset else set()
        if batch.reset:
            self._writing = {}
        now = from_milliseconds(int(self._clock() * 1000))
        for change in batch.changes:
            key = SliceKey.parse(change.key.removeprefix(storage_prefix.slice_level(Level.LOCAL)))
            touched.add(key.sink_key)
            slices = self._writing.setdefault(key.sink_key, {})
            slice_ = change.value
            if slice_ is not None and slice_.state is SliceState.WRITING:
                mapping = known[change.key] or read.get((key.sink_key, slice_.mapping))
                if mapping is None:
                    _log.error("the mapping of {slice_id} is missing", slice_id=str(key))
                    slices.pop(key, None)
                else:
                    slices[key] = attrs.evolve(slice_, mapping=mapping)
                self._note_quarantine(slice_)
            else:
                slices.pop(key, None)
            if slice_ is None:
                self._uploaded[key.source_key, key.volume_id] = now
            if not slices:
                del self._writing[key.sink_key]
        unreported = _Unreported(batch.revision)
        self._unreported.append(unreported)
        self._update_pipelines(touched).addCallback(lambda _: self._done(unreported))

    def _done(self, unreported: _Unreported) -> None:
        """Report the change; see Note [Close sync].

        A stopping node withdraws its report when everything is closed.
        """
        unreported.is_done = True
        if not self.running:
            return
        reached = 0
        while self._unreported and self._unreported[0].is_done:
            reached = self._unreported.popleft().revision
        if reached and self._report is not None:
            reporting = ensureDeferred(self._report.update(str(reached).encode()))
            reporting.addErrback(lambda failure: _log.failure("cannot report a change", failure))

    def _note_quarantine(self, slice_: Slice) -> None:
        if self._context.rejected is not None and slice_.quarantine is not None:
            self._context.rejected.known(slice_.key.sink_key, slice_.quarantine)

    async def nodes_changed(self) -> None:
        """Distribute the slices again, because source nodes have joined or left."""
        await self._update_pipelines(list(self._pipelines))

    def _update_pipelines(self, touched: Iterable[SinkKey]) -> Deferred[None]:
        """Update the pipelines; the Deferred fires when they write only to the assigned slices."""
        updating = []
        for key in touched:
            pipeline = self._pipelines.get(key)
            if pipeline is None:
                continue
            follow = partial(self._follow, key, pipeline)
            updating.append(pipeline.turn.run(self._at_once.run, follow))
            leaving = self._leaving.get(pipeline)
            if leaving is not None:  # it ignores changes, and its files are open until it is closed
                updating.append(ended(leaving))
        return ensureDeferred(_settled(updating, "cannot update a sink pipeline"))

    async def _follow(self, key: SinkKey, pipeline: SinkPipeline) -> None:
        if self._pipelines.get(key) is not pipeline or not self.running:
            return  # a pipeline that was opened since knows the current slices
        share = self._share(key)
        if share:
            self._quotas.watch(key, share[-1].quota)
            await pipeline.update(share)
        else:
            await self._close_pipeline(key)

    async def _close_pipeline(self, key: SinkKey, cause: str = "no active slice") -> None:
        """Close a pipeline. Records are refused until then, because a file must have one writer."""
        try:
            await self._pipelines[key].close(
                UserError("no pipeline", status=503, name="noPipeline")
            )
        finally:
            del self._pipelines[key]
            self._quotas.forget(key)
            target = self._targets.get(key.source_key, {}).get(key.sink_id)
            if target is not None:
                target.opened = None
        _log.info("closed sink pipeline: {cause}", cause=cause, sink_id=str(key))


def _lease_lost() -> UserError:
    return UserError("the node has lost its lease in etcd", status=503, name="leaseLost")


def _sink_key(key: str) -> SinkKey:
    return SinkKey.parse(key.removeprefix(definition_prefix.SINK_ACTIVE))


@attrs.define(eq=False)
class _Unreported:
    """A change of slices that the node hasn't reported yet.

    :ivar is_done: whether every pipeline follows the change.
    """

    revision: int
    is_done: bool = False


async def _settled(deferreds: list[Deferred[None]], message: str) -> None:
    """Wait for all *deferreds*; a failure is logged and doesn't stop the others."""
    for success, result in await DeferredList(deferreds, consumeErrors=True):
        if not success:
            _log.failure(message, result)
