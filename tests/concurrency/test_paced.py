"""Work of which only a part is done in a turn of the reactor."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred, ensureDeferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.python.failure import Failure

from stream.concurrency.paced import SLICE_SECONDS, Paced, begin_in_turns, in_turns

STEP_SECONDS = SLICE_SECONDS / 4


class _Work:
    """Work that takes time; its Deferreds fire when the test says so.

    :ivar started: the numbers of the works that have started.
    """

    def __init__(self, clock: Clock) -> None:
        self.started: list[int] = []
        self.running: dict[int, Deferred[int]] = {}
        self._clock = clock

    def start(self, number: int) -> Deferred[int]:
        self._clock.rightNow += STEP_SECONDS
        self.started.append(number)
        working: Deferred[int] = Deferred()
        self.running[number] = working
        return working


def _turn(clock: Clock) -> None:
    """Make the calls that were due at the beginning of the turn, as a reactor does."""
    calls, clock.calls = clock.calls, []
    for call in calls:
        call.func(*call.args, **call.kw)


def test_items_of_several_turns() -> None:
    """Each turn handles as many as its time permits, in order."""
    clock = Clock()
    work = _Work(clock)
    done = ensureDeferred(in_turns(range(10), work.start, clock))
    counts = [len(work.started)]
    while not done.called:
        _turn(clock)
        counts.append(len(work.started))
    assert counts == [4, 8, 10]
    assert work.started == list(range(10))


def test_a_failed_item_does_not_affect_the_others() -> None:
    """The failure is logged, and later turns handle the rest."""
    clock = Clock()
    work = _Work(clock)

    def step(number: int) -> None:
        work.start(number)
        if number == 1:
            raise ValueError("no")

    with capturedLogs() as events:
        begin_in_turns(range(6), step, clock, "cannot do this")
        assert work.started == [0, 1, 2, 3]
        _turn(clock)
    assert work.started == list(range(6))
    assert [formatEvent(event) for event in events] == ["cannot do this"]


def test_few_works_start_in_a_turn() -> None:
    """The others start in later turns, even if nothing ends."""
    clock = Clock()
    work = _Work(clock)
    paced = Paced(clock, 100)
    for number in range(10):
        paced.run(lambda number=number: work.start(number))  # type: ignore[misc]
    counts = [len(work.started)]
    for _ in range(3):
        _turn(clock)
        counts.append(len(work.started))
    assert counts == [4, 8, 10, 10]
    assert not clock.getDelayedCalls()


def test_few_works_run_concurrently() -> None:
    """A work starts when an earlier one has ended or failed."""
    clock = Clock()
    work = _Work(clock)
    paced = Paced(clock, 2)
    outcomes = [paced.run(lambda n=n: work.start(n)) for n in range(4)]  # type: ignore[misc]
    failures: list[Failure] = []
    outcomes[1].addErrback(failures.append)
    assert work.started == [0, 1]
    work.running[0].callback(7)
    assert work.started == [0, 1, 2]
    work.running[1].errback(ValueError("no"))
    assert [failure.getErrorMessage() for failure in failures] == ["no"]
    _turn(clock)
    assert work.started == [0, 1, 2, 3]
    results: list[int] = []
    outcomes[0].addCallback(results.append)
    assert results == [7]


def test_thousands_of_works_that_end_immediately() -> None:
    """They aren't nested, and each has its own outcome."""
    paced = Paced(Clock(), 2)
    blocking: list[Deferred[None]] = [Deferred(), Deferred()]
    for each in blocking:
        paced.run(lambda each=each: each)  # type: ignore[misc]
    errors: list[Failure] = []
    results: list[int] = []
    for number in range(5000):
        paced.run(lambda: fail(ValueError("no"))).addErrback(errors.append)
        paced.run(lambda number=number: succeed(number)).addCallback(  # type: ignore[misc]
            results.append
        )
    blocking[0].callback(None)
    assert len(errors) == 5000
    assert results == list(range(5000))


def test_cancelled_work() -> None:
    """Work that waits doesn't start; work that runs is cancelled and frees its place."""
    clock = Clock()
    work = _Work(clock)
    paced = Paced(clock, 1)
    outcomes = [paced.run(lambda n=n: work.start(n)) for n in range(3)]  # type: ignore[misc]
    for outcome in outcomes[:2]:
        outcome.addErrback(lambda failure: failure.trap(CancelledError))
    outcomes[1].cancel()
    outcomes[0].cancel()
    assert work.started == [0, 2]
