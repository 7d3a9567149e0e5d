"""Two projects with real engines: the templates of one never block the other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred

from stream.errors import UserError
from stream.mapping.plan import Evaluated, TemplatePlan
from stream.templates.pool import Limits, TemplatePool
from stream.templates.process import ProcessEngines
from tests.templates.fakes import CRASHES, NEVER_ENDS, plan, record, takes

reactor: Any = _reactor
GOOD, BAD = 1, 2
QUICK = plan(takes(0))
SLOW = plan("std.foldl(function(a, b) a + b, std.range(1, 50000), 0)")
"""Slow on any machine."""
RECORDS = 30
BACKLOG = 12
"""Unfinished records of the bad project: more than there are engines."""


class Counts:
    """Metrics that count nothing."""

    def evaluated(self, seconds: float, result: str) -> None: ...

    def ended(self, cause: str) -> None: ...

    def refused(self, reason: str) -> None: ...


@attrs.define(eq=False)
class Answer:
    """The result of one record."""

    outcome: Deferred[Evaluated | Exception] = attrs.Factory(Deferred)

    def evaluated(self, result: Evaluated, /) -> None:
        self.outcome.callback(result)

    def failed(self, error: Exception, /) -> None:
        self.outcome.callback(error)


@attrs.define(eq=False)
class Flood:
    """A project that always has a backlog.

    :ivar outcomes: outcomes of its records.
    :ivar waiting: number of unfinished records.
    """

    pool: TemplatePool
    plan: TemplatePlan
    outcomes: list[Evaluated | Exception] = attrs.Factory(list)
    waiting: int = 0
    goes_on: bool = True

    def push(self) -> None:
        """Push a record, and another one after each result."""
        answer = Answer()
        try:
            self.pool.submit(BAD, self.plan, record(), answer)
        except UserError as error:  # its templates are paused
            self.outcomes.append(error)
            reactor.callLater(0.05, self._next)
            return
        self.waiting += 1
        answer.outcome.addCallback(self._done)

    def _done(self, outcome: Evaluated | Exception) -> None:
        self.waiting -= 1
        self.outcomes.append(outcome)
        self._next()

    def _next(self) -> None:
        if self.goes_on:
            reactor.callLater(0, self.push)


@pytest_twisted.async_yield_fixture()
async def pool() -> AsyncIterator[TemplatePool]:
    engines = ProcessEngines(reactor, seconds=1.0, memory=64 * 1024 * 1024)
    pool = TemplatePool(engines, Limits(processes=3), reactor, Counts())
    yield pool
    await pool.stop()


@pytest.mark.parametrize(
    "templates",
    [
        pytest.param(SLOW, id="slow"),
        pytest.param(plan(NEVER_ENDS), id="never end"),
        pytest.param(plan(CRASHES), id="need all memory"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_one_project_against_another(pool: TemplatePool, templates: TemplatePlan) -> None:
    """Each good record gets a result during an endless backlog of the other project."""
    flood = Flood(pool, templates)
    for _ in range(BACKLOG):
        flood.push()
    while not flood.outcomes:  # the project has engines
        answer = Answer()
        pool.submit(GOOD, QUICK, record(), answer)
        assert isinstance(await answer.outcome, Evaluated)
    before = len(flood.outcomes)
    for _ in range(RECORDS):
        answer = Answer()
        pool.submit(GOOD, QUICK, record(), answer)
        outcome = await answer.outcome
        assert isinstance(outcome, Evaluated), outcome
        assert (list(outcome.cells), outcome.error) == ([b"5"], None)
    flood.goes_on = False
    # With a common queue, each good record would have waited for the backlog.
    assert templates is not SLOW or len(flood.outcomes) - before < RECORDS * BACKLOG / 2
    results = [each for each in flood.outcomes if isinstance(each, Evaluated)]
    assert results
    for result in results:
        assert (result.error is None) == (templates is SLOW)
        assert result.error is None or result.error.name == "templateLimitExceeded"


@pytest_twisted.ensureDeferred
async def test_two_slow_projects_share_the_engines(pool: TemplatePool) -> None:
    """Each project gets its share, for any number of records."""
    flood = Flood(pool, SLOW)
    for _ in range(BACKLOG):
        flood.push()
    other = Answer()
    pool.submit(GOOD, SLOW, record(), other)
    assert isinstance(await other.outcome, Evaluated)
    before = len(flood.outcomes)
    for _ in range(5):
        answer = Answer()
        pool.submit(GOOD, SLOW, record(), answer)
        assert isinstance(await answer.outcome, Evaluated)
    flood.goes_on = False
    assert 0 < len(flood.outcomes) - before < 5 * BACKLOG / 2
