"""Schedules engines fairly between projects, with limits on every resource.

Note [Fair shares]: each project has its own queue. An engine works for one project at a time, for a
few milliseconds or one record, whichever is longer, and then for the next project. A project with
slow records never gets the last free engine, which is reserved for other projects. So a project
with many records or slow records doesn't block the others.

Note [Causes]: when an engine ends, its shared memory page shows which record it was evaluating;
another engine evaluates all other records. A record that has used up its CPU time is the cause,
since the kernel counts CPU time, not wall-clock time. A record that has crashed an engine is the
cause if it also crashes another engine. If an engine was killed from outside or doesn't respond,
the record isn't considered the cause. It is evaluated once more, and if that fails as well, its
producer gets 503.

Note [Pauses]: replacing an engine takes a tenth of a second of CPU time. So templates that
repeatedly stop engines are paused for a short time. Their producers get 503, since the next record
may be valid. A successfully rendered record resets the pause.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import Any, Protocol

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from stream.concurrency.waiters import Waiters
from stream.errors import UserError, without_frames
from stream.mapping.plan import Evaluated, TemplatePlan
from stream.record.context import RecordContext
from stream.templates.interface import Cause, End, StartEngine, TemplateEngine, Waiter

__all__ = ["Limits", "PoolMeter", "TemplatePool"]

_log = Logger(namespace="templates")

SHARE_SECONDS = 0.05
"""CPU time after which an engine serves the next project."""

MAX_BATCH_RECORDS = 256
MAX_BATCH_BYTES = 1024 * 1024
RECORD_BYTES = 500
"""Assumed memory size of a record in addition to its body."""

SENT_BATCHES = 2
"""Number of batches in flight to one engine, so that it needn't wait for the next one."""

SLOW_SECONDS = 0.02
"""Average time per record above which a project doesn't get the last free engine."""

WEIGHT_OF_LAST = 0.2
MANY_RECORDS = 512
"""Queue length at which a project gets another engine, unless its records are slow."""

QUEUE_SECONDS = 10.0
"""Maximum time that a record waits in the queue."""

ANSWER_SECONDS = 20.0
"""Maximum time that a record waits for a result.

It is less than the timeout of requests, because 503 says that nothing is stored, while a missing
answer leaves the producer in doubt.
"""

TICK_SECONDS = 0.5
STANDSTILL_TICKS = 10
"""Ticks without progress after which a busy engine is replaced."""

IDLE_TICKS = 120
"""Ticks without work after which an idle engine is ended, except the last one."""

MAX_PAUSES = 10_000
STOPS_BEFORE_PAUSE = 3
FIRST_PAUSE_SECONDS = 1.0
MAX_PAUSE_SECONDS = 30.0

START_DELAY_SECONDS = 1.0
MAX_START_DELAY_SECONDS = 30.0

MAX_CHECKS = 20
"""Maximum number of queued checks of definitions per project."""


@attrs.frozen(kw_only=True)
class Limits:
    """The limits of the template engines.

    :ivar processes: maximum number of engines.
    :ivar seconds: CPU time limit of all templates of one record together.
    :ivar queue_records: maximum number of queued records of one project.
    :ivar queue_bytes: maximum size of the queued records of one project, which is a quarter of the
        maximum of all projects. A single record may be larger.
    """

    processes: int = 4
    seconds: float = 1.0
    queue_records: int = 5000
    queue_bytes: int = 16 * 1024 * 1024


class PoolMeter(Protocol):
    """Counts the results and the ends of engines for the metrics."""

    def evaluated(self, seconds: float, result: str) -> None:
        """Count an evaluated template.

        :param result: ``ok``, ``error`` or ``stopped``.
        """

    def ended(self, cause: str) -> None:
        """Count an engine that has ended; see `Cause`."""

    def refused(self, reason: str) -> None:
        """Count a record without a result.

        :param reason: ``full``, ``paused``, ``late``, ``killed`` or ``stopping``.
        """


@attrs.define(eq=False)
class _Job:
    """A record that is queued or being evaluated.

    :ivar crashes: number of engines that the record has crashed.
    :ivar losses: number of engines that were killed while they evaluated the record.
    """

    project: _Project
    plan: TemplatePlan
    record: RecordContext
    waiter: Waiter
    size: int
    since: float
    crashes: int = 0
    losses: int = 0


@attrs.define(eq=False)
class _Check:
    """Templates that have to be checked by parsing them.

    :ivar losses: number of engines that ended while parsing them, except by their time limit.
    """

    project: _Project
    templates: Sequence[str]
    answer: Deferred[list[str | None]]
    since: float
    losses: int = 0


