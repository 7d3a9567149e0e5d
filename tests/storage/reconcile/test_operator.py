"""The frame of background operators, on a clock."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs

from stream.etcd import Batch, Change, EtcdUnavailable
from stream.storage.reconcile.operator import SWEEP_SECONDS, Item, Operator, Requeue

PREFIX = "watched/"
INTERVAL = 10.0


class Acts:
    """What an operator does, under the test's control.

    :ivar running: acts that were started and not ended, by key.
    :ivar started: keys in the order of their acts.
    :ivar overlaps: acts that were started concurrently with one of the same key.
    :ivar due: whether an item needs action; if not, it is checked again after the interval.
    :ivar wait: how long it needs none, instead of `due`.
    """

    def __init__(self, concurrency: int = 2) -> None:
        self.clock = Clock()
        self.running: dict[str, Deferred[None]] = {}
        self.started: list[str] = []
        self.values: list[str] = []
        self.asked = 0
        self.overlaps = 0
        self.due: Callable[[Item[str]], bool] = lambda item: True
        self.wait: Callable[[Item[str]], float | None] | None = None
        self._revision = 0
        self.operator: Operator[str] = Operator(
            "test",
            prefix=PREFIX,
            wait=self._wait,
            reconcile=self._reconcile,
            interval=INTERVAL,
            concurrency=concurrency,
            reactor=self.clock,
        )

    def _wait(self, item: Item[str]) -> float | None:
        self.asked += 1
        if self.wait is not None:
            return self.wait(item)
        return 0 if self.due(item) else INTERVAL

    async def _reconcile(self, item: Item[str]) -> None:
        self.overlaps += item.key in self.running
        self.started.append(item.key)
        self.values.append(item.value)
        self.running[item.key] = Deferred()
        try:
            await self.running[item.key]
        finally:
            del self.running[item.key]

    def change(self, *changes: tuple[str, str | None], reset: bool = False) -> None:
        """A batch of the mirror."""
        self._revision += 1
        self.operator.changed(
            Batch(
                self._revision,
                reset,
                tuple(
                    Change(f"{PREFIX}{key}", value, None, self._revision) for key, value in changes
                ),
            )
        )

    def settle(self) -> None:
        """Let what is to happen at once happen."""
        self.clock.advance(0)
        self.clock.advance(0)

    def end(self, key: str) -> None:
        self.running[key].callback(None)
        self.settle()

    def fail(self, key: str, error: Exception) -> None:
        self.running[key].errback(error)
        self.settle()

    def tick(self) -> None:
        self.clock.advance(INTERVAL)
        self.settle()


@pytest.fixture
def acts() -> Acts:
    """A started operator without items."""
    acts = Acts()
    acts.operator.startService()
    return acts


def stopping(acts: Acts) -> list[object]:
    """Begin to stop; the list gets an element when the operator has stopped."""
    done: list[object] = []
    ensureDeferred(acts.operator.stopService()).addCallback(done.append)
    return done


def test_new_item(acts: Acts) -> None:
    """A new item is checked without waiting for a tick."""
    acts.change(("a", "1"))
    assert acts.started == []
    acts.settle()
    assert acts.started == ["a"]


def test_items_before_the_start() -> None:
    """Items known before the start are checked when it starts, not earlier."""
    acts = Acts()
    acts.change(("a", "1"))
    acts.settle()
    assert acts.asked == 0
    acts.operator.startService()
    assert acts.started == ["a"]


def test_not_due(acts: Acts) -> None:
    """An item that isn't due is checked at each tick, and reconciled once it is."""
    acts.due = lambda item: False
    acts.change(("a", "1"))
    acts.settle()
    acts.tick()
    acts.tick()
    assert (acts.asked, acts.started) == (3, [])
    acts.due = lambda item: True
    acts.tick()
    assert acts.started == ["a"]


def test_time_is_waited_for(acts: Acts) -> None:
    """An item is checked again after the time that it returned, and not before."""
    ready_at = 7.5
    acts.wait = lambda item: ready_at - acts.clock.seconds()
    acts.change(("a", "1"))
    acts.settle()
    acts.clock.advance(7.4)
    assert (acts.asked, acts.started) == (1, [])
    acts.clock.advance(0.1)
    assert (acts.asked, acts.started) == (2, ["a"])


def test_each_item_has_its_time(acts: Acts) -> None:
    """Times are independent, in any order; a new one replaces the old one."""
    times = {"a": 9.0, "b": 3.0, "c": 6.0}
    acts.wait = lambda item: times[item.key] - acts.clock.seconds()
    acts.change(*[(key, "1") for key in times])
    acts.settle()
    times["b"] = 8.0
    acts.operator.wake("b")
    acts.settle()
    acts.clock.pump([1.0] * 9)
    assert acts.started == ["c", "b"]  # and there is no third slot for "a"
    acts.end("c")
    assert acts.started == ["c", "b", "a"]


