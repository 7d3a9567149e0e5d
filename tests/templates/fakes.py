"""An in-memory engine whose templates define the outcome of their records."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial

import attrs
from twisted.internet.task import Clock

from stream.errors import UserError
from stream.mapping.plan import Evaluated, PlannedTemplate, TemplatePlan
from stream.record.context import RecordContext
from stream.record.headers import RecordHeaders
from stream.templates.interface import Cause, End, EngineListener, Job

__all__ = ["CRASHES", "FAILS", "NEVER_ENDS", "FakeEngine", "FakeEngines", "plan", "record", "takes"]

# templates that a real engine accepts too
NEVER_ENDS = (
    "local f(n) = if n == 0 then 0 else f(n - 1) + f(n - 1); "
    "if BodyStr() == 'good' then 1 else f(99)"
)
CRASHES = "std.repeat('x', 1e12)"
FAILS = "error 'failed' + BodyStr()"
_TAKES = "/* {seconds} s */ std.length(BodyStr()) + 1"
_SECONDS = re.compile(r"/\* ([\d.]+) s \*/")
_HEADERS = RecordHeaders(((b"content-type", b"text/plain"),))


def takes(seconds: float) -> str:
    """Return a template that takes this long, only in a fake engine."""
    return _TAKES.format(seconds=seconds)


def plan(*contents: str) -> TemplatePlan:
    """Return a plan with columns named by their position."""
    return TemplatePlan(
        tuple(PlannedTemplate(f"c{i}", content, False) for i, content in enumerate(contents)),
        1_000_000,
    )


def record(body: bytes = b"body") -> RecordContext:
    return RecordContext(1714557600123, "203.0.113.7", _HEADERS, body)


@attrs.define(eq=False)
class _Work:
    serial: int
    ends: float
    jobs: Sequence[Job] = ()
    templates: Sequence[str] | None = None
    place: int = 0


@attrs.define(eq=False)
class FakeEngine:
    """An engine whose work is done when its clock is advanced. See `TemplateEngine`.

    :ivar limit: seconds for a record.
    :ivar is_stopped: whether it is paused, as after SIGSTOP.
    :ivar is_starved: whether it gets almost no processor time.
    """

    clock: Clock
    listener: EngineListener
    limit: float
    is_stopped: bool = False
    is_starved: bool = False
    is_gone: bool = False
    is_ready: bool = False
    sent: list[_Work] = attrs.Factory(list)
    work: list[_Work] = attrs.Factory(list)
    at: tuple[int, int, int] = (0, 0, 0)

    def evaluate(self, serial: int, seconds: float, jobs: Sequence[Job], /) -> None:
        self._take(_Work(serial, seconds, jobs))

    def check(self, serial: int, templates: Sequence[str], /) -> None:
        self._take(_Work(serial, 0.0, templates=templates))

    def _take(self, work: _Work) -> None:
        assert self.is_ready, "not ready yet"
        self.sent.append(work)
        self.work.append(work)
        if len(self.work) == 1:
            self._later(0.0, self._begin)

    def kill(self) -> None:
        self.end(Cause.OUTSIDE)

    def progress(self) -> object:
        return (*self.at, self.clock.seconds() if self.is_starved else 0.0)

    def start(self) -> None:
        self.is_ready = True
        self.listener.ready(self)

    def end(self, cause: Cause) -> None:
        """End now. The listener is notified later."""
        if not self.is_gone:
            self.is_gone = True
            self.clock.callLater(0, self.listener.ended, self, End(cause, *self.at))

    def _later(self, seconds: float, step: Callable[[], None]) -> None:
        def call() -> None:
            if not self.is_gone and not self.is_stopped:
                step()

        self.clock.callLater(seconds, call)

    def _begin(self) -> None:
        if not self.work:
            return
        work = self.work[0]
        if work.templates is not None:
            self._read(work)
            return
        work.ends += self.clock.seconds()
        self._record(work)

    def _read(self, work: _Work) -> None:
        assert work.templates is not None
        faults: list[str | None] = []
        for index, content in enumerate(work.templates):
            self.at = work.serial, index, 0
            if content == "[":
                faults.append('1:2 expected "]" to close the "[" at 1:1')
            elif content == NEVER_ENDS:
                self._later(self.limit, lambda: self.end(Cause.PROCESSOR))
                return
            else:
                faults.append(None)
        self.work.pop(0)
        self.listener.checked(self, work.serial, faults)
        self._begin()

    def _record(self, work: _Work) -> None:
        """Work until there is a template to wait for."""
        while work.place < len(work.jobs):
            if work.place and self.clock.seconds() > work.ends:
                break
            result = self._evaluate(work)
            if result is None:
                return
            answer = partial(self._answer, work, work.place, result)
            work.place += 1
            if result.seconds:
                self._later(result.seconds, answer)
                self._later(result.seconds, lambda: self._record(work))
                return
            answer()
        self.work.pop(0)
        self.listener.finished(self, work.serial, is_full=False)
        self._begin()

    def _answer(self, work: _Work, place: int, result: Evaluated) -> None:
        self.listener.answered(self, work.serial, place, result)

    def _evaluate(self, work: _Work) -> Evaluated | None:
        """Return the result, or ``None`` if the record ends the engine."""
        seconds = 0.0
        cells: list[bytes] = []
        job = work.jobs[work.place]
        for column, template in enumerate(job.plan.templates):
            self.at = work.serial, work.place, column
            assert isinstance(template, PlannedTemplate)
            if template.content == CRASHES:
                self.end(Cause.CRASH)
                return None
            match = _SECONDS.search(template.content)
            seconds += float(match[1]) if match else 0.0
            never_ends = template.content == NEVER_ENDS and job.record.body != b"good"
            if never_ends or seconds > self.limit:
                self._later(self.limit, lambda: self.end(Cause.PROCESSOR))
                return None
            if template.content == FAILS:
                error = UserError("failed" + job.record.body.decode())
                return Evaluated(cells, error, seconds)
            cells.append(b"%d" % (len(job.record.body) + 1))
        return Evaluated(cells, None, seconds)


class FakeEngines:
    """Starts engines, which are ready at once unless `is_slow`.

    :ivar all: the engines in the order of starting.
    """

    def __init__(self, clock: Clock, limit: float = 1.0) -> None:
        self._clock = clock
        self._limit = limit
        self.all: list[FakeEngine] = []
        self.is_slow = False
        self.error: OSError | None = None

    def __call__(self, listener: EngineListener, /) -> FakeEngine:
        if self.error is not None:
            raise self.error
        engine = FakeEngine(self._clock, listener, self._limit)
        self.all.append(engine)
        if not self.is_slow:
            self._clock.callLater(0, engine.start)
        return engine

    @property
    def running(self) -> list[FakeEngine]:
        return [engine for engine in self.all if not engine.is_gone]