@attrs.define(eq=False)
class _Project:
    """:ivar waiting: queued records in order of arrival.
    :ivar alone: records that have crashed an engine; each is evaluated alone in an engine.
    :ivar checks: templates to be parsed.
    :ivar records: number of records that are queued or being evaluated.
    :ivar size: size of these records in bytes.
    :ivar engines: number of engines that work for the project.
    :ivar average: average seconds per record.
    :ivar room: Deferreds of callers that wait for room.
    """

    number: int
    waiting: deque[_Job] = attrs.Factory(deque)
    alone: deque[_Job] = attrs.Factory(deque)
    checks: deque[_Check] = attrs.Factory(deque)
    records: int = 0
    size: int = 0
    engines: int = 0
    average: float = 0.0
    room: Waiters[None] = attrs.Factory(Waiters)

    @property
    def is_slow(self) -> bool:
        return self.average > SLOW_SECONDS

    @property
    def wants(self) -> bool:
        return bool(self.waiting or self.alone or self.checks)

    def count(self, seconds: float) -> None:
        """Update the average with the evaluation time of a record."""
        self.average += WEIGHT_OF_LAST * (seconds - self.average)


@attrs.define(eq=False)
class _Batch:
    """A batch of records in an engine.

    :ivar jobs: jobs of the batch; ``None`` for those that are answered.
    """

    jobs: list[_Job | None] = attrs.Factory(list)
    check: _Check | None = None


@attrs.define(eq=False)
class _Slot:
    """An engine and its work.

    :ivar project: project of the engine's batches.
    :ivar last: project of the engine's previous batches.
    :ivar batches: sent batches by number, in the order in which they were sent.
    :ivar seen: progress of the engine at the last tick.
    :ivar still: number of ticks without progress.
    """

    engine: TemplateEngine
    is_ready: bool = False
    project: _Project | None = None
    last: int = -1
    batches: OrderedDict[int, _Batch] = attrs.Factory(OrderedDict)
    is_leaving: bool = False
    seen: object = None
    still: int = 0


@attrs.define(eq=False)
class _Pause:
    """:ivar stops: number of engines that the templates have stopped in a row.
    :ivar until: when the pause ends, by the reactor's clock.
    """

    stops: int = 0
    until: float = 0.0


