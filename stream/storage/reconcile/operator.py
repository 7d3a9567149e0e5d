"""The frame of background operators, shared by the coordinator and the reader.

An operator holds the records that it watches as *items*. The cheap synchronous `wait` says how
long an item can be left alone as far as is known. When that time is over, the operator reconciles
the item: it brings the state that is stored closer to the one that is wanted. It asks again
whenever something changes that the item waits for. So an idle operator costs nothing, however many
items it has. One item is reconciled once at a time, and the number of reconciliations running is
bounded.

Note [Sweep]: an item that waits for a change only is asked again now and then all the same, so that
a change that nobody thought of delays it, and doesn't block it.

Note [Blame]: a failed attempt is recorded with the item, which then rests for minutes, since the
cause is most likely in the item or behind it. That etcd was unavailable, or has ended our lease,
says nothing about the item and ends for all items at once; so it is not recorded, and all of them
are tried again after the interval.

Neither a stale item nor a second operator at work on another node does harm: the transaction at the
end of each reconciliation checks the state again.
"""

from __future__ import annotations

import heapq
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

import attrs
from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, DeferredSemaphore, ensureDeferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from stream.etcd import Batch, EtcdUnavailable, LeaseNotFound, LockLost
from stream.ops.logging.throttle import LogThrottle

__all__ = ["TRANSIENT_ERRORS", "Item", "Operator", "Requeue"]

T = TypeVar("T")

SWEEP_SECONDS = 30.0
TELL_SECONDS = 10.0
"""How often the log says that etcd is unavailable, however many items wait for it."""
_SPARE_MOMENTS = 100


class Requeue(Exception):
    """Raised by `reconcile`: nothing failed, but it is too early; look again later.

    :param seconds: until then; ``None`` for the interval of the operator. A change of the item, or
        whoever wakes it, comes before.
    """

    def __init__(self, reason: str = "", *, seconds: float | None = None) -> None:
        super().__init__(reason)
        self.seconds = seconds


TRANSIENT_ERRORS = (Requeue, EtcdUnavailable, LeaseNotFound, LockLost)
"""What `reconcile` lets through to the operator; see Note [Blame]."""


@attrs.define(eq=False)
class Item(Generic[T]):
    """One watched record.

    :ivar mod_revision: of the value, in etcd.
    :ivar processed: reconciled in this very form; the change which that caused brings a new form.
    """

    key: str
    value: T
    mod_revision: int
    processed: bool = False


class Operator(Service, Generic[T]):
    """A loop that brings the items of a watched prefix to their next states.

    :param name: for the log and the metrics.
    :param prefix: of the watched keys; item keys are without it.
    :param wait: seconds until the item needs something, as far as is known; at most 0 if it does
        now, ``None`` if only a change can make it. Cheap, without I/O.
    :param reconcile: does it. If it returns, the item rests until it changes; if it raises, it is
        tried again after the interval.
    :param interval: seconds.
    :param concurrency: reconciliations running at the same time.

    :ivar was_cut_off: whether a stop has cancelled reconciliations, whose threads may run on.
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
        self._slots = DeferredSemaphore(concurrency)
        self._running: set[Deferred[None]] = set()
        self._reconciling: set[Deferred[None]] = set()
        self._timers = _Timers(reactor, self._look_at_key)
        # Keys, not items: what is acted on may be deleted and come back meanwhile.
        self._busy: set[str] = set()
        self._woken_while_busy: set[str] = set()
        self._woken: dict[str, None] = {}
        self._wake_call: Any = None

    @property
    def running_reconciliations(self) -> int:
        """Items that are acted on, or wait for their turn."""
        return len(self._running)

    def startService(self) -> None:
        super().startService()
        for item in list(self.items.values()):
            self._look_at(item)

    async def stopService(self, grace: float | None = None) -> None:
        """Start nothing more; fires when what is running has ended.

        :param grace: seconds after which what still runs is cancelled; ``None`` to wait for it.
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
        """Take over a batch of the mirror of the watched prefix."""
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
        """Look at an item soon: something that it waits for has changed.

        If it is acted on at the moment, look again when that ends: it may have come too late.
        """
        self._woken[key] = None
        if self.running and self._wake_call is None:
            self._wake_call = self._reactor.callLater(0, self._look_at_woken)

    def wake_all(self) -> None:
        """Look at all items now."""
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
        done = self._slots.run(lambda: ensureDeferred(self._run(item)))
        self._running.add(done)
        done.addErrback(lambda failure: self._log.failure("operator failed", failure))
        done.addBoth(lambda _: self._finished(item, done))

    def _wait_of(self, item: Item[T]) -> float:
        """See Note [Sweep]."""
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
    """One moment for each key, behind a single timer of the reactor.

    :param ring: called with each key whose moment has come; it has none any more.
    """

    def __init__(self, reactor: Any, ring: Callable[[str], None]) -> None:
        self._reactor = reactor
        self._ring = ring
        self._moments: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []  # also has moments that don't count any more
        self._call: IDelayedCall | None = None
        self._called_for = 0.0

    def set(self, key: str, seconds: float) -> None:
        """The key rings after *seconds*, and not when it was to ring before."""
        moment = self._reactor.seconds() + seconds
        self._moments[key] = moment
        heapq.heappush(self._heap, (moment, key))
        if len(self._heap) > 2 * len(self._moments) + _SPARE_MOMENTS:
            self._heap = [(moment, key) for key, moment in self._moments.items()]
            heapq.heapify(self._heap)
        self._call_at(self._heap[0][0])

    def forget(self, key: str) -> None:
        """The key doesn't ring."""
        self._moments.pop(key, None)

    def stop(self) -> None:
        """No key rings."""
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
