"""Templates evaluated in the process of the tests, without limits."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs
from twisted.internet.defer import Deferred, fail, succeed

from stream.errors import UserError
from stream.mapping.evaluator import Evaluator, Group
from stream.mapping.plan import Evaluated, TemplatePlan
from stream.mapping.render import Renderer
from stream.record.context import RecordContext
from stream.templates.interface import Waiter

__all__ = ["InProcessTemplates", "evaluate", "row"]

_evaluator = Evaluator()


class _Unwatched:
    """A watch without time limits."""

    def begin(self, record: int, column: int, spent: float) -> bool:
        return True


def evaluate(plan: TemplatePlan, records: Sequence[RecordContext]) -> list[Evaluated]:
    """Return an engine's results of *records*."""
    group = Group(plan, records, _Unwatched())
    _evaluator.evaluate(plan, group)
    return [result for result in group.results if result is not None]


def row(renderer: Renderer, record: RecordContext) -> bytes:
    """Return the row of *record*, evaluated in the engine if needed."""
    if renderer.plan is None:
        return renderer.row(record)
    return renderer.row_of(record, evaluate(renderer.plan, [record])[0])


@attrs.define(eq=False)
class InProcessTemplates:
    """Evaluates templates in the process of the tests. See
    `stream.templates.interface.TemplateEvaluator`.

    Results wait for `release`, unless `at_once`.

    :ivar refusal: the error raised instead of an evaluation.
    :ivar is_full: whether there is no capacity until `release`.
    """

    at_once: bool = False
    refusal: UserError | None = None
    is_full: bool = False
    warmed: int = 0
    waiting: list[Callable[[], None]] = attrs.Factory(list)
    _room: list[Deferred[None]] = attrs.Factory(list)

    def submit(
        self, project: int, plan: TemplatePlan, record: RecordContext, waiter: Waiter
    ) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.waiting.append(lambda: waiter.evaluated(evaluate(plan, [record])[0]))

    def evaluate(
        self, project: int, plan: TemplatePlan, records: Sequence[RecordContext]
    ) -> Deferred[list[Evaluated]]:
        if self.refusal is not None:
            return fail(self.refusal)
        if self.at_once:
            return succeed(evaluate(plan, records))
        answer: Deferred[list[Evaluated]] = Deferred()
        self.waiting.append(lambda: answer.callback(evaluate(plan, records)))
        return answer

    def room(self, project: int) -> Deferred[None] | None:
        if not self.is_full:
            return None
        room: Deferred[None] = Deferred()
        self._room.append(room)
        return room

    def warm(self) -> None:
        self.warmed += 1

    def release(self) -> None:
        """Deliver all results."""
        self.is_full = False
        waiting, self.waiting = self.waiting, []
        for give in waiting:
            give()
        rooms, self._room = self._room, []
        for room in rooms:
            room.callback(None)