class TemplatePool:
    """The engine processes that evaluate templates, and the queues of their work.

    :param start: starts an engine.
    :param reactor: provides the time.
    """

    def __init__(self, start: StartEngine, limits: Limits, reactor: Any, meter: PoolMeter) -> None:
        self._start_engine = start
        self._limits = limits
        self._reactor = reactor
        self._meter = meter
        self._projects: OrderedDict[int, _Project] = OrderedDict()
        self._slots: dict[TemplateEngine, _Slot] = {}
        self._pauses: OrderedDict[tuple[int, TemplatePlan], _Pause] = OrderedDict()
        self._serials = itertools.count(1)
        self._size = 0
        self._dispatch_call: IDelayedCall | None = None
        self._start_after = 0.0
        self._start_delay = START_DELAY_SECONDS
        self._is_stopping = False
        self._stopped = Waiters[None]()
        self._ticking = LoopingCall(self._tick)
        self._ticking.clock = reactor

    # Requests.

    def submit(
        self, project: int, plan: TemplatePlan, record: RecordContext, waiter: Waiter
    ) -> None:
        """Queue *record* for evaluation; see `TemplateEvaluator`."""
        if self._pauses and (project, plan) in self._pauses:
            self._check_pause(project, plan)
        of_project = self._project(project)
        size = RECORD_BYTES + (len(record.body) if plan.needs_body else 0)
        limits = self._limits
        if (
            of_project.records >= limits.queue_records
            or (of_project.size and of_project.size + size > limits.queue_bytes)
            or (self._size and self._size + size > 4 * limits.queue_bytes)
        ):
            what = (
                "are waiting for their templates"
                if plan.has_templates
                else "are large and are waiting"
            )
            raise self._refused("full", f"too many records {what}", "overloaded")
        of_project.records += 1
        of_project.size += size
        self._size += size
        of_project.waiting.append(
            _Job(of_project, plan, record, waiter, size, self._reactor.seconds())
        )
        self._dispatch_soon()

    def evaluate(
        self, project: int, plan: TemplatePlan, records: Sequence[RecordContext]
    ) -> Deferred[list[Evaluated]]:
        """Evaluate records and return their results; see `TemplateEvaluator`."""
        answers = _Answers(len(records))
        for place, record in enumerate(records):
            try:
                self.submit(project, plan, record, _Place(answers, place))
            except UserError as error:
                answers.failed(error)
                break
        return answers.result

    def check(self, project: int, templates: Sequence[str]) -> Deferred[list[str | None]]:
        """Return what is wrong with each of *templates*; ``None`` for a valid one.

        Fails with UserError: the templates can't be parsed in time, or too many checks are queued.
        """
        answer: Deferred[list[str | None]] = Deferred()
        try:
            of_project = self._project(project)
            if len(of_project.checks) >= MAX_CHECKS:
                raise self._refused(
                    "full", "too many definitions are waiting to be checked", "overloaded"
                )
        except UserError as error:
            answer.errback(error)
            return answer
        of_project.checks.append(_Check(of_project, templates, answer, self._reactor.seconds()))
        self._dispatch_soon()
        return answer

    def room(self, project: int) -> Deferred[None] | None:
        """Wait until the project's queue has room; see `TemplateEvaluator`."""
        of_project = self._projects.get(project)
        if of_project is None or self._has_room(of_project):
            return None
        return of_project.room.wait()

    def warm(self) -> None:
        """Start an engine if there is none; see `TemplateEvaluator`."""
        if not self._slots and not self._is_stopping:
            self._start()

    @property
    def waiting_records(self) -> int:
        """The number of records that are queued or being evaluated."""
        return sum(project.records for project in self._projects.values())

    @property
    def processes(self) -> int:
        """The number of running engines."""
        return len(self._slots)

    def stop(self) -> Deferred[None]:
        """Refuse all requests from now on. The Deferred fires when all engines have ended."""
        self._is_stopping = True
        for project in list(self._projects.values()):
            for job in [*project.alone, *project.waiting]:
                self._give_up(job, "stopping")
            for check in project.checks:
                check.answer.errback(_stopping())
            project.alone.clear()
            project.waiting.clear()
            project.checks.clear()
            project.room.fire(None)
        if not self._slots:
            return succeed(None)
        stopped = self._stopped.wait()
        for slot in self._slots.values():
            slot.engine.kill()
        return stopped

    def _project(self, number: int) -> _Project:
        if self._is_stopping:
            self._meter.refused("stopping")
            raise _stopping()
        project = self._projects.get(number)
        if project is None:
            project = self._projects[number] = _Project(number)
            self._watch()
        return project

    def _watch(self) -> None:
        if not self._ticking.running:
            self._ticking.start(TICK_SECONDS, now=False).addErrback(
                lambda failure: _log.failure("the monitor of template engines stopped", failure)
            )

    def _refused(self, reason: str, message: str, name: str) -> UserError:
        self._meter.refused(reason)
        return UserError(message, status=503, name=name)

    # Dispatching.

    def _dispatch_soon(self) -> None:
        """Dispatch once at the end of the reactor's iteration, for all work added in it."""
        if self._dispatch_call is None and not self._is_stopping:
            self._dispatch_call = self._reactor.callLater(0, self._dispatch)

    def _dispatch(self) -> None:
        self._dispatch_call = None
        if self._is_stopping:
            return
        for project in [p for p in self._projects.values() if p.wants]:
            if not self._may_have_engine(project):
                continue
            slot = self._free_slot(project)
            if slot is None:
                break
            self._projects.move_to_end(project.number)
            self._give(slot, project)
        if not any(p.wants and not p.engines for p in self._projects.values()):
            self._send_ahead()
        if self._slots and all(slot.project is not None for slot in self._slots.values()):
            self._start()  # ready for the next project, or when an engine ends

    def _may_have_engine(self, project: _Project) -> bool:
        """Return whether the project may have another engine; see Note [Fair shares]."""
        most = max(self._limits.processes - 1, 1)
        if project.engines >= most:
            return False
        if project.is_slow:
            slow = sum(
                slot.project.is_slow for slot in self._slots.values() if slot.project is not None
            )
            return slow < most
        return (
            not project.engines
            or bool(project.alone or project.checks)
            or len(project.waiting) > MANY_RECORDS
        )

    def _free_slot(self, project: _Project) -> _Slot | None:
        free = [
            slot
            for slot in self._slots.values()
            if slot.is_ready and slot.project is None and not slot.is_leaving
        ]
        if free:
            return next((slot for slot in free if slot.last == project.number), free[0])
        if all(slot.is_ready for slot in self._slots.values()):
            self._start()
        return None

    def _start(self) -> None:
        if len(self._slots) >= self._limits.processes or self._is_stopping:
            return
        if self._reactor.seconds() < self._start_after:
            return  # the next tick retries
        self._watch()
        try:
            engine = self._start_engine(self)
        except OSError as error:
            self._not_started(str(error))
            return
        self._slots[engine] = _Slot(engine)

    def _not_started(self, why: str) -> None:
        _log.error(
            "cannot start a template engine: {why}; next attempt in {seconds:g} s",
            why=why,
            seconds=self._start_delay,
        )
        self._start_after = self._reactor.seconds() + self._start_delay
        self._start_delay = min(2 * self._start_delay, MAX_START_DELAY_SECONDS)

    def _give(self, slot: _Slot, project: _Project) -> None:
        slot.project = project
        slot.last = project.number
        slot.seen, slot.still = None, 0
        project.engines += 1
        self._send(slot, project)

    def _send(self, slot: _Slot, project: _Project) -> None:
        serial = next(self._serials)
        if project.checks:
            check = project.checks.popleft()
            slot.batches[serial] = _Batch(check=check)
            slot.engine.check(serial, check.templates)
            return
        jobs = [project.alone.popleft()] if project.alone else self._take(project)
        slot.batches[serial] = _Batch(list(jobs))
        slot.engine.evaluate(serial, SHARE_SECONDS, jobs)

    def _take(self, project: _Project) -> list[_Job]:
        """Return as many records as can probably be evaluated in one share."""
        count = MAX_BATCH_RECORDS
        if project.average:
            count = min(max(int(SHARE_SECONDS / project.average), 1), count)
        waiting = project.waiting
        jobs = [waiting.popleft()]
        size = jobs[0].size
        while waiting and len(jobs) < count and size + waiting[0].size <= MAX_BATCH_BYTES:
            jobs.append(waiting.popleft())
            size += jobs[-1].size
        # Records with the same plan are sent together, otherwise in the order of arrival.
        plans: dict[int, int] = {}
        jobs.sort(key=lambda job: plans.setdefault(id(job.plan), len(plans)))
        return jobs

    def _send_ahead(self) -> None:
        """Send engines the next batch before the current one is done, if no other project waits."""
        for slot in self._slots.values():
            project = slot.project
            if (
                project is not None
                and project.waiting
                and len(slot.batches) < SENT_BATCHES
                and not slot.is_leaving
                and not project.is_slow
            ):
                self._send(slot, project)

    # Notifications from engines.

    def ready(self, engine: TemplateEngine, /) -> None:
        """Give work to an engine that is ready; see `EngineListener`."""
        self._start_delay = START_DELAY_SECONDS
        self._slots[engine].is_ready = True
        self._dispatch_soon()

    def answered(
        self, engine: TemplateEngine, serial: int, index: int, result: Evaluated, /
    ) -> None:
        """Pass on the result of a record; see `EngineListener`."""
        batch = self._slots[engine].batches.get(serial)
        job = batch.jobs[index] if batch is not None and index < len(batch.jobs) else None
        if batch is not None and job is not None:
            if result.error is None and len(result.cells) != len(job.plan.templates):
                return  # ignore an invalid message, since engines aren't trusted
            batch.jobs[index] = None
            self._answer(job, result)

    def _answer(self, job: _Job, result: Evaluated) -> None:
        job.project.count(result.seconds)
        if self._pauses:
            self._pauses.pop((job.project.number, job.plan), None)
        self._meter.evaluated(result.seconds, "ok" if result.error is None else "error")
        self._leave(job)
        self._tell(job, result)

    def _tell(self, job: _Job, result: Evaluated) -> None:
        try:
            job.waiter.evaluated(result)
        except Exception:
            _log.failure("cannot deliver a rendered record")

    def finished(self, engine: TemplateEngine, serial: int, *, is_full: bool) -> None:
        """Called when a batch is finished; see `EngineListener`."""
        slot = self._slots[engine]
        batch = slot.batches.pop(serial, None)
        if batch is not None:
            self._again([job for job in batch.jobs if job is not None])
        if is_full:
            slot.is_leaving = True
        self._after_batch(slot)

    def checked(self, engine: TemplateEngine, serial: int, faults: Sequence[str | None], /) -> None:
        """Pass on the result of a check; see `EngineListener`."""
        slot = self._slots[engine]
        batch = slot.batches.pop(serial, None)
        if batch is not None and batch.check is not None:
            batch.check.answer.callback(list(faults))
        self._after_batch(slot)

    def _after_batch(self, slot: _Slot) -> None:
        slot.seen, slot.still = None, 0
        if not slot.batches:
            self._release(slot)
            if slot.is_leaving:
                slot.engine.kill()
        self._dispatch_soon()

    def _release(self, slot: _Slot) -> None:
        project, slot.project = slot.project, None
        if project is not None:
            project.engines -= 1

    def _again(self, jobs: Sequence[_Job]) -> None:
        """Put *jobs* back at the front of the queue."""
        for job in reversed(jobs):
            if self._is_stopping:
                self._give_up(job, "stopping")
            else:
                (job.project.alone if job.crashes else job.project.waiting).appendleft(job)

    def ended(self, engine: TemplateEngine, end: End, /) -> None:
        """Called when an engine has ended; see `EngineListener` and Note [Causes]."""
        slot = self._slots.pop(engine)
        self._release(slot)
        if not slot.is_leaving and not self._is_stopping:
            self._meter.ended(end.cause.value)
        if end.cause is Cause.START and not self._is_stopping:
            self._not_started("it ends immediately")
        for serial, batch in slot.batches.items():
            index = end.index if serial == end.serial else -1
            if batch.check is not None:
                self._check_lost(batch.check, end)
                continue
            if 0 <= index < len(batch.jobs):
                culprit = batch.jobs[index]
                if culprit is not None:
                    batch.jobs[index] = None
                    self._lost(culprit, end)
            self._again([job for job in batch.jobs if job is not None])
        if self._is_stopping:
            if not self._slots:
                self._all_ended()
            return
        if any(project.wants for project in self._projects.values()):
            self._start()
        self._dispatch_soon()

    def _lost(self, job: _Job, end: End) -> None:
        if end.cause is Cause.PROCESSOR:
            job.project.count(self._limits.seconds)
            self._blame(job, end.column, self._too_slow(job.plan))
        elif end.cause is Cause.CRASH:
            job.crashes += 1
            if job.crashes > 1:
                self._blame(job, end.column, _too_much_memory())
            else:
                self._again([job])
        else:
            job.losses += 1
            if job.losses > 1:
                self._give_up(job, "killed")
            else:
                self._again([job])

    def _too_slow(self, plan: TemplatePlan) -> str:
        what = "templates" if plan.has_templates else "paths"
        return (
            f"the {what} of the record exceed the limit of {self._limits.seconds:g} s of CPU time"
        )

    def _blame(self, job: _Job, column: int, reason: str) -> None:
        """Pause the templates that stopped an engine; see Note [Pauses]."""
        key = (job.project.number, job.plan)
        pause = self._pauses.setdefault(key, _Pause())
        self._pauses.move_to_end(key)
        pause.stops += 1
        if pause.stops >= STOPS_BEFORE_PAUSE:
            seconds = FIRST_PAUSE_SECONDS * 2.0 ** min(pause.stops - STOPS_BEFORE_PAUSE, 10)
            pause.until = self._reactor.seconds() + min(seconds, MAX_PAUSE_SECONDS)
        if len(self._pauses) > MAX_PAUSES:
            self._pauses.popitem(last=False)
        self._meter.evaluated(self._limits.seconds, "stopped")
        self._leave(job)
        column = min(max(column, 0), len(job.plan.templates) - 1)
        error = UserError(reason, name="templateLimitExceeded")
        self._tell(job, Evaluated([b""] * column, error, self._limits.seconds))

    def _check_pause(self, project: int, plan: TemplatePlan) -> None:
        pause = self._pauses[project, plan]
        if pause.until > self._reactor.seconds():
            raise self._refused(
                "paused",
                f"the templates of the sink were stopped {pause.stops} times in a row, so they "
                "are paused for a short time",
                "templatesPaused",
            )

    def _check_lost(self, check: _Check, end: End) -> None:
        if end.cause is Cause.PROCESSOR or (end.cause is Cause.CRASH and check.losses):
            faults: list[str | None] = [None] * len(check.templates)
            faults[min(max(end.index, 0), len(faults) - 1)] = (
                f"parsing it takes longer than {self._limits.seconds:g} s of CPU time"
                if end.cause is Cause.PROCESSOR
                else "parsing it exceeds the limit of memory or of stack depth"
            )
            check.answer.callback(faults)
        elif check.losses or self._is_stopping:
            check.answer.errback(_stopping() if self._is_stopping else _killed())
        else:
            check.losses += 1
            check.project.checks.appendleft(check)

    # Completion of records.

    def _leave(self, job: _Job) -> None:
        project = job.project
        project.records -= 1
        project.size -= job.size
        self._size -= job.size
        if project.room and self._has_room(project):
            project.room.fire(None)

    def _has_room(self, project: _Project) -> bool:
        limits = self._limits
        return (
            project.records <= limits.queue_records // 2
            and project.size <= limits.queue_bytes // 2
            and self._size <= 2 * limits.queue_bytes
        )

    def _give_up(self, job: _Job, reason: str) -> None:
        self._leave(job)
        self._meter.refused(reason)
        if reason == "stopping":
            error = _stopping()
        elif reason == "late":
            error = _late()
        else:
            error = _killed()
        try:
            job.waiter.failed(without_frames(error))
        except Exception:
            _log.failure("cannot answer a record that was not rendered")

    # Time.

    def _tick(self) -> None:
        now = self._reactor.seconds()
        for project in list(self._projects.values()):
            for queue in (project.waiting, project.alone):
                while queue and now - queue[0].since > QUEUE_SECONDS:
                    self._give_up(queue.popleft(), "late")
            while project.checks and now - project.checks[0].since > QUEUE_SECONDS:
                self._meter.refused("late")
                project.checks.popleft().answer.errback(_late())
            if not project.wants and not project.records and not project.engines:
                if not project.room and project.average < SLOW_SECONDS:
                    del self._projects[project.number]
                else:
                    project.average *= 1 - WEIGHT_OF_LAST
        for slot in list(self._slots.values()):
            for batch in slot.batches.values():
                self._give_up_old(batch, now)
            self._look_at(slot)
        if any(project.wants for project in self._projects.values()):
            self._dispatch_soon()
        if not self._projects and not self._slots and self._ticking.running:
            self._ticking.stop()

    def _give_up_old(self, batch: _Batch, now: float) -> None:
        for place, job in enumerate(batch.jobs):
            if job is not None and now - job.since > ANSWER_SECONDS:
                batch.jobs[place] = None
                self._give_up(job, "late")

    def _look_at(self, slot: _Slot) -> None:
        """End an engine if it doesn't respond or is no longer needed."""
        is_at_work = slot.batches or not slot.is_ready
        progress = slot.engine.progress() if is_at_work else None
        slot.still = slot.still + 1 if progress == slot.seen else 0
        slot.seen = progress
        if is_at_work:
            if slot.still == STANDSTILL_TICKS:
                _log.warn("a template engine does not respond, replacing it")
                slot.engine.kill()
        elif slot.still > IDLE_TICKS and len(self._slots) > 1:
            slot.is_leaving = True
            slot.engine.kill()

    def _all_ended(self) -> None:
        if self._ticking.running:
            self._ticking.stop()
        if self._dispatch_call is not None and self._dispatch_call.active():
            self._dispatch_call.cancel()
        self._stopped.fire(None)