def test_idle_items_cost_nothing(acts: Acts) -> None:
    """An item that waits for a change is checked when it arrives, or after a long interval."""
    acts.wait = lambda item: None
    acts.change(*[(str(number), "1") for number in range(1000)])
    acts.settle()
    acts.clock.pump([1.0] * int(SWEEP_SECONDS - 1))
    assert acts.asked == 1000
    acts.clock.advance(1)
    assert acts.asked == 2000


def test_gone_items_leave_no_timer(acts: Acts) -> None:
    """Times of items that are deleted or act don't pile up."""
    acts.wait = lambda item: 5.0
    for number in range(1000):
        acts.change((str(number), "1"))
        acts.settle()
        acts.change((str(number), None))
    assert len(acts.operator._timers._heap) < 300
    acts.clock.advance(5)
    assert acts.asked == 1000


def test_single_flight(acts: Acts) -> None:
    """During an act on an item, ticks, wakes and changes don't start a second one."""
    acts.change(("a", "1"))
    acts.settle()
    acts.tick()
    acts.operator.wake("a")
    acts.settle()
    acts.change(("a", "2"))
    acts.settle()
    acts.tick()
    assert acts.started == ["a"]
    assert acts.overlaps == 0


def test_an_item_that_was_reconciled_rests_until_it_changes(acts: Acts) -> None:
    """After an act that succeeded the item rests until it changes."""
    acts.change(("a", "1"))
    acts.settle()
    acts.end("a")
    acts.tick()
    acts.operator.wake("a")
    acts.settle()
    assert acts.started == ["a"]
    acts.change(("a", "2"))
    acts.settle()
    assert acts.values == ["1", "2"]


def test_changed_during_the_act(acts: Acts) -> None:
    """A change that arrives during a reconciliation is processed right afterwards."""
    acts.change(("a", "1"))
    acts.settle()
    acts.change(("a", "2"))
    acts.change(("a", "3"))
    acts.settle()
    acts.end("a")
    assert acts.values == ["1", "3"]


def test_reset_during_the_act(acts: Acts) -> None:
    """A reload of everything doesn't start a second act of a busy item, and drops what is gone."""
    acts.change(("a", "1"), ("b", "1"))
    acts.settle()
    acts.change(("a", "1"), reset=True)
    acts.settle()
    acts.tick()
    assert acts.started == ["a", "b"]
    acts.end("b")
    acts.end("a")
    acts.tick()
    assert acts.started == ["a", "b", "a"]


def test_gone_and_back_during_the_act(acts: Acts) -> None:
    """An item that is deleted and returns isn't reconciled concurrently with itself."""
    acts.change(("a", "1"))
    acts.settle()
    acts.change(("a", None))
    acts.change(("a", "2"))
    acts.settle()
    assert acts.started == ["a"]
    acts.end("a")
    assert acts.values == ["1", "2"]
    assert acts.overlaps == 0


def test_a_deleted_item_is_not_looked_at(acts: Acts) -> None:
    """A deleted item isn't checked, even if it was woken just before."""
    acts.change(("a", "1"))
    acts.change(("a", None))
    acts.settle()
    acts.tick()
    assert acts.asked == 0


def test_an_item_that_failed_is_tried_again_at_the_next_tick(acts: Acts) -> None:
    """An act that failed is tried again at the next tick, not before."""
    acts.change(("a", "1"))
    acts.settle()
    acts.fail("a", ValueError("broken"))
    assert acts.started == ["a"]
    acts.tick()
    assert acts.started == ["a", "a"]
    acts.end("a")
    acts.tick()
    assert acts.started == ["a", "a"]


def test_not_yet(acts: Acts) -> None:
    """Too early is no end: the item is checked again at the next tick or wake."""
    acts.change(("a", "1"))
    acts.settle()
    acts.fail("a", Requeue("later"))
    acts.tick()
    acts.fail("a", Requeue("later"))
    acts.operator.wake("a")
    acts.settle()
    assert acts.started == ["a"] * 3


def test_a_delay_that_the_act_asks_for(acts: Acts) -> None:
    """It replaces the interval; a wake comes before."""
    acts.change(("a", "1"))
    acts.settle()
    acts.fail("a", Requeue("much later", seconds=5 * INTERVAL))
    for _ in range(4):
        acts.tick()
    assert acts.started == ["a"]
    acts.tick()
    assert acts.started == ["a", "a"]
    acts.fail("a", Requeue("much later", seconds=5 * INTERVAL))
    acts.operator.wake("a")
    acts.settle()
    assert acts.started == ["a"] * 3


def test_woken_during_the_act(acts: Acts) -> None:
    """A dependency may change while the reconciliation gives up; that isn't lost."""
    acts.change(("a", "1"))
    acts.settle()
    acts.operator.wake("a")
    acts.settle()
    acts.fail("a", Requeue("later"))
    assert acts.started == ["a", "a"]


def test_many_wakes_of_an_item_are_one_look(acts: Acts) -> None:
    """Many wakes of an item at once are one look; an unknown item is ignored."""
    acts.due = lambda item: False
    acts.change(("a", "1"), ("b", "1"))
    acts.settle()
    asked = acts.asked
    for _ in range(5):
        acts.operator.wake("a")
    acts.operator.wake("unknown")
    acts.settle()
    assert acts.asked == asked + 1
    acts.operator.wake_all()
    acts.settle()
    assert acts.asked == asked + 3


