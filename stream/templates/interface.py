"""The interfaces between the scheduler, its engines and its callers."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Protocol

import attrs
from twisted.internet.defer import Deferred

from stream.mapping.plan import Evaluated, TemplatePlan
from stream.record.context import RecordContext

__all__ = [
    "Cause",
    "End",
    "EngineListener",
    "Job",
    "StartEngine",
    "TemplateEngine",
    "TemplateEvaluator",
    "Waiter",
]


class Waiter(Protocol):
    """A caller that waits for the evaluation of a record.

    Exactly one of the methods is called, once, and never from within `TemplateEvaluator.submit`.
    """

    def evaluated(self, result: Evaluated, /) -> None:
        """Handle the result, which may be an error of the record or of a template."""

    def failed(self, error: Exception, /) -> None:
        """Called when there is no result; the producer may send the record again."""


class TemplateEvaluator(Protocol):
    """Evaluates templates for the records of all projects."""

    def submit(
        self, project: int, plan: TemplatePlan, record: RecordContext, waiter: Waiter
    ) -> None:
        """Evaluate *plan* for *record*; *waiter* is called later.

        Raises UserError: the evaluator is overloaded.
        """

    def evaluate(
        self, project: int, plan: TemplatePlan, records: Sequence[RecordContext]
    ) -> Deferred[list[Evaluated]]:
        """Return the results of *records*.

        Fails with UserError if a record can't be evaluated now.
        """

    def room(self, project: int) -> Deferred[None] | None:
        """Return a Deferred that fires when the project's queue is at most half full.

        Returns ``None`` if it already is.
        """

    def warm(self) -> None:
        """Start an engine, since templates are expected."""


class Cause(enum.Enum):
    """Why an engine has ended."""

    PROCESSOR = "processor"
    """The current template has used up its CPU time."""
    CRASH = "crash"
    """It ran out of memory or stack, or sent an invalid frame."""
    OUTSIDE = "outside"
    """It was killed by an operator, by the kernel or by this node."""
    START = "start"
    """It ended before it was ready."""


class Job(Protocol):
    """A record to be evaluated.

    :ivar plan: the templates to evaluate for the record.
    """

    plan: TemplatePlan
    record: RecordContext


@attrs.frozen
class End:
    """Describes why an engine process ended, and what it was working on.

    :ivar serial: number of the current batch; 0 if there was none.
    :ivar index: index of the record in the batch, or of the template if templates were only parsed.
    :ivar column: index of the column in the record's plan.
    """

    cause: Cause
    serial: int = 0
    index: int = 0
    column: int = 0


class EngineListener(Protocol):
    """Receives the results of an engine, and is notified when the engine ends."""

    def ready(self, engine: TemplateEngine, /) -> None:
        """Called when the engine is ready for work."""

    def answered(
        self, engine: TemplateEngine, serial: int, index: int, result: Evaluated, /
    ) -> None:
        """Handle the result of one record of a batch."""

    def finished(self, engine: TemplateEngine, serial: int, *, is_full: bool) -> None:
        """Called when the batch is finished; its records without a result are evaluated later.

        :param is_full: whether the engine holds so much memory that it should be replaced.
        """

    def checked(self, engine: TemplateEngine, serial: int, faults: Sequence[str | None], /) -> None:
        """Handle the result of a check: what is wrong with each template."""

    def ended(self, engine: TemplateEngine, end: End, /) -> None:
        """Called when the engine has ended; no other call follows."""


class TemplateEngine(Protocol):
    """A process that evaluates templates. It may end at any time.

    Batches are processed in order. `EngineListener.ended` is called once, as the last call, never
    from within one of these methods.
    """

    def evaluate(self, serial: int, seconds: float, jobs: Sequence[Job], /) -> None:
        """Evaluate *jobs*; jobs that aren't done after *seconds* are postponed."""

    def check(self, serial: int, templates: Sequence[str], /) -> None:
        """Parse *templates* without running them."""

    def kill(self) -> None:
        """Kill the engine now."""

    def progress(self) -> object:
        """Return a value that changes as long as the engine makes progress."""


class StartEngine(Protocol):
    """A function that starts an engine. Raises OSError if it can't be started."""

    def __call__(self, listener: EngineListener, /) -> TemplateEngine: ...
