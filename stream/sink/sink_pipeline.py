"""The records of one sink, which are rendered and balanced over the slices of this node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakValueDictionary

import attrs
from twisted.internet.defer import Deferred, DeferredList, DeferredLock, ensureDeferred
from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool

from stream.concurrency.waiters import Waiters, ended
from stream.definition.key import SinkKey
from stream.errors import UserError, without_frames
from stream.mapping.plan import Evaluated
from stream.mapping.render import Renderer, compile_renderer
from stream.mapping.stored import StoredMapping
from stream.ops.logging.throttle import LogThrottle
from stream.record.context import RecordContext
from stream.rejected.keeper import RejectedRecords
from stream.sink.balancing import Balancer
from stream.sink.counters import SliceCounters
from stream.sink.group import Group
from stream.sink.meters import SinkCounts, SinkMeters
from stream.sink.outcome import ACCEPTED, Completion, no_pipeline_ready
from stream.sink.slice_pipeline import SlicePipeline
from stream.storage.model.entity import Slice
from stream.storage.model.key import SliceKey
from stream.storage.model.marks import Mark
from stream.storage.network.interface import SliceOpener, SourceLife
from stream.templates.interface import TemplateEvaluator
from stream.values.bytesize import ByteSize

if TYPE_CHECKING:
    from stream.native import RowPlan

__all__ = ["CountersPublisher", "DirectTarget", "PipelineContext", "SinkPipeline"]

_log = Logger()

TELL_SECONDS = 10.0
"""Interval of logging that a volume accepts no slices or has lost files, however many there are."""

MAX_ROUNDS = 3
"""Maximum number of evaluations of a record's templates if the mapping keeps changing."""

CLOSE_SECONDS = 30.0
"""How long a closing slice pipeline waits for the writer; less than coordinators wait."""

LEAVE_SECONDS = 5.0
"""How long it waits after a lost lease; until then the node accepts no records of any sink."""


class CountersPublisher(Protocol):
    """Stores the counts of pipelines; see `stream.sink.statistics_publisher`."""

    def opened(self, key: SliceKey, counters: SliceCounters) -> None:
        """Store the counters of a slice from now on."""

    async def closed(self, key: SliceKey) -> None:
        """Store the final counters, and wait until they are stored."""


@attrs.frozen(kw_only=True)
class PipelineContext:
    """The objects that all pipelines of a node share.

    :ivar life: returns the number of the node's current life; see `stream.etcd.claims`.
    """

    node_id: str
    life: Callable[[], int]
    opener: SliceOpener
    reactor: Any
    pool: ThreadPool
    publisher: CountersPublisher
    balancer: Balancer
    rejected: RejectedRecords | None = None
    meters: SinkMeters | None = None
    renderers: WeakValueDictionary[tuple[StoredMapping, ByteSize], Renderer] = attrs.Factory(
        WeakValueDictionary
    )
    templates: TemplateEvaluator | None = None
    unopened: LogThrottle = attrs.Factory(
        lambda self: LogThrottle(TELL_SECONDS, self.reactor.seconds), takes_self=True
    )
    lost: LogThrottle = attrs.Factory(
        lambda self: LogThrottle(TELL_SECONDS, self.reactor.seconds), takes_self=True
    )

    def renderer(self, slice_: Slice) -> Renderer:
        """Return the compiled renderer of the slice's mapping, shared by open slices."""
        key = (slice_.mapping, slice_.encoding.encoder.row_size_limit)
        renderer = self.renderers.get(key)
        if renderer is None:
            renderer = compile_renderer(slice_.mapping.mapping, key[1])
            self.renderers[key] = renderer
        return renderer


@attrs.frozen(eq=False)
class _Target:
    """An open slice, with the values that the hot path needs.

    :ivar render: renders a row; ``None`` if templates must be evaluated first.
    """

    pipeline: SlicePipeline
    renderer: Renderer
    render: Callable[[RecordContext], bytes] | None
    wait: bool


@attrs.frozen(eq=False)
class DirectTarget:
    """An open slice whose rows compiled code renders; see `SinkPipeline.direct`.

    :ivar plan: compiled renderer of the rows.
    :ivar room: number of bytes that may still be written.
    :ivar slice_id: ID of the slice in this turn; all records for one slice share its room.
    """

    plan: RowPlan
    room: int
    slice_id: int
    _pipeline: SinkPipeline
    _target: _Target

    def write(self, rows: bytes, count: int, received_at: int, completion: Completion) -> None:
        """Write *count* rendered rows, to be stored together or not at all."""
        self._pipeline.hand_on(self._target, rows, count, received_at, completion)