def _stopping() -> UserError:
    return UserError("node is shutting down", status=503, name="shutdown")


def _late() -> UserError:
    return UserError(
        f"the templates of the record were not evaluated within {QUEUE_SECONDS:g} s",
        status=503,
        name="overloaded",
    )


def _killed() -> UserError:
    return UserError(
        "two template engines were killed while they worked on the record",
        status=503,
        name="templatesUnavailable",
    )


def _too_much_memory() -> str:
    return "the template exceeds the limit of memory or of stack depth"


class _Answers:
    """Several results that are returned together.

    :ivar result: Deferred that fires with the results.
    """

    def __init__(self, count: int) -> None:
        self.result: Deferred[list[Evaluated]] = Deferred()
        self._results: list[Evaluated | None] = [None] * count
        self._missing = count
        if not count:
            self.result.callback([])

    def evaluated(self, place: int, result: Evaluated) -> None:
        self._results[place] = result
        self._missing -= 1
        if not self._missing and not self.result.called:
            self.result.callback([each for each in self._results if each is not None])

    def failed(self, error: Exception) -> None:
        if not self.result.called:
            self.result.errback(error)


class _Place:
    """The waiter for one of several results."""

    __slots__ = ("_answers", "_place")

    def __init__(self, answers: _Answers, place: int) -> None:
        self._answers = answers
        self._place = place

    def evaluated(self, result: Evaluated, /) -> None:
        self._answers.evaluated(self._place, result)

    def failed(self, error: Exception, /) -> None:
        self._answers.failed(error)
