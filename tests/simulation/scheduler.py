"""Virtual time: one queue of events for all processes, and their interface to it.

An event belongs to a process or to the world around it. Events of a killed process are dropped;
those of a paused one are delayed until it resumes. Faults can occur between any two events of a
process, so it can be killed at every await.
"""

from __future__ import annotations

import hashlib
import heapq
import os
import random
from collections.abc import Callable
from typing import Any

import greenlet
from twisted.internet.base import DelayedCall

__all__ = ["Process", "Scheduler"]

_DAY_SECONDS = 86_400.0


class Scheduler:
    """The queue of events.

    :ivar random: source of all decisions.
    :ivar now: seconds since the start.
    :ivar running: the process of the current event.
    :ivar steps: number of events so far.
    :ivar processes: all processes so far.
    :ivar over: whether all effects are disabled.
    :ivar main: the greenlet that runs the events; threads return to it.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.running: Process | None = None
        self.steps = 0
        self.over = False
        self.processes: list[Process] = []
        self.main = greenlet.getcurrent()
        self._queue: list[tuple[float, int, Process | None, Callable[[], None], str]] = []
        self._count = 0
        self._trace = hashlib.blake2b(digest_size=16)
        self._watcher: Callable[[str], None] | None = None

    def watch(self, watcher: Callable[[str], None]) -> None:
        """Report each event as text to *watcher*."""
        self._watcher = watcher

    def at(
        self, moment: float, event: Callable[[], None], label: str, owner: Process | None = None
    ) -> None:
        """Schedule *event* at *moment*. Events of the same moment keep the order of the calls."""
        self._count += 1
        heapq.heappush(self._queue, (max(moment, self.now), self._count, owner, event, label))

    def after(
        self, seconds: float, event: Callable[[], None], label: str, owner: Process | None = None
    ) -> None:
        self.at(self.now + seconds, event, label, owner)

    def note(self, text: str) -> None:
        """Add a text to the trace."""
        self._trace.update(f"{self.now:.6f} {text}\n".encode())
        self.tell(text)

    @property
    def is_watched(self) -> bool:
        """Whether events are reported."""
        return self._watcher is not None

    def tell(self, text: str) -> None:
        """Report a text that isn't part of the trace."""
        if self._watcher is not None:
            self._watcher(f"{self.now:10.6f} {text}")

    @property
    def trace(self) -> str:
        """A hash of all events in order."""
        return self._trace.hexdigest()

    def end(self) -> None:
        """Disable all effects, and end all threads."""
        self.over = True
        for process in self.processes:
            process.kill()
            for thread in process.threads:
                thread.throw()

    def run(self, until: float, done: Callable[[], bool] = lambda: False) -> None:
        """Run events until *done* or until the moment *until*."""
        self.main = greenlet.getcurrent()
        while self._queue and not done():
            moment, _, owner, event, label = self._queue[0]
            if moment > until:
                self.now = until
                return
            heapq.heappop(self._queue)
            self.now = moment
            if owner is not None and owner.is_dead:
                continue
            if owner is not None and owner.stopped_until > moment:
                owner.put_off(event, label)
                continue
            self.steps += 1
            self.note(f"{owner.name if owner else '-'} {label}")
            self._happen(owner, event)

    def _happen(self, owner: Process | None, event: Callable[[], None]) -> None:
        self.running = owner
        try:
            event()
        finally:
            self.running = None
        if owner is not None:
            owner.happened()


class Process:
    """One process, with the interface of a reactor.

    :ivar name: node and life, such as ``source-1/3``.
    :ivar host: the machine it runs on.
    :ivar stopped_until: it doesn't run before this time (SIGSTOP, or a busy machine).
    :ivar descriptors: open files; they are closed when it dies.
    :ivar threads: greenlets of its pools that haven't ended.
    :ivar on_death: called when it is killed.
    :ivar network: network of its listeners and connections.
    :ivar pool: the threads of its reactor.
    """

    def __init__(self, scheduler: Scheduler, name: str, host: str) -> None:
        self.scheduler = scheduler
        self.name = name
        self.host = host
        self.is_dead = False
        self.stopped_until = 0.0
        self.descriptors: set[int] = set()
        self.threads: set[Any] = set()
        self.on_death: list[Callable[[], None]] = []
        self._put_off: list[tuple[Callable[[], None], str]] = []
        self._fate: tuple[int, Callable[[], None]] | None = None
        scheduler.processes.append(self)
        self.network: Any = None
        self.pool: Any = None

    def meets(self, events: int, fate: Callable[[], None]) -> None:
        """Let *fate* occur after this number of further events of the process."""
        self._fate = (events, fate)

    def happened(self) -> None:
        """Record an event of the process."""
        if self._fate is None:
            return
        left, fate = self._fate
        self._fate = (left - 1, fate) if left > 1 else None
        if self._fate is None:
            fate()

    def put_off(self, event: Callable[[], None], label: str) -> None:
        """Postpone *event* until the process resumes, after earlier postponed ones."""
        if not self._put_off:
            self.scheduler.at(self.stopped_until, self._go_on, f"{self.name} goes on")
        self._put_off.append((event, label))

    def _go_on(self) -> None:
        if self.stopped_until > self.scheduler.now:
            self.scheduler.at(self.stopped_until, self._go_on, f"{self.name} goes on")
            return
        put_off, self._put_off = self._put_off, []
        for event, label in put_off:
            self.scheduler.after(0.0, event, label, self)

    def kill(self) -> None:
        """Kill the process; data that it has sent may still arrive."""
        if self.is_dead:
            return
        self.scheduler.note(f"{self.name} dies")
        self.is_dead = True
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors.clear()
        for told in self.on_death:
            told()

    # the interface for the service's code

    def seconds(self) -> float:
        return self.scheduler.now

    def callLater(
        self, delay: float, f: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> DelayedCall:
        call = DelayedCall(
            self.seconds() + delay,
            f,
            args,
            kwargs,
            lambda _: None,
            self._wait_for,
            self.seconds,
        )
        self._wait_for(call)
        return call

    def _wait_for(self, call: DelayedCall) -> None:
        moment = call.getTime()
        if moment > self.seconds() + _DAY_SECONDS:
            return

        def due() -> None:
            if call.cancelled or call.called or call.getTime() != moment:
                return
            call.called = 1
            call.func(*call.args, **call.kw)

        self.scheduler.at(moment, due, _name_of(call.func), self)

    def callFromThread(self, f: Callable[..., Any], *args: Any) -> None:
        self.scheduler.after(0.0, lambda: f(*args), "from a thread", self)

    def getThreadPool(self) -> Any:
        return self.pool

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Any:
        return self.network.listen(self, port, factory)

    def connectTCP(
        self, host: str, port: int, factory: Any, timeout: float = 30, bindAddress: Any = None
    ) -> Any:
        return self.network.connect(self, host, port, factory, timeout)


def _name_of(function: Callable[..., Any]) -> str:
    name: str = getattr(function, "__qualname__", type(function).__name__)
    return name.partition(" at 0x")[0]  # addresses differ between runs