class _Rendering:
    """A record whose templates are being evaluated; it is called with the result.

    :ivar rounds: how often the mapping has changed during the evaluation.
    """

    __slots__ = ("completion", "mark", "pipeline", "record", "renderer", "rounds")

    def __init__(
        self,
        pipeline: SinkPipeline,
        renderer: Renderer,
        record: RecordContext,
        completion: Completion,
        mark: Mark | None,
    ) -> None:
        self.mark = mark
        self.pipeline = pipeline
        self.renderer = renderer
        self.record = record
        self.completion = completion
        self.rounds = 0

    def evaluated(self, result: Evaluated, /) -> None:
        try:
            self.pipeline.write_evaluated(self, result)
        except UserError as error:
            self.completion.failed(without_frames(error))
        except Exception as error:
            _log.failure("write record error: {reason}", reason=str(error))
            self.completion.failed(without_frames(error))

    def failed(self, error: Exception, /) -> None:
        self.completion.failed(error)


class SinkPipeline:
    """Writes to the slices given by `update`; opened by the first record of the sink.

    It belongs to the life of the node in which it was created, and can't open a file in another
    life.

    :ivar turn: held while the slices are checked and changed.
    """

    def __init__(
        self,
        context: PipelineContext,
        key: SinkKey | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """:param key: key of the sink, for metrics; ``None`` to count nothing.
        :param check: raises UserError if no record may be accepted. It is called again before a row
            is written whose templates have been evaluated.
        """
        self._context = context
        self._source = SourceLife(context.node_id, context.life())
        self._check = check
        self._project = key.project_id if key is not None else 0
        self._meter: SinkCounts | None = None
        if context.meters is not None and key is not None:
            self._meter = context.meters.of(key)
        self._targets: tuple[_Target, ...] = ()
        self._accepted: list[Completion] = []
        self._accepted_count = 0
        self._stopped: UserError | None = None
        self._updating = DeferredLock()
        self._closing: dict[SlicePipeline, Waiters[None]] = {}
        self._leave_by: float | None = None
        self._left: list[Deferred[None]] = []
        self.turn = DeferredLock()

    def write(
        self, record: RecordContext, completion: Completion, mark: Mark | None = None
    ) -> None:
        """Render *record* and pass it to a ready slice.

        *completion* is called, immediately or later.

        Raises UserError: the record can't be rendered, or no slice accepts it; *completion* isn't
        called.
        """
        target = self._pick()
        if target.render is None or len(record.body) > target.renderer.effort.free_bytes:
            native_row = target.renderer.native_row(record)
            if native_row is not None:
                self.hand_on(target, native_row, 1, record.timestamp_ms, completion, mark)
                return
            if target.renderer.plan_for(record) is not None:
                self._evaluate(_Rendering(self, target.renderer, record, completion, mark))
                return
        assert target.render is not None  # there is a plan otherwise
        try:
            row = target.render(record)
        except UserError as error:
            self.rejected(record, error)
            raise
        self.hand_on(target, row, 1, record.timestamp_ms, completion, mark)

    def direct(self) -> DirectTarget | None:
        """Return a slice for rows that are written immediately; ``None`` if there is none.

        There is none if the compiled renderer doesn't support the mapping, or if rows have to wait.
        """
        try:
            target = self._pick()
        except UserError:
            return None
        plan = target.renderer.native
        if plan is None or not target.pipeline.ready:
            return None
        pipeline = target.pipeline
        return DirectTarget(plan, pipeline.room, id(pipeline), self, target)

    def hand_on(
        self,
        target: _Target,
        rows: bytes,
        count: int,
        received_at: int,
        completion: Completion,
        mark: Mark | None = None,
    ) -> None:
        """Pass rendered rows to a slice.

        Note [Answers of a turn]: if the sink's settings don't require waiting, all answers are sent
        together at the end of the reactor's turn. If they were sent one by one between reads, each
        answer would wake a sleeping producer, whose next record would arrive too late for this
        turn. Records would then cost more than with waiting for the disk.
        """
        if target.wait:
            target.pipeline.write(rows, count, received_at, completion, mark)
            return
        target.pipeline.write(rows, count, received_at, None, mark)
        self._accepted_count += count
        if not self._accepted:
            self._context.reactor.callLater(0, self._answer_accepted)
        self._accepted.append(completion)

    def _answer_accepted(self) -> None:
        """Send the answers; see Note [Answers of a turn]."""
        accepted, self._accepted = self._accepted, []
        if self._meter is not None:
            self._meter.acknowledged(self._accepted_count)
        self._accepted_count = 0
        for completion in accepted:
            completion.accepted(ACCEPTED)

    def _evaluate(self, rendering: _Rendering) -> None:
        """Evaluate templates.

        Note [Between evaluation and writing]: while the engine works, slices are opened and closed,
        the mapping may change, and the node may lose its lease. Therefore earlier checks are void
        when the result arrives. If a slice has the mapping that the row was rendered for, the row
        is written to that slice like a new row; otherwise the record is evaluated again.
        """
        plan = rendering.renderer.plan_for(rendering.record)
        assert plan is not None
        self._templates.submit(self._project, plan, rendering.record, rendering)

    @property
    def _templates(self) -> TemplateEvaluator:
        templates = self._context.templates
        if templates is None:
            raise RuntimeError("this node has no engine for templates")
        return templates

    def write_evaluated(self, rendering: _Rendering, result: Evaluated) -> None:
        """Write the row; see Note [Between evaluation and writing].

        Raises UserError for the same reasons as `write`.
        """
        self._check()
        record = rendering.record
        target = self._pick(rendering.renderer)
        if target.renderer is not rendering.renderer:
            rendering.rounds += 1
            rendering.renderer = target.renderer
            if target.renderer.plan_for(record) is not None:
                if rendering.rounds > MAX_ROUNDS:
                    raise _mapping_changed()
                self._evaluate(rendering)
                return
        try:
            row = target.renderer.row_of(record, result)
        except UserError as error:
            self.rejected(record, error)
            raise
        self.hand_on(target, row, 1, record.timestamp_ms, rendering.completion, rendering.mark)

    def evaluate(
        self, renderer: Renderer, records: Sequence[RecordContext]
    ) -> Deferred[list[Evaluated]]:
        """Return the engine's results for *records*, which are several small ones or one large one.

        The Deferred fails with UserError if the engine is unavailable.
        """
        plan = renderer.plan_for(records[0])
        assert plan is not None
        return self._templates.evaluate(self._project, plan, records)

    def room(self, record: RecordContext | None = None) -> Deferred[None] | None:
        """Return ``None`` if *record* is accepted, otherwise a Deferred that fires when it is."""
        for target in self._targets:
            if target.render is None or (
                record is not None and target.renderer.plan_for(record) is not None
            ):
                return self._templates.room(self._project)
        return None

    @property
    def slices(self) -> Sequence[SlicePipeline]:
        """Return the slices of this node."""
        return [target.pipeline for target in self._targets]

    def rejected(self, record: RecordContext, error: UserError) -> None:
        """Count a rejected *record*, and keep it if the sink's settings require it."""
        if self._meter is not None:
            self._meter.rejected(error)
        keeper = self._context.rejected
        for target in self._targets[:1]:
            slice_ = target.pipeline.slice
            if keeper is not None:
                keeper.offer(slice_.key.sink_key, slice_.quarantine, record, error)

    def renderer(self) -> Renderer:
        """Return the renderer for `write_rows`. Raises UserError if no slice accepts rows."""
        return self._pick().renderer

    def write_rows(
        self,
        rows: bytes,
        count: int,
        received_at: int,
        renderer: Renderer,
        completion: Completion,
        mark: Mark | None = None,
    ) -> None:
        """Write *count* rows to one slice, to be stored together or not at all.

        Raises UserError: no slice accepts them, or only a slice with another mapping; *completion*
        isn't called.

        :param renderer: renderer that has rendered the rows.
        :param mark: mark of the request, if it has an idempotency key.
        """
        target = self._pick()
        if target.renderer is not renderer:
            raise _mapping_changed()
        self.hand_on(target, rows, count, received_at, completion, mark)

    def _pick(self, renderer: Renderer | None = None) -> _Target:
        """Return a ready slice.

        :param renderer: renderer whose slices are preferred, if there are any.
        """
        if self._stopped is not None:
            raise self._stopped
        targets = self._targets
        if len(targets) == 1 and targets[0].pipeline.ready:
            return targets[0]  # there is nothing to balance
        if renderer is not None:
            targets = tuple(t for t in targets if t.renderer is renderer) or targets
        count = len(targets)
        if count:
            start = self._context.balancer.start(count)
            for i in range(count):
                target = targets[(start + i) % count]
                if target.pipeline.ready:
                    return target
            for target in targets:
                if target.pipeline.opening:
                    return target
        raise no_pipeline_ready()

    def _reroute(self, origin: SlicePipeline, group: Group) -> bool:
        """Offer a group that *origin* couldn't store to another slice with the same mapping."""
        for target in self._targets:
            pipeline = target.pipeline
            if (
                pipeline is not origin
                and pipeline.ready
                and pipeline.slice.mapping == origin.slice.mapping
            ):
                pipeline.adopt(group)
                return True
        return False

    async def update(self, slices: Sequence[Slice]) -> None:
        """Write to *slices* (sorted by key) from now on, and close all others.

        New slices are opened before the switch, with a short wait if no other slice is ready. The
        old slices accept records until then. This returns when the old slices are closed and their
        statistics are stored. Calls are executed sequentially.
        """
        await self._updating.run(lambda: ensureDeferred(self._update(slices)))

    async def _update(self, slices: Sequence[Slice]) -> None:
        if self._stopped is not None:
            return
        known = {target.pipeline.slice.key: target for target in self._targets}
        wanted = {slice_.key for slice_ in slices}
        opened: list[Deferred[None]] = []
        targets = []
        for slice_ in slices:
            target = known.get(slice_.key)
            if target is None:
                target, opening = self._open(slice_)
                opened.append(opening)
            targets.append(target)
        if opened and not any(t.pipeline.ready for t in targets):
            if not known:
                self._targets = tuple(targets)  # the only slice, so rows may wait here
            await DeferredList(opened, fireOnOneCallback=True)
        self._targets = tuple(targets)
        await self._close([t.pipeline for key, t in known.items() if key not in wanted])

    def _open(self, slice_: Slice) -> tuple[_Target, Deferred[None]]:
        context = self._context
        pipeline = SlicePipeline(
            slice_,
            source=self._source,
            opener=context.opener,
            reactor=context.reactor,
            pool=context.pool,
            reroute=self._reroute,
            meter=self._meter,
            unopened=context.unopened,
            lost=context.lost,
        )
        context.publisher.opened(slice_.key, pipeline.counters)
        renderer = context.renderer(slice_)
        render: Callable[[RecordContext], bytes] | None = renderer.row
        if renderer.plan is not None:
            render = None
            self._templates.warm()
        target = _Target(pipeline, renderer, render, slice_.encoding.sync.wait)
        return target, pipeline.start()

    async def _close(self, pipelines: Sequence[SlicePipeline]) -> None:
        await DeferredList(
            [ensureDeferred(self._close_one(pipeline)) for pipeline in pipelines],
            fireOnOneErrback=True,
            consumeErrors=True,
        )

    async def _close_one(self, pipeline: SlicePipeline) -> None:
        await self._close_file(pipeline)
        await self._context.publisher.closed(pipeline.slice.key)

    async def _close_file(self, pipeline: SlicePipeline) -> None:
        """Close a file, and wait until it is closed, even if an earlier call closes it."""
        others = self._closing.get(pipeline)
        if others is not None:
            await others.wait()
            return
        others = self._closing[pipeline] = Waiters()
        try:
            await pipeline.close(self._close_seconds())
        finally:
            del self._closing[pipeline]
            others.fire(None)

    def _close_seconds(self) -> float:
        if self._leave_by is None:
            return CLOSE_SECONDS
        return max(0.0, self._leave_by - float(self._context.reactor.seconds()))

    def stop(self, reason: UserError) -> None:
        """Accept no more records; they fail with *reason*. `leave` and `close` must follow.

        The outcome of rows that the writer doesn't acknowledge within `LEAVE_SECONDS` is unknown.
        """
        self._stopped = reason
        if self._leave_by is None:
            self._leave_by = self._context.reactor.seconds() + LEAVE_SECONDS
        for pipeline in tuple(self._closing):
            pipeline.hurry(self._close_seconds())

    async def leave(self) -> None:
        """Close the file of every slice; the last statistics may be stored later."""
        targets, self._targets = self._targets, ()
        closing = []
        for target in targets:
            closed = ensureDeferred(self._close_file(target.pipeline))
            closed.addErrback(lambda failure: _log.failure("cannot close a slice", failure))
            closing.append(ended(closed))
            self._left.append(ensureDeferred(self._count_later(target.pipeline, ended(closed))))
        await DeferredList(closing)

    async def _count_later(self, pipeline: SlicePipeline, closed: Deferred[None]) -> None:
        await closed
        try:
            await self._context.publisher.closed(pipeline.slice.key)
        except Exception:
            _log.failure("cannot store the last statistics of a slice")

    async def close(self, reason: UserError) -> None:
        """Accept no more records (they fail with *reason*), and close every slice."""
        self._stopped = reason
        await self._close_all()
        await DeferredList([ended(leaving) for leaving in self._left])
        # A change in progress may have replaced the slices.
        await self._updating.run(lambda: ensureDeferred(self._close_all()))

    async def _close_all(self) -> None:
        targets, self._targets = self._targets, ()
        await self._close([target.pipeline for target in targets])


def _mapping_changed() -> UserError:
    return UserError("the mapping of the sink has just changed", status=503, name="mappingChanged")
