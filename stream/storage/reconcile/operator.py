"""The framework of background operators, shared by the coordinator and the reader.

An operator holds the watched records as *items*. The synchronous function `wait`, which is cheap,
returns how long the operator may leave an item alone. After this time the operator reconciles the
item: it moves the stored state closer to the desired one. `wait` is called again whenever something
changes that the item depends on. So an idle operator costs nothing, however many items it has. An
item is never reconciled by two calls at once, and the number of concurrent calls is limited; each
project has a share of them.

Note [Sweep]: an item that waits only for a change is still checked from time to time, so that an
unforeseen dependency delays the item but doesn't block it.

Note [Failures]: a failed attempt is recorded with the item, which then waits for minutes, since the
cause is most likely in the item or its target. An unavailable etcd or a lost lease isn't caused by
the item, and affects all items at once. So it isn't recorded, and all items are retried after the
interval.

Neither a stale item nor a second operator on another node can do harm, because the transaction at
the end of each reconciliation checks the state again.
"""

from __future__ import annotations

import heapq
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Generic, TypeVar

import attrs
from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, ensureDeferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from stream.concurrency.slots import Slots
from stream.etcd import Batch, EtcdUnavailable, LeaseNotFound, LockLost
from stream.ops.logging.throttle import LogThrottle

__all__ = ["TRANSIENT_ERRORS", "Item", "Operator", "Requeue"]

T = TypeVar("T")

SWEEP_SECONDS = 30.0
TELL_SECONDS = 10.0
"""Minimum interval between log messages that etcd is unavailable, however many items wait for it.
"""
_SPARE_MOMENTS = 100


class Requeue(Exception):
    """Raised by `reconcile` if it is too early to reconcile the item, which is then retried later.

    :param seconds: the delay; ``None`` for the interval of the operator. A change of the item or a
        call of `wake` ends the delay early.
    """

    def __init__(self, reason: str = "", *, seconds: float | None = None) -> None:
        super().__init__(reason)
        self.seconds = seconds


TRANSIENT_ERRORS = (Requeue, EtcdUnavailable, LeaseNotFound, LockLost)
"""Errors that `reconcile` passes on to the operator; see Note [Failures]."""


@attrs.define(eq=False)
class Item(Generic[T]):
    """One watched record.

    :ivar mod_revision: etcd revision of the value.
    :ivar processed: whether this revision was reconciled. The result arrives as a new revision.
    """

    key: str
    value: T
    mod_revision: int
    processed: bool = False


