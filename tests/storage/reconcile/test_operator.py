"""Background operators with a virtual clock."""

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
    """The work of an operator, controlled by the test.

    :ivar running: unfinished work by key.
    :ivar started: keys in the order of their work.
    :ivar overlaps: work that was started concurrently with work on the same key.
    :ivar due: whether an item needs work; if not, it is checked again after the interval.
    :ivar wait: the time until it needs work, instead of `due`.
    """

    def __init__(self, concurrency: int = 2, *, keeps_room: bool = False) -> None:
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
            keeps_room=keeps_room,
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
        """Return a batch of the mirror."""
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
        """Run all calls that are due."""
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
    """Start to stop; the list gets an element when the operator has stopped."""
    done: list[object] = []
    ensureDeferred(acts.operator.stopService()).addCallback(done.append)
    return done


def test_a_new_item(acts: Acts) -> None:
    """A new item is checked without waiting for a tick."""
    acts.change(("a", "1"))
    assert acts.started == []
    acts.settle()
    assert acts.started == ["a"]


def test_items_before_the_start() -> None:
    """Items known before the start are checked when the operator starts, not earlier."""
    acts = Acts()
    acts.change(("a", "1"))
    acts.settle()
    assert acts.asked == 0
    acts.operator.startService()
    assert acts.started == ["a"]


def test_an_item_that_is_not_due(acts: Acts) -> None:
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


def test_the_time_of_the_next_check(acts: Acts) -> None:
    """An item is checked after the time that it returned, and not before."""
    ready_at = 7.5
    acts.wait = lambda item: ready_at - acts.clock.seconds()
    acts.change(("a", "1"))
    acts.settle()
    acts.clock.advance(7.4)
    assert (acts.asked, acts.started) == (1, [])
    acts.clock.advance(0.1)
    assert (acts.asked, acts.started) == (2, ["a"])


def test_times_are_independent(acts: Acts) -> None:
    """Each item has its own time, and a new one replaces the old one."""
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


def test_idle_items_are_checked_rarely(acts: Acts) -> None:
    """An item that waits for a change is checked with the change, or after a long interval."""
    acts.wait = lambda item: None
    acts.change(*[(str(number), "1") for number in range(1000)])
    acts.settle()
    acts.clock.pump([1.0] * int(SWEEP_SECONDS - 1))
    assert acts.asked == 1000
    acts.clock.advance(1)
    assert acts.asked == 2000


def test_deleted_items_have_no_timer(acts: Acts) -> None:
    """Times of deleted and running items don't accumulate."""
    acts.wait = lambda item: 5.0
    for number in range(1000):
        acts.change((str(number), "1"))
        acts.settle()
        acts.change((str(number), None))
    assert len(acts.operator._timers._heap) < 300
    acts.clock.advance(5)
    assert acts.asked == 1000


def test_an_item_is_reconciled_once_at_a_time(acts: Acts) -> None:
    """During the work on an item, ticks, wakes and changes don't start a second one."""
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


def test_a_reconciled_item_waits_for_a_change(acts: Acts) -> None:
    """After a success the item isn't reconciled until it changes."""
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


def test_a_change_during_the_work(acts: Acts) -> None:
    """The change is processed right after the reconciliation."""
    acts.change(("a", "1"))
    acts.settle()
    acts.change(("a", "2"))
    acts.change(("a", "3"))
    acts.settle()
    acts.end("a")
    assert acts.values == ["1", "3"]


def test_a_reset_during_the_work(acts: Acts) -> None:
    """A reload of all items starts no second reconciliation of a busy item, and drops deleted
    items.
    """
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


def test_deleted_and_recreated_during_the_work(acts: Acts) -> None:
    """The item isn't reconciled concurrently with itself."""
    acts.change(("a", "1"))
    acts.settle()
    acts.change(("a", None))
    acts.change(("a", "2"))
    acts.settle()
    assert acts.started == ["a"]
    acts.end("a")
    assert acts.values == ["1", "2"]
    assert acts.overlaps == 0


def test_a_deleted_item_is_not_checked(acts: Acts) -> None:
    """A deleted item isn't checked, even if it was woken just before."""
    acts.change(("a", "1"))
    acts.change(("a", None))
    acts.settle()
    acts.tick()
    assert acts.asked == 0


