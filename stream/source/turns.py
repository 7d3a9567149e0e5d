"""Work that takes longer than others can wait, done some milliseconds at a time.

A batch, an export or a large record takes up to seconds of a processor. All such work of a node
shares one slice of each turn of the reactor, so that whoever sends a single small record waits for
no more than that, however many others send large ones. Sources take turns within it: one that
sends much waits for itself.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import attrs
from twisted.internet.defer import Deferred, TimeoutError
from twisted.logger import Logger
from twisted.python.failure import Failure

from stream.errors import UserError
from stream.source.http.completions import Waited

__all__ = ["MAX_HELD_BYTES", "ROOM_SECONDS", "SLICE_SECONDS", "Turns", "overloaded"]

_log = Logger(namespace="http-source")

SLICE_SECONDS = 0.005
"""Of each turn of the reactor, for all work together. It is overrun by a single step at most."""

MAX_HELD_BYTES = 128 * 1024 * 1024
"""Bodies of work that isn't done yet."""

SHARES = 4
"""No source may hold more than one of so many equal shares of that."""

ROOM_SECONDS = 10.0
"""How long work waits for room elsewhere; less than requests wait for their answer."""

Steps = Iterator[Deferred[Any] | None]
"""A step is a small piece of work; one that is a Deferred has to wait for it. The Deferred doesn't
fail."""


def overloaded(what: str) -> UserError:
    """503: *what* is too much at once; nothing of it is stored."""
    return UserError(f"{what}, please try again", status=503, name="overloaded")


def _timed_out(failure: Failure) -> None:
    failure.trap(TimeoutError)


@attrs.frozen(eq=False)
class _Job:
    key: Hashable
    size: int
    steps: Steps
    done: Deferred[None] = attrs.field(factory=Deferred)


class Turns:
    """The queue of long jobs, which run in short turns so that the reactor stays responsive.

    :param reactor: for time and turns.

    :ivar ended: called when a job has ended and its bytes are free.
    """

    def __init__(self, reactor: Any, max_held_bytes: int = MAX_HELD_BYTES) -> None:
        self.ended: Callable[[], None] = lambda: None
        self._reactor = reactor
        self._max_held = max_held_bytes
        self._queues: OrderedDict[Hashable, deque[_Job]] = OrderedDict()
        self._held: dict[Hashable, int] = {}
        self._held_bytes = 0
        self._left = SLICE_SECONDS
        self._is_running = False
        self._is_called = False

    @property
    def is_full(self) -> bool:
        """Whether what is decoded now would find no room."""
        return self._held_bytes >= self._max_held

    def work(self, key: Hashable, size: int, steps: Steps) -> Deferred[None]:
        """Do *steps*, the first of them at once if nothing else is to be done.

        Raises UserError: 503, too much waits. One job alone is always taken.

        :param key: whose work it is, for fairness.
        :param size: bytes that it holds.
        :returns: fires when all are done; fails with what a step raises. Who doesn't wait any more
            ends the steps themselves.
        """
        own = self._held.get(key, 0)
        if (own and own + size > self._max_held // SHARES) or (
            self._held_bytes and self._held_bytes + size > self._max_held
        ):
            raise overloaded("too many large requests at once")
        self._held[key] = own + size
        self._held_bytes += size
        job = _Job(key, size, steps)
        self._enqueue(job)
        return job.done

    def work_for(
        self,
        waited: Waited,
        key: Hashable,
        size: int,
        steps: Steps,
        failed: Callable[[Failure], bytes],
    ) -> None:
        """The same for a request; what the steps end with answers it.

        Raises UserError: 503, too much waits.

        :param failed: the answer if a step raises.
        """
        working = self.work(key, size, steps)
        working.addErrback(lambda failure: waited.finish(failed(failure)))
        working.addErrback(lambda failure: _log.failure("cannot answer a request", failure))

    def until_room(self, ask: Callable[[], Deferred[None] | None]) -> Steps:
        """Steps that wait until there is room, or for `ROOM_SECONDS`.

        What waits counts as held, so it is bounded, and its client sends nothing more meanwhile.

        :param ask: see `stream.source.interfaces.RowWriter.room`.
        """
        end = self._reactor.seconds() + ROOM_SECONDS
        while (left := end - self._reactor.seconds()) > 0 and (room := ask()) is not None:
            room.addTimeout(left, self._reactor)
            yield room.addErrback(_timed_out)

    def _enqueue(self, job: _Job) -> None:
        self._queues.setdefault(job.key, deque()).append(job)
        if not self._is_running:
            self._run()

    def _run(self) -> None:
        """Work until the slice of this turn is used up."""
        self._is_running = True
        now = self._reactor.seconds()
        end = now + self._left
        while self._queues and now < end:
            key = next(iter(self._queues))
            self._queues.move_to_end(key)
            self._step(self._queues[key])
            now = self._reactor.seconds()
        self._is_running = False
        self._left = end - now
        if not self._is_called:
            self._is_called = True
            self._reactor.callLater(0, self._next_turn)

    def _next_turn(self) -> None:
        self._is_called = False
        self._left = SLICE_SECONDS
        if self._queues:
            self._run()

    def _step(self, jobs: deque[_Job]) -> None:
        job = jobs[0]
        try:
            waiting = next(job.steps)
        except StopIteration:
            self._remove(jobs)
            self._free(job)
            job.done.callback(None)
        except Exception:
            self._remove(jobs)
            self._free(job)
            # Not kept here: it has this frame, and they would keep one another, and the body.
            job.done.errback(Failure())
        else:
            if waiting is not None:
                self._remove(jobs)
                waiting.addBoth(lambda _: self._enqueue(job))

    def _remove(self, jobs: deque[_Job]) -> None:
        job = jobs.popleft()
        if not jobs:
            del self._queues[job.key]

    def _free(self, job: _Job) -> None:
        self._held_bytes -= job.size
        self._held[job.key] -= job.size
        if not self._held[job.key]:
            del self._held[job.key]
        self.ended()
