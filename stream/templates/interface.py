"""What the scheduler needs of an engine, and the engine of its owner."""

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
        """The result; it may be an error of the record or of a template."""

    def failed(self, error: Exception, /) -> None:
        """There is no result; the record may be sent again."""


class TemplateEvaluator(Protocol):
    """Evaluates templates for the records of all projects."""

    def submit(
        self, project: int, plan: TemplatePlan, record: RecordContext, waiter: Waiter
    ) -> None:
        """Evaluate *plan* for *record*; *waiter* is called later.

        Raises UserError: not now.
        """

    def evaluate(
        self, project: int, plan: TemplatePlan, records: Sequence[RecordContext]
    ) -> Deferred[list[Evaluated]]:
        """The results of *records*. Fails with UserError if any can't be evaluated now."""

    def room(self, project: int) -> Deferred[None] | None:
        """``None`` if the project's queue is at most half full; else fires when it is."""

    def warm(self) -> None:
        """Templates are to be expected."""


class Cause(enum.Enum):
    """Why an engine has ended."""

    PROCESSOR = "processor"
    """What it was working on has used up its processor time."""
    CRASH = "crash"
    """It has no more memory or stack, or says what can't be understood."""
    OUTSIDE = "outside"
    """Somebody has killed it: an operator, the kernel that needs memory, or we."""
    START = "start"
    """It has never been ready."""


class Job(Protocol):
    """A record to be evaluated.

    :ivar plan: with these templates.
    """

    plan: TemplatePlan
    record: RecordContext


@attrs.frozen
class End:
    """The end of an engine process: why, and what it worked on.

    :ivar serial: of the batch that was worked on last; 0 if there was none.
    :ivar index: of the record, or of the template if they were only read.
    :ivar column: of its plan.
    """

    cause: Cause
    serial: int = 0
    index: int = 0
    column: int = 0


class EngineListener(Protocol):
    """Is notified of the end of an engine and the results of its work."""

    def ready(self, engine: TemplateEngine, /) -> None:
        """The engine takes work from now on."""

    def answered(
        self, engine: TemplateEngine, serial: int, index: int, result: Evaluated, /
    ) -> None:
        """There is a result for one record of a batch."""

    def finished(self, engine: TemplateEngine, serial: int, *, is_full: bool) -> None:
        """The batch has ended; its records without a result are evaluated later.

        :param is_full: the engine keeps much memory, and should be replaced.
        """

    def checked(self, engine: TemplateEngine, serial: int, faults: Sequence[str | None], /) -> None:
        """What is wrong with each of the templates."""

    def ended(self, engine: TemplateEngine, end: End, /) -> None:
        """The engine has ended; no other call follows."""


class TemplateEngine(Protocol):
    """A process that evaluates templates. It may end at any time.

    Batches are worked on in their order. `EngineListener.ended` is called once, at last, never from
    within one of these methods.
    """

    def evaluate(self, serial: int, seconds: float, jobs: Sequence[Job], /) -> None:
        """Evaluate *jobs*; what is left after *seconds* is left for later."""

    def check(self, serial: int, templates: Sequence[str], /) -> None:
        """Read *templates* without running them."""

    def kill(self) -> None:
        """End it now."""

    def progress(self) -> object:
        """A value that changes while the engine works; the same if the engine does not respond."""


class StartEngine(Protocol):
    """Starts an engine. Raises OSError."""

    def __call__(self, listener: EngineListener, /) -> TemplateEngine: ...