def test_a_failed_item_is_retried_at_the_next_tick(acts: Acts) -> None:
    """A failed item is retried at the next tick, not earlier."""
    acts.change(("a", "1"))
    acts.settle()
    acts.fail("a", ValueError("broken"))
    assert acts.started == ["a"]
    acts.tick()
    assert acts.started == ["a", "a"]
    acts.end("a")
    acts.tick()
    assert acts.started == ["a", "a"]


def test_a_premature_reconciliation(acts: Acts) -> None:
    """The item is checked again at the next tick or wake."""
    acts.change(("a", "1"))
    acts.settle()
    acts.fail("a", Requeue("later"))
    acts.tick()
    acts.fail("a", Requeue("later"))
    acts.operator.wake("a")
    acts.settle()
    assert acts.started == ["a"] * 3


def test_a_requested_delay(acts: Acts) -> None:
    """The delay replaces the interval, and a wake ends it."""
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


def test_a_wake_during_the_work(acts: Acts) -> None:
    """The wake isn't lost if the reconciliation ends without success."""
    acts.change(("a", "1"))
    acts.settle()
    acts.operator.wake("a")
    acts.settle()
    acts.fail("a", Requeue("later"))
    assert acts.started == ["a", "a"]


def test_many_wakes_are_one_check(acts: Acts) -> None:
    """Several wakes of an item result in one check; an unknown item is ignored."""
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


def test_an_item_whose_check_fails(acts: Acts) -> None:
    """The other items are still checked."""

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


def test_the_limit_of_concurrent_work(acts: Acts) -> None:
    """Work above the limit follows in order."""
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


@pytest.mark.parametrize("keeps_room", [False, True])
def test_the_items_of_one_project_do_not_delay_others(keeps_room: bool) -> None:
    """The item of another project is next, or starts at once if room is kept for it."""
    acts = Acts(concurrency=4, keeps_room=keeps_room)
    acts.operator.startService()
    acts.change(*[(f"1/{number}", "1") for number in range(10)])
    acts.settle()
    assert len(acts.running) == (2 if keeps_room else 4)
    acts.change(("2/1", "1"))
    acts.settle()
    if not keeps_room:
        assert "2/1" not in acts.running
        acts.end("1/0")
    assert "2/1" in acts.running


def test_stop_waits_for_running_work(acts: Acts) -> None:
    """Stopping waits for running work, and starts no queued work."""
    acts.change(*[(key, "1") for key in "abcd"])
    acts.settle()
    first, second = list(acts.running)
    done = stopping(acts)
    acts.end(first)
    assert done == []
    acts.end(second)
    assert done == [None]
    assert len(acts.started) == 2


def test_stop_with_a_deadline(acts: Acts) -> None:
    """Reconciliations that run at the deadline are cancelled, and no state remains."""
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


def test_stop_before_the_deadline(acts: Acts) -> None:
    """Nothing is cancelled if all work ends in time."""
    acts.change(("a", "1"))
    acts.settle()
    done: list[object] = []
    ensureDeferred(acts.operator.stopService(5)).addCallback(done.append)
    acts.end("a")
    assert done == [None] and not acts.operator.was_cut_off
    assert acts.clock.getDelayedCalls() == []


def test_nothing_is_checked_after_the_stop(acts: Acts) -> None:
    """After the stop no item is checked, and no delayed call remains."""
    acts.change(("a", "1"))
    assert stopping(acts) == [None]
    acts.change(("b", "1"))
    acts.operator.wake_all()
    acts.settle()
    acts.tick()
    assert acts.asked == 0
    assert acts.clock.getDelayedCalls() == []


def test_restart(acts: Acts) -> None:
    """A restarted operator reacts to wakes as before."""
    acts.change(("a", "1"))
    assert stopping(acts) == [None]
    acts.due = lambda item: False
    acts.operator.startService()
    asked = acts.asked
    acts.operator.wake("a")
    acts.settle()
    assert acts.asked == asked + 1


def test_an_external_cancellation(acts: Acts) -> None:
    """The reconciliation counts as failed, and the operator continues."""
    acts.change(("a", "1"))
    acts.settle()
    acts.running["a"].cancel()
    acts.settle()
    acts.tick()
    assert acts.started == ["a", "a"]


def test_an_outage_of_etcd_is_logged_rarely() -> None:
    """The outage is logged once in an interval, whatever the number of waiting items."""
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


def test_many_items_that_fail_at_once() -> None:
    """The items wait in the queue, and fail without I/O: each is retried after the interval."""
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
