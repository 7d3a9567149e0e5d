"""The frame of background operators, shared by the coordinator and the reader.

An operator holds the records that it watches as *items*. At an interval, and whenever something
that it waits for changes, it asks the cheap synchronous `due` of each item and starts `act` on
those that are. One item is acted on once at a time, the number of acts running is bounded, and a
tick never queues an item twice.

Neither a stale item nor a second operator at work on another node does harm: the transaction at the
end of each act checks the state again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

import attrs
from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, DeferredSemaphore, ensureDeferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from stream.etcd import Batch

__all__ = ["Item", "NotYet", "Operator"]

T = TypeVar("T")


class NotYet(Exception):
    """Raised by an act: nothing failed, but it is too early; look again at the next tick."""


@attrs.define(eq=False)
class Item(Generic[T]):
    """One watched record.

    :ivar mod_revision: of the value, in etcd.
    :ivar processed: acted on in this very form; the change which that caused brings a new form.
    """

    key: str
    value: T
    mod_revision: int
    processed: bool = False


class Operator(Service, Generic[T]):
    """:param name: for the log.
    :param prefix: of the watched keys; item keys are without it.
    :param due: whether the item needs something now; cheap, without I/O.
    :param act: does it. If it returns, the item rests until it changes; if it raises, it is tried
        again at the next tick.
    :param interval: seconds between two ticks.
    :param concurrency: acts running at the same time.
    """

    def __init__(
        self,
        name: str,
        *,
        prefix: str,
        due: Callable[[Item[T]], bool],
        act: Callable[[Item[T]], Awaitable[None]],
        interval: float,
        concurrency: int,
        reactor: Any,
    ) -> None:
        self.items: dict[str, Item[T]] = {}
        self._log = Logger(namespace=name)
        self._prefix = prefix
        self._due = due
        self._act = act
        self._interval = interval
        self._reactor = reactor
        self._slots = DeferredSemaphore(concurrency)
        self._running: set[Deferred[None]] = set()
        self._tick_call: LoopingCall | None = None
        # Keys, not items: what is acted on may be deleted and come back meanwhile.
        self._busy: set[str] = set()
        self._woken_while_busy: set[str] = set()
        self._woken: dict[str, None] = {}
        self._wake_call: Any = None

    def startService(self) -> None:
        super().startService()
        self._tick_call = LoopingCall(self._tick)
        self._tick_call.clock = self._reactor
        self._tick_call.start(self._interval, now=True).addErrback(
            lambda failure: self._log.failure("operator stopped", failure)
        )

    async def stopService(self) -> None:
        """Start nothing more; fires when what is running has ended."""
        super().stopService()
        if self._tick_call is not None and self._tick_call.running:
            self._tick_call.stop()
        if self._wake_call is not None and self._wake_call.active():
            self._wake_call.cancel()
        self._wake_call = None
        self._woken.clear()
        await DeferredList(list(self._running))

    def changed(self, batch: Batch[T]) -> None:
        """Take over a batch of the mirror of the watched prefix."""
        if batch.reset:
            self.items.clear()
        for change in batch.changes:
            key = change.key.removeprefix(self._prefix)
            if change.value is None:
                self.items.pop(key, None)
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
        for key in self.items:
            self.wake(key)

    def _look_at_woken(self) -> None:
        self._wake_call = None
        woken, self._woken = self._woken, {}
        for key in woken:
            item = self.items.get(key)
            if key in self._busy:
                self._woken_while_busy.add(key)
            elif item is not None:
                self._look_at(item)

    def _tick(self) -> None:
        for item in list(self.items.values()):
            self._look_at(item)

    def _look_at(self, item: Item[T]) -> None:
        if item.key in self._busy or item.processed or not self.running:
            return
        if not self._is_due(item):
            return
        self._busy.add(item.key)
        done = self._slots.run(lambda: ensureDeferred(self._run(item)))
        self._running.add(done)
        done.addErrback(lambda failure: self._log.failure("operator failed", failure))
        done.addBoth(lambda _: self._finished(item, done))

    def _is_due(self, item: Item[T]) -> bool:
        try:
            return self._due(item)
        except Exception:
            self._log.failure("cannot evaluate {key}", key=item.key)
            return False

    async def _run(self, item: Item[T]) -> None:
        if not self.running:
            return
        try:
            await self._act(item)
        except NotYet as reason:
            self._log.debug("{key}: {reason}", key=item.key, reason=reason)
        except Exception:
            failure = Failure()
            self._log.failure("{key} failed, it is tried again", failure, key=item.key)
        else:
            item.processed = True

    def _finished(self, item: Item[T], done: Deferred[None]) -> None:
        self._running.discard(done)
        self._busy.discard(item.key)
        if item.key in self._woken_while_busy:
            self._woken_while_busy.discard(item.key)
            self.wake(item.key)
