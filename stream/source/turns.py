"""Long-running work, done a few milliseconds at a time.

A batch, an export or a large record takes up to seconds of CPU time. All such work of a node shares
one slice of each turn of the reactor, so a small record never waits longer than this slice, however
many large records are sent. Sources take turns within this slice, so a source that sends a lot
delays only itself.
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
from stream.ops.process.between import between_clients
from stream.source.http.completions import Waited

__all__ = ["MAX_HELD_BYTES", "ROOM_SECONDS", "SLICE_SECONDS", "Steps", "Turns", "overloaded"]

_log = Logger(namespace="http-source")

SLICE_SECONDS = 0.005
"""Time per turn of the reactor for all work together; exceeded by at most one step."""

MAX_HELD_BYTES = 128 * 1024 * 1024
"""Maximum total size of the bodies of unfinished work."""

SHARES = 4
"""Number of equal shares of that limit; no source may hold more than one share."""

ROOM_SECONDS = 10.0
"""How long a record waits for room in all its sinks together."""
BATCH_ROOM_SECONDS = 20.0
"""How long all records of a request wait for room; less than the request timeout."""

Steps = Iterator[Deferred[Any] | None]
"""An iterator of small parts of work. If a step is a Deferred, the work waits for it.

The Deferred must not fail.
"""


def overloaded(what: str) -> UserError:
    """Return the 503 error for *what*, which exceeds the limit and isn't stored."""
    return UserError(f"{what}, please try again", status=503, name="overloaded")


def _timed_out(failure: Failure) -> None:
    failure.trap(TimeoutError)


@attrs.frozen(eq=False)
class _Job:
    key: Hashable
    size: int
    steps: Steps
    done: Deferred[None] = attrs.field(factory=Deferred)


class Patience:
    """The time that one request may wait for room in all its sinks together."""

    def __init__(self, reactor: Any, seconds: float) -> None:
        self._reactor = reactor
        self._left = seconds

    def until_room(self, ask: Callable[[], Deferred[None] | None]) -> Steps:
        """Return steps that wait until there is room or the time is used up.

        Waiting work counts as held, so it is limited, and its client sends nothing more while it
        waits.

        :param ask: see `stream.source.interfaces.RowWriter.room`.
        """
        while self._left > 0 and (room := ask()) is not None:
            began = self._reactor.seconds()
            room.addTimeout(self._left, self._reactor)
            yield room.addErrback(_timed_out)
            self._left -= self._reactor.seconds() - began


class Turns:
    """The queue of long jobs, which run in short steps so that the reactor stays responsive.

    :param reactor: source of the time and of turns. Its calls between clients
        (`stream.ops.process.between`) are also made between the steps.

    :ivar ended: called when a job has ended and its bytes are released.
    """

    def __init__(self, reactor: Any, max_held_bytes: int = MAX_HELD_BYTES) -> None:
        self.ended: Callable[[], None] = lambda: None
        self._reactor = reactor
        self._between = between_clients(reactor)
        self._max_held = max_held_bytes
        self._queues: OrderedDict[Hashable, deque[_Job]] = OrderedDict()
        self._held: dict[Hashable, int] = {}
        self._held_bytes = 0
        self._left = SLICE_SECONDS
        self._is_running = False
        self._is_called = False

    @property
    def is_full(self) -> bool:
        """Whether a newly decoded body would have to wait."""
        return self._held_bytes >= self._max_held

    def work(self, key: Hashable, size: int, steps: Steps) -> Deferred[None]:
        """Run *steps*; the first ones run immediately if the queue is empty.

        Raises UserError: 503, because the queue is full. A single job is always accepted.

        :param key: the source, for fair scheduling.
        :param size: number of bytes that the work holds.
        :returns: a Deferred that fires when all steps are done, and fails with the error of a step.
            It can't be cancelled; the steps have to end themselves.
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
        """Run *steps* for a request, which they answer.

        Raises UserError: 503, because the queue is full.

        :param failed: returns the answer if a step raises an exception.
        """
        working = self.work(key, size, steps)
        working.addErrback(lambda failure: waited.finish(failed(failure)))
        working.addErrback(lambda failure: _log.failure("cannot answer a request", failure))

    def patience(self, seconds: float) -> Patience:
        """Return the `Patience` of one request: *seconds* for all its sinks together."""
        return Patience(self._reactor, seconds)

    def _enqueue(self, job: _Job) -> None:
        self._queues.setdefault(job.key, deque()).append(job)
        if not self._is_running:
            self._run()

    def _run(self, between: Callable[[], None] = lambda: None) -> None:
        """Run jobs until the slice of this turn is used up.

        :param between: called after each step.
        """
        self._is_running = True
        now = self._reactor.seconds()
        end = now + self._left
        while self._queues and now < end:
            key = next(iter(self._queues))
            self._queues.move_to_end(key)
            self._step(self._queues[key])
            between()
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
            self._run(self._between.run_checks)

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
            # Not kept in a variable: the failure refers to this frame, and the reference cycle
            # would keep the body.
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
