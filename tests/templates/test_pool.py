"""Scheduling of engines, and attribution of their failures to templates."""

from __future__ import annotations

from collections.abc import Iterator

import attrs
import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from stream.errors import UserError
from stream.mapping.plan import Evaluated, TemplatePlan
from stream.templates import pool as pool_module
from stream.templates.interface import Cause
from stream.templates.pool import Limits, TemplatePool
from tests.templates.fakes import (
    CRASHES,
    FAILS,
    NEVER_ENDS,
    FakeEngines,
    plan,
    record,
    takes,
)

GOOD = plan(takes(0))
BAD, OTHER = 1, 2


@attrs.define(eq=False)
class Answer:
    """Results of a record, with their times."""

    clock: Clock
    outcome: Evaluated | Exception | None = None
    at: float = -1.0

    def evaluated(self, result: Evaluated, /) -> None:
        self._told(result)

    def failed(self, error: Exception, /) -> None:
        self._told(error)

    def _told(self, outcome: Evaluated | Exception) -> None:
        assert self.outcome is None, "answered twice"
        self.outcome, self.at = outcome, self.clock.seconds()

    @property
    def error(self) -> Exception | None:
        return self.outcome.error if isinstance(self.outcome, Evaluated) else self.outcome

    @property
    def status(self) -> int:
        """Return 200 for a row, 0 if there is no answer yet."""
        if self.outcome is None:
            return 0
        if self.error is None:
            return 200
        assert isinstance(self.error, UserError)
        return self.error.status


@attrs.define(eq=False)
class Counts:
    results: dict[str, int] = attrs.Factory(dict)

    def evaluated(self, seconds: float, result: str) -> None:
        self._add(result)

    def ended(self, cause: str) -> None:
        self._add(cause)

    def refused(self, reason: str) -> None:
        self._add(reason)

    def _add(self, name: str) -> None:
        self.results[name] = self.results.get(name, 0) + 1


class World:
    def __init__(self, **limits: int) -> None:
        self.clock = Clock()
        self.engines = FakeEngines(self.clock)
        self.counts = Counts()
        self.pool = TemplatePool(self.engines, Limits(**limits), self.clock, self.counts)

    def ask(self, project: int, of: TemplatePlan = GOOD, body: bytes = b"body") -> Answer:
        answer = Answer(self.clock)
        self.pool.submit(project, of, record(body), answer)
        return answer

    def run(self, seconds: float) -> None:
        for _ in range(int(seconds * 1000)):
            self.clock.advance(0.001)

    def until(self, *answers: Answer, seconds: float = 60.0) -> None:
        """Advance the clock until all have an answer."""
        for _ in range(int(seconds * 1000)):
            if all(answer.outcome is not None for answer in answers):
                return
            self.clock.advance(0.001)
        pytest.fail("no answer")


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    stopped = world.pool.stop()
    world.run(2.0)
    assert stopped.called
    assert not world.engines.running
    assert not world.clock.getDelayedCalls()


def test_records_of_one_turn_are_one_batch(world: World) -> None:
    """Records with different mappings are in one batch."""
    world.until(world.ask(BAD))
    answers = [world.ask(BAD, plan(takes(0), takes(0)) if i % 2 else GOOD) for i in range(10)]
    world.until(*answers)
    assert [answer.status for answer in answers] == [200] * 10
    assert [len(work.jobs) for engine in world.engines.all for work in engine.sent] == [1, 10]


def test_results_and_failures(world: World) -> None:
    """Each record has its own result."""
    answers = [
        world.ask(BAD, body=b"123"),
        world.ask(BAD, plan(takes(0), FAILS, takes(0)), b"123"),
    ]
    world.until(*answers)
    assert isinstance(answers[0].outcome, Evaluated) and answers[0].outcome.cells == [b"4"]
    assert isinstance(answers[1].outcome, Evaluated) and answers[1].outcome.cells == [b"4"]
    assert str(answers[1].error) == "failed123"


def test_slow_records_delay_no_other_project(world: World) -> None:
    """Another project gets an engine at once, and so does each of its further records."""
    slow = plan(takes(0.9))
    first = [world.ask(BAD, slow) for _ in range(50)]
    world.run(2.0)
    for _ in range(20):
        good = world.ask(OTHER)
        world.run(0.2)
        assert good.status == 200
        assert good.at < world.clock.seconds() - 0.15
    assert sum(answer.status == 200 for answer in first) >= 5


def test_many_slow_projects(world: World) -> None:
    """The last engine is reserved for fast records."""
    slow = plan(takes(0.9))
    for project in range(100, 120):
        for _ in range(5):
            world.ask(project, slow)
    world.run(8.0)  # all of them are known to be slow by now
    for _ in range(10):
        good = world.ask(OTHER)
        world.run(0.1)
        assert good.status == 200


def test_many_records_delay_no_other_project(world: World) -> None:
    """An engine does a share of one project's work before it is the next one's turn."""
    world = World(processes=1)
    for _ in range(1000):
        world.ask(BAD, plan(takes(0.005)))
    world.run(1.0)
    good = world.ask(OTHER)
    world.until(good)
    assert world.clock.seconds() < 1.0 + 4 * pool_module.SHARE_SECONDS
    world.pool.stop()


