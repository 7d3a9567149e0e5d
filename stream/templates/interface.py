"""The interfaces between the scheduler, its engines, and its users."""

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
    """The caller that waits for the evaluation of a record.

    Exactly one of the methods is called, once, and never from within `TemplateEvaluator.submit`.
    """

    def evaluated(self, result: Evaluated, /) -> None:
        """Handle the result, which may be an error of the record or of a template."""

    def failed(self, error: Exception, /) -> None:
        """Handle that there is no result; the record may be sent again."""


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
        """Return the results of *records*. Fails with UserError if any can't be evaluated now."""

    def room(self, project: int) -> Deferred[None] | None:
        """Return ``None`` if the project's queue is at most half full; else fires when it is."""

    def warm(self) -> None:
        """Start an engine, since templates are expected."""


class Cause(enum.Enum):
    """Why an engine has ended."""

    PROCESSOR = "processor"
    """The current template has used up its processor time."""
    CRASH = "crash"
    """It ran out of memory or stack, or sent an invalid frame."""
    OUTSIDE = "outside"
    """It was killed from outside: by an operator, by the kernel, or by this node."""
    START = "start"
    """It was never ready."""


class Job(Protocol):
    """A record to be evaluated.

    :ivar plan: its templates.
    """

    plan: TemplatePlan
    record: RecordContext


@attrs.frozen
class End:
    """The end of an engine process: the cause, and its current work.

    :ivar serial: number of the last batch; 0 if there was none.
    :ivar index: index of the record, or of the template if they were only parsed.
    :ivar column: column in its plan.
    """

    cause: Cause
    serial: int = 0
    index: int = 0
    column: int = 0


class EngineListener(Protocol):
    """Is notified of the results and the end of an engine."""

    def ready(self, engine: TemplateEngine, /) -> None:
        """Handle that the engine accepts work from now on."""

    def answered(
        self, engine: TemplateEngine, serial: int, index: int, result: Evaluated, /
    ) -> None:
        """Handle the result of one record of a batch."""

    def finished(self, engine: TemplateEngine, serial: int, *, is_full: bool) -> None:
        """Handle the end of the batch; its records without a result are evaluated later.

        :param is_full: whether the engine keeps much memory, and should be replaced.
        """

    def checked(self, engine: TemplateEngine, serial: int, faults: Sequence[str | None], /) -> None:
        """Handle what is wrong with each of the templates."""

    def ended(self, engine: TemplateEngine, end: End, /) -> None:
        """Handle the end of the engine; no other call follows."""


class TemplateEngine(Protocol):
    """A process that evaluates templates. It may end at any time.

    Batches are processed in order. `EngineListener.ended` is called once, as the last call, never
    from within one of these methods.
    """

    def evaluate(self, serial: int, seconds: float, jobs: Sequence[Job], /) -> None:
        """Evaluate *jobs*; those left after *seconds* are postponed."""

    def check(self, serial: int, templates: Sequence[str], /) -> None:
        """Parse *templates* without running them."""

    def kill(self) -> None:
        """Kill the engine now."""

    def progress(self) -> object:
        """Return a value that changes while the engine works; the same if it does not respond."""


class StartEngine(Protocol):
    """Starts an engine. Raises OSError."""

    def __call__(self, listener: EngineListener, /) -> TemplateEngine: ...