class Operator(Service, Generic[T]):
    """A loop that moves the items of a watched prefix to their next states.

    :param name: name of the operator in the log and the metrics.
    :param prefix: the watched prefix; item keys don't include it, and begin with a project's ID.
    :param wait: returns the seconds until the item needs action, as far as is known: 0 or less if
        it needs action now, ``None`` if it needs none until something changes. Cheap, without I/O.
    :param reconcile: performs the action. If it returns, the item isn't reconciled again until it
        changes; if it raises an exception, the item is retried after the interval.
    :param interval: seconds before an item is retried.
    :param concurrency: maximum number of concurrent reconciliations.
    :param keeps_room: whether one project may have only a part of them, because they may take long.

    :ivar was_cut_off: whether reconciliations were cancelled when the operator stopped; their
        threads may still run.
    """

    def __init__(
        self,
        name: str,
        *,
        prefix: str,
        wait: Callable[[Item[T]], float | None],
        reconcile: Callable[[Item[T]], Awaitable[None]],
        interval: float,
        concurrency: int,
        keeps_room: bool = False,
        reactor: Any,
    ) -> None:
        self.title = name
        self.was_cut_off = False
        self.items: dict[str, Item[T]] = {}
        self._log = Logger(namespace=name)
        self._unavailable = LogThrottle(TELL_SECONDS, reactor.seconds)
        self._prefix = prefix
        self._wait = wait
        self._reconcile = reconcile
        self._interval = interval
        self._reactor = reactor
        self._slots = Slots(concurrency, keeps_room=keeps_room)
        self._running: set[Deferred[None]] = set()
        self._reconciling: set[Deferred[None]] = set()
        self._timers = _Timers(reactor, self._look_at_key)
        # Keys, not items: while an item is being reconciled, it may be deleted and created again.
        self._busy: set[str] = set()
        self._woken_while_busy: set[str] = set()
        self._woken: dict[str, None] = {}
        self._wake_call: Any = None

    @property
    def running_reconciliations(self) -> int:
        """The number of items that are being reconciled or are queued."""
        return len(self._running)

    def startService(self) -> None:
        super().startService()
        for item in list(self.items.values()):
            self._look_at(item)

    async def stopService(self, grace: float | None = None) -> None:
        """Start no more reconciliations. The Deferred fires when the running ones have ended.

        :param grace: seconds after which running ones are cancelled; ``None`` to wait for them.
        """
        super().stopService()
        self._timers.stop()
        if self._wake_call is not None and self._wake_call.active():
            self._wake_call.cancel()
        self._wake_call = None
        self._woken.clear()
        ended = DeferredList(list(self._running))
        if grace is None or not self._running:
            await ended
            return
        cutting = self._reactor.callLater(grace, self._cut_off)
        await ended
        if cutting.active():
            cutting.cancel()

    def _cut_off(self) -> None:
        self.was_cut_off = True
        self._log.warn(
            "cancelled {count} operations because of the shutdown", count=len(self._reconciling)
        )
        for acting in list(self._reconciling):
            acting.cancel()

    def changed(self, batch: Batch[T]) -> None:
        """Apply a batch of the mirror of the watched prefix."""
        if batch.reset:
            self.items.clear()
        for change in batch.changes:
            key = change.key.removeprefix(self._prefix)
            if change.value is None:
                self.items.pop(key, None)
                self._timers.forget(key)
                continue
            self.items[key] = Item(key, change.value, change.mod_revision)
            self.wake(key)

    def wake(self, key: str) -> None:
        """Check an item soon, because something it depends on has changed.

        An item that is being reconciled is checked again afterwards, because the reconciliation may
        not have seen the change.
        """
        self._woken[key] = None
        if self.running and self._wake_call is None:
            self._wake_call = self._reactor.callLater(0, self._look_at_woken)

    def wake_all(self) -> None:
        """Check all items now."""
        for key in self.items:
            self.wake(key)

    def _look_at_woken(self) -> None:
        self._wake_call = None
        woken, self._woken = self._woken, {}
        for key in woken:
            if key in self._busy:
                self._woken_while_busy.add(key)
            else:
                self._look_at_key(key)

    def _look_at_key(self, key: str) -> None:
        item = self.items.get(key)
        if item is not None:
            self._look_at(item)

    def _look_at(self, item: Item[T]) -> None:
        if item.key in self._busy or item.processed or not self.running:
            return
        wait = self._wait_of(item)
        if wait > 0:
            self._timers.set(item.key, wait)
            return
        self._timers.forget(item.key)
        self._busy.add(item.key)
        project, _, _ = item.key.partition("/")
        done = self._slots.run(partial(self._run, item), project)
        self._running.add(done)
        done.addErrback(lambda failure: self._log.failure("operator failed", failure))
        done.addBoth(lambda _: self._finished(item, done))

    def _wait_of(self, item: Item[T]) -> float:
        """Return the time to wait for an item, limited as described in Note [Sweep]."""
        try:
            wait = self._wait(item)
        except Exception:
            self._log.failure("cannot evaluate {key}", key=item.key)
            wait = None
        return SWEEP_SECONDS if wait is None else min(wait, SWEEP_SECONDS)

    async def _run(self, item: Item[T]) -> None:
        if not self.running:
            return
        acting: Deferred[None] = ensureDeferred(self._acted(item))
        self._reconciling.add(acting)
        rest = self._interval
        try:
            await acting
        except Requeue as reason:
            self._log.debug("{key}: {reason}", key=item.key, reason=reason)
            rest = self._interval if reason.seconds is None else reason.seconds
        except TRANSIENT_ERRORS as reason:
            suppressed = self._unavailable.due("")
            if suppressed is not None:
                self._log.warn(
                    "{key} waits for etcd: {reason}",
                    key=item.key,
                    reason=str(reason),
                    suppressed=suppressed,
                )
        except Exception:
            failure = Failure()
            self._log.failure("{key} failed, retrying", failure, key=item.key)
        else:
            item.processed = True
            return
        finally:
            self._reconciling.discard(acting)
        if self.running:
            self._timers.set(item.key, rest)

    async def _acted(self, item: Item[T]) -> None:
        await self._reconcile(item)

    def _finished(self, item: Item[T], done: Deferred[None]) -> None:
        self._running.discard(done)
        self._busy.discard(item.key)
        if item.key in self._woken_while_busy:
            self._woken_while_busy.discard(item.key)
            self.wake(item.key)


class _Timers:
    """A timer for each key, based on a single reactor timer.

    :param ring: called with each key whose timer has expired; the key then has no timer.
    """

    def __init__(self, reactor: Any, ring: Callable[[str], None]) -> None:
        self._reactor = reactor
        self._ring = ring
        self._moments: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []  # also contains outdated times
        self._call: IDelayedCall | None = None
        self._called_for = 0.0

    def set(self, key: str, seconds: float) -> None:
        """Set or replace the timer of a key, in *seconds*."""
        moment = self._reactor.seconds() + seconds
        self._moments[key] = moment
        heapq.heappush(self._heap, (moment, key))
        if len(self._heap) > 2 * len(self._moments) + _SPARE_MOMENTS:
            self._heap = [(moment, key) for key, moment in self._moments.items()]
            heapq.heapify(self._heap)
        self._call_at(self._heap[0][0])

    def forget(self, key: str) -> None:
        """Remove the timer of a key."""
        self._moments.pop(key, None)

    def stop(self) -> None:
        """Remove all timers."""
        self._moments.clear()
        self._heap.clear()
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _call_at(self, moment: float) -> None:
        if self._call is not None:
            if self._called_for <= moment:
                return
            self._call.cancel()
        self._called_for = moment
        delay = max(0.0, moment - self._reactor.seconds())
        self._call = self._reactor.callLater(delay, self._called)

    def _called(self) -> None:
        self._call = None
        now = self._reactor.seconds()
        due = []
        while self._heap and self._heap[0][0] <= now:
            moment, key = heapq.heappop(self._heap)
            if self._moments.get(key) == moment:
                del self._moments[key]
                due.append(key)
        for key in due:
            self._ring(key)
        if self._heap:
            self._call_at(self._heap[0][0])