def test_a_record_that_never_ends(world: World) -> None:
    """The error names its column; the other records of its batch are evaluated by the next
    engine.
    """
    world.until(world.ask(BAD))
    good = [world.ask(BAD), world.ask(BAD)]
    bad = world.ask(BAD, plan(takes(0), NEVER_ENDS, takes(0)))
    good += [world.ask(BAD), world.ask(BAD)]
    world.until(bad, *good)
    assert [answer.status for answer in good] == [200] * 4
    assert bad.status == 400
    assert isinstance(bad.outcome, Evaluated)
    assert len(bad.outcome.cells) == 1
    assert str(bad.error) == ("the templates of the record exceed the limit of 1 s of CPU time")
    assert world.counts.results == {"ok": 5, "stopped": 1, "processor": 1}


def test_the_time_limit_applies_to_the_whole_record(world: World) -> None:
    """Fourteen columns of a fifth of a second exceed it like one that never ends."""
    bad = world.ask(BAD, plan(*[takes(0.2)] * 14))
    world.until(bad)
    assert bad.status == 400
    assert isinstance(bad.outcome, Evaluated) and len(bad.outcome.cells) == 5


def test_a_record_that_crashes_engines(world: World) -> None:
    """The record is evaluated again in a separate engine, and rejected if that crashes too."""
    bad = world.ask(BAD, plan(CRASHES))
    good = [world.ask(BAD) for _ in range(5)]
    world.until(bad, *good)
    assert [answer.status for answer in good] == [200] * 5
    assert bad.status == 400
    assert str(bad.error) == "the template exceeds the limit of memory or of stack depth"
    assert world.counts.results["crash"] == 2


def test_an_engine_killed_from_outside(world: World) -> None:
    """The record is evaluated again; after the second kill it is refused as retryable."""
    for kills, expected in ((1, 200), (2, 503)):
        answer = world.ask(BAD, plan(takes(0.5)))
        for _ in range(kills):
            world.run(0.1)
            [engine] = [engine for engine in world.engines.running if engine.work]
            engine.end(Cause.OUTSIDE)
        world.until(answer)
        assert answer.status == expected
        assert world.ask(OTHER).status == 0  # no template is paused
        world.run(1.0)


def test_a_paused_engine_is_replaced(world: World) -> None:
    """Records of the paused engine are evaluated by another engine."""
    world.until(world.ask(BAD))
    engine = world.engines.running[0]
    engine.is_stopped = True
    answers = [world.ask(BAD) for _ in range(3)]
    other = world.ask(OTHER)
    world.run(1.0)
    assert other.status == 200
    world.until(*answers)
    assert [answer.status for answer in answers] == [200] * 3
    assert engine.is_gone


def test_templates_that_repeatedly_stop_engines_are_paused(world: World) -> None:
    """Only these templates are paused, for a short time, and a rendered record ends the pause."""
    bad = plan(NEVER_ENDS)
    for _ in range(pool_module.STOPS_BEFORE_PAUSE):
        world.until(world.ask(BAD, bad))
    with pytest.raises(UserError, match="stopped 3 times") as caught:
        world.ask(BAD, bad)
    assert caught.value.status == 503
    assert world.ask(BAD).outcome is None
    assert world.ask(OTHER, bad).outcome is None
    world.run(pool_module.FIRST_PAUSE_SECONDS + 0.01)
    world.until(world.ask(BAD, bad))
    world.run(pool_module.FIRST_PAUSE_SECONDS + 0.01)
    with pytest.raises(UserError, match="stopped 4 times"):
        world.ask(BAD, bad)  # twice as long
    world.run(pool_module.FIRST_PAUSE_SECONDS)
    good = world.ask(BAD, bad, b"good")
    world.until(good)
    assert good.status == 200
    for _ in range(pool_module.STOPS_BEFORE_PAUSE):
        world.until(world.ask(BAD, bad))
    assert world.counts.results["stopped"] == 2 * pool_module.STOPS_BEFORE_PAUSE + 2


def test_a_full_queue_refuses_records(world: World) -> None:
    """Records, bytes, and the bytes of all projects are limited."""
    world = World(queue_records=10, queue_bytes=10_000)
    for _ in range(10):
        world.ask(BAD)
    with pytest.raises(UserError, match="too many records are waiting") as caught:
        world.ask(BAD)
    assert caught.value.status == 503
    world.ask(OTHER, body=b"x" * 12_000)  # a single record may be larger
    with pytest.raises(UserError):
        world.ask(OTHER)
    for project in range(10, 12):
        world.ask(project, body=b"x" * 9_000)
    with pytest.raises(UserError):
        world.ask(20, body=b"x" * 9_000)
    assert world.counts.results == {"full": 3}
    world.run(0.1)
    assert world.ask(20, body=b"x" * 9_000).outcome is None
    world.pool.stop()


