"""Waits until a task on any node has ended.

Note [What ends a wait]: when a task ends, its outcome is written and its lock is deleted in one
transaction. The lock of a dead node is deleted with the node's lease. So this service mirrors the
locks, of which there are only as many as running tasks. When the lock of a task is deleted, the
task's record contains the outcome, or its node has died.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.logger import Logger

from stream.concurrency.deadline import within
from stream.concurrency.waiters import Waiters
from stream.etcd import Batch, EtcdClient, EtcdError, KeyValue, Mirror
from stream.task.entity import LOCK_PREFIX, Task
from stream.values.codec import decode
from stream.values.fair_share import may_take

__all__ = ["MAX_WAITING", "TaskEnds"]

_log = Logger(namespace="stream.task")

MAX_WAITING = 300
"""Maximum number of waiting callers on a node; others are answered without waiting.

See Note [Shares] of `stream.values.fair_share`.
"""


class TaskEnds(Service):
    """Lets callers wait until tasks on any node have ended.

    The Deferred returned by startService fires when the locks of the running tasks are known.

    :param client: etcd client, already started.
    """

    name = "task.ends"

    def __init__(self, reactor: Any, client: EtcdClient) -> None:
        self._reactor = reactor
        self._client = client
        self._locks: Mirror[int] = Mirror(
            client, LOCK_PREFIX, _revision, on_change=self._locks_changed
        )
        self._waiting: dict[str, Waiters[None]] = {}
        self._waits_of: Counter[int] = Counter()

    async def startService(self) -> None:
        super().startService()
        await self._locks.startService()

    async def stopService(self) -> None:
        """Stop the service after all waits have ended."""
        self.end_all()
        await self._locks.stopService()

    def end_all(self) -> None:
        """Answer all waiting callers with the current state, because the node is stopping."""
        super().stopService()
        self._wake_all()

    def __len__(self) -> int:
        """Return the number of waiting callers."""
        return self._waits_of.total()

    def has_room(self, project_id: int) -> bool:
        """Return whether another caller of the project may wait."""
        return bool(self.running) and may_take(self._waits_of[project_id], len(self), MAX_WAITING)

    async def wait(self, task: Task, seconds: float) -> Task:
        """Return the record of *task* when it has ended, or its current state after *seconds*.

        The current state is also returned if the task is no longer running, if the node stops, or
        if etcd is unavailable. A running task continues, and can be polled.
        """
        deadline = self._reactor.seconds() + seconds
        self._waits_of[task.project_id] += 1
        try:
            while not task.is_finished:
                # The Deferred is created first, so that a change after the read isn't missed.
                changed = self._next_change(task.lock)
                try:
                    task, is_running = await self._read(task)
                    rest = deadline - self._reactor.seconds()
                    if task.is_finished or not is_running or rest <= 0 or not self.running:
                        break
                    await within(changed, rest, self._reactor, "a task")
                except TimeoutError:
                    break
                finally:
                    self._forget(task.lock, changed)
        except EtcdError as error:
            _log.warn("cannot wait for the task: {error}", task=task.task_id, error=str(error))
        finally:
            self._waits_of -= Counter((task.project_id,))
        return task

    async def _read(self, task: Task) -> tuple[Task, bool]:
        """Return the current record, and whether the task is running."""
        found, _ = await self._client.get_many([task.key, task.lock])
        stored, lock = found[task.key], found[task.lock]
        if stored is None:
            return task, False
        # The lock may belong to the next task; see `stream.task.abandoned`.
        is_running = lock is not None and lock.create_revision == stored.create_revision
        return decode(Task, stored.value), is_running

    def _next_change(self, lock: str) -> Deferred[None]:
        """Return a Deferred that fires when the lock has changed."""
        return self._waiting.setdefault(lock, Waiters()).wait()

    def _forget(self, lock: str, changed: Deferred[None]) -> None:
        changed.addErrback(lambda failure: failure.trap(CancelledError, TimeoutError))
        changed.cancel()
        waiters = self._waiting.get(lock)
        if waiters is not None and not len(waiters):
            del self._waiting[lock]

    def _locks_changed(self, batch: Batch[int]) -> None:
        if batch.reset:
            self._wake_all()
        for change in batch.changes:
            waiters = self._waiting.get(change.key)
            if waiters is not None:
                waiters.fire(None)

    def _wake_all(self) -> None:
        for waiters in list(self._waiting.values()):
            waiters.fire(None)


def _revision(stored: KeyValue) -> int:
    return stored.create_revision