def test_broken_due(acts: Acts) -> None:
    """An item that can't be evaluated doesn't stop the others."""

    def due(item: Item[str]) -> bool:
        if item.key == "a":
            raise ValueError("broken")
        return True

    acts.due = due
    acts.change(("a", "1"), ("b", "1"))
    acts.settle()
    assert acts.started == ["b"]
    acts.tick()
    assert acts.operator.running


def test_no_more_items_are_reconciled_at_once_than_allowed(acts: Acts) -> None:
    """No more acts run at the same time than allowed; the rest follow in order."""
    acts.change(*[(key, "1") for key in "abcde"])
    acts.settle()
    assert len(acts.running) == 2
    acts.tick()
    seen = list(acts.started)
    while acts.running:
        acts.end(next(iter(acts.running)))
        assert len(acts.running) <= 2
        seen = acts.started
    assert sorted(seen) == list("abcde")


def test_stop_waits(acts: Acts) -> None:
    """Stopping waits for what runs, and starts nothing that is queued."""
    acts.change(*[(key, "1") for key in "abcd"])
    acts.settle()
    first, second = list(acts.running)
    done = stopping(acts)
    acts.end(first)
    assert done == []
    acts.end(second)
    assert done == [None]
    assert len(acts.started) == 2


def test_stop_with_a_limit(acts: Acts) -> None:
    """Reconciliations still running at the time limit are cancelled, and nothing remains."""
    acts.change(("a", "1"), ("b", "1"))
    acts.settle()
    done: list[object] = []
    ensureDeferred(acts.operator.stopService(5)).addCallback(done.append)
    acts.end("a")
    acts.clock.advance(4.9)
    assert done == [] and not acts.operator.was_cut_off
    acts.clock.advance(0.2)
    assert done == [None] and acts.operator.was_cut_off
    assert acts.running == {} and acts.clock.getDelayedCalls() == []


def test_stop_within_the_limit(acts: Acts) -> None:
    """Nothing is cancelled if all end in time."""
    acts.change(("a", "1"))
    acts.settle()
    done: list[object] = []
    ensureDeferred(acts.operator.stopService(5)).addCallback(done.append)
    acts.end("a")
    assert done == [None] and not acts.operator.was_cut_off
    assert acts.clock.getDelayedCalls() == []


def test_after_the_stop_nothing_is_looked_at(acts: Acts) -> None:
    """After the stop nothing is checked, and no delayed call remains."""
    acts.change(("a", "1"))
    assert stopping(acts) == [None]
    acts.change(("b", "1"))
    acts.operator.wake_all()
    acts.settle()
    acts.tick()
    assert acts.asked == 0
    assert acts.clock.getDelayedCalls() == []


def test_started_again(acts: Acts) -> None:
    """An operator that is started again reacts to wakes as before."""
    acts.change(("a", "1"))
    assert stopping(acts) == [None]
    acts.due = lambda item: False
    acts.operator.startService()
    asked = acts.asked
    acts.operator.wake("a")
    acts.settle()
    assert acts.asked == asked + 1


def test_unexpected_end(acts: Acts) -> None:
    """A reconciliation cancelled from outside counts as failed; the operator continues."""
    acts.change(("a", "1"))
    acts.settle()
    acts.running["a"].cancel()
    acts.settle()
    acts.tick()
    assert acts.started == ["a", "a"]


def test_an_outage_of_etcd_is_told_of_rarely() -> None:
    """Regardless of the number of waiting items, the log mentions it once in an interval."""
    acts = Acts(concurrency=50)
    acts.operator.startService()
    acts.change(*((str(number), "x") for number in range(20)))
    acts.settle()
    with capturedLogs() as events:
        for key in list(acts.running):
            acts.fail(key, EtcdUnavailable("away"))
        acts.clock.advance(INTERVAL)
        acts.settle()
        for key in list(acts.running):
            acts.fail(key, EtcdUnavailable("away"))
    assert len(acts.started) == 40
    told = [event["suppressed"] for event in events if event["log_level"] is LogLevel.warn]
    assert told == [0, 19]


def test_any_number_of_items_that_fail_at_once() -> None:
    """They wait in the queue, and fail without I/O: each is retried after the interval."""
    acts = Acts(concurrency=1)
    acts.operator.startService()
    number = 2 * sys.getrecursionlimit()
    acts.change(*((f"item-{each:05}", "v") for each in range(number)))
    acts.clock.advance(0)
    (first,) = acts.running.values()

    async def fail(item: Item[str]) -> None:
        acts.started.append(item.key)
        raise EtcdUnavailable("there is no valid lease")

    acts.operator._reconcile = fail
    first.callback(None)
    assert len(acts.started) == number and not acts.operator.running_reconciliations
    acts.clock.advance(INTERVAL)
    assert len(acts.started) == 2 * number - 1