def test_callers_with_many_records_wait_for_capacity(world: World) -> None:
    """Callers with many records are notified when there is room for more."""
    world = World(queue_records=10)
    assert world.pool.room(BAD) is None
    answers = [world.ask(BAD, plan(takes(0.01))) for _ in range(8)]
    room = world.pool.room(BAD)
    assert room is not None and not room.called
    world.until(answers[2])
    assert room.called
    assert world.pool.room(BAD) is None
    world.pool.stop()


def test_a_record_does_not_wait_forever(world: World) -> None:
    """After a time limit the record is refused as retryable."""
    world = World(processes=1)
    slow = plan(takes(0.9))
    answers = [world.ask(BAD, slow) for _ in range(20)]
    world.until(*answers)
    assert [answer.status for answer in answers[:10]] == [200] * 10
    assert answers[-1].status == 503
    assert answers[-1].at < pool_module.QUEUE_SECONDS + 2
    world.pool.stop()


def test_a_running_record_does_not_wait_forever(world: World) -> None:
    """Without processor time for the engines, the record is refused before its request
    times out.
    """
    world = World(processes=1)
    world.until(world.ask(BAD))
    [engine] = world.engines.running
    answers = [world.ask(BAD, plan(takes(0.001))) for _ in range(3)]
    world.run(0.001)
    engine.is_stopped = engine.is_starved = True
    world.until(*answers)
    assert [answer.status for answer in answers] == [503] * 3
    assert world.clock.seconds() < pool_module.ANSWER_SECONDS + 2
    world.pool.stop()


def test_failed_starts_of_engines(world: World) -> None:
    """The start is retried with growing pauses, and records wait for it for a limited time."""
    world.engines.error = OSError("no memory")
    first = world.ask(BAD)
    world.run(pool_module.QUEUE_SECONDS + 1)
    assert first.status == 503
    second = world.ask(BAD)
    world.engines.error = None
    world.until(second)
    assert second.status == 200


def test_engines_that_end_before_they_are_ready(world: World) -> None:
    world.engines.is_slow = True
    answer = world.ask(BAD)
    world.run(0.01)
    world.engines.all[0].end(Cause.START)
    world.engines.is_slow = False
    world.until(answer)
    assert answer.status == 200


def test_an_idle_engine_is_ready(world: World) -> None:
    """One engine is started initially, and later there is one more than in use."""
    world.pool.warm()
    world.pool.warm()
    world.run(0.01)
    assert world.pool.processes == 1
    world.ask(BAD, plan(takes(0.5)))
    world.run(0.01)
    assert [len(engine.work) for engine in world.engines.running] == [1, 0]
    world.run(pool_module.TICK_SECONDS * (pool_module.IDLE_TICKS + 3) + 1)
    assert world.pool.processes == 1


def test_each_template_of_a_definition_is_checked(world: World) -> None:
    """The errors of each template are returned, even if parsing one never ends."""
    answers: list[list[str | None]] = []
    world.pool.check(BAD, ["1", "["]).addCallback(answers.append)
    world.pool.check(BAD, ["1", NEVER_ENDS, "2"]).addCallback(answers.append)
    world.run(2.0)
    assert answers == [
        [None, '1:2 expected "]" to close the "[" at 1:1'],
        [None, "parsing it takes longer than 1 s of CPU time", None],
    ]


def test_a_stop_answers_all_records(world: World) -> None:
    """Running, waiting and later records are all answered."""
    world.until(world.ask(BAD))
    answers = [world.ask(BAD, plan(takes(0.5))) for _ in range(5)]
    failures: list[object] = []
    world.run(0.1)
    checks: Deferred[list[str | None]] = world.pool.check(BAD, ["1"])
    checks.addErrback(failures.append)
    stopped = world.pool.stop()
    world.run(0.01)
    assert stopped.called
    assert [answer.status for answer in answers] == [503] * 5
    assert len(failures) == 1
    with pytest.raises(UserError, match="shutting down"):
        world.ask(BAD)


def test_invalid_results_are_refused(world: World) -> None:
    """A compromised engine can't produce a row with too few cells."""
    answer = world.ask(BAD, plan(takes(0.1), takes(0.1)))
    world.run(0.01)
    [engine] = [engine for engine in world.engines.running if engine.work]
    serial = engine.work[0].serial
    for index, result in ((0, Evaluated([b"1"])), (5, Evaluated([b"1", b"2"]))):
        world.pool.answered(engine, serial, index, result)
    assert answer.outcome is None
    world.until(answer)
    assert answer.status == 200


def test_results_of_a_batch(world: World) -> None:
    """All results are returned in order, or the first error."""
    results: list[list[Evaluated]] = []
    bodies = [b"x" * i for i in range(20)]
    asking = world.pool.evaluate(BAD, GOOD, [record(body) for body in bodies])
    asking.addCallback(results.append)
    world.run(0.1)
    assert [result.cells for result in results[0]] == [[b"%d" % (i + 1)] for i in range(20)]
    failures: list[object] = []
    too_many = world.pool.evaluate(BAD, GOOD, [record()] * 6000)
    too_many.addErrback(failures.append)
    world.run(1.0)
    assert len(failures) == 1
