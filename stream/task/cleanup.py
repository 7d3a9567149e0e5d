"""Deletes the records of old tasks, on one node of the cluster at a time."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from stream.ops.clock import wall_clock
from stream.task.entity import Task
from stream.task.store import TaskStore
from stream.values.utctime import from_timestamp

__all__ = ["TaskCleanup", "is_expired"]

_log = Logger(namespace="stream.task.cleanup")

SUCCESSFUL_FOR = timedelta(hours=1)
OTHERS_FOR = timedelta(hours=48)
KEPT_TASKS = 10_000
"""Number of finished tasks of a project that are kept; older ones are deleted."""
RUN_SECONDS = 300.0
"""Time limit of one run; the next run continues."""


def is_expired(task: Task, now: datetime) -> bool:
    """Return whether the task's retention is over.

    Successful tasks are kept for an hour after they end. Failed tasks, and tasks that never ended
    because their node died, are kept for two days. The same applies to a task whose time is that
    far in the future: it was started before the clock was set back.
    """
    if task.is_successful:
        return task.finished_at is not None and abs(now - task.finished_at) >= SUCCESSFUL_FOR
    return abs(now - (task.finished_at or task.created_at)) >= OTHERS_FOR


class TaskCleanup(Service):
    """The periodic deletion of old tasks.

    :param is_owner: returns whether this node is responsible for the cleanup; called in each run.
    :param interval: seconds between runs.
    """

    name = "task.cleanup"

    def __init__(
        self, reactor: Any, store: TaskStore, *, is_owner: Callable[[], bool], interval: float
    ) -> None:
        self._reactor = reactor
        self._wall_clock = wall_clock(reactor)
        self._store = store
        self._is_owner = is_owner
        self._loop = LoopingCall(self._run)
        self._loop.clock = reactor
        self._interval = interval
        self._running: Deferred[int] | None = None

    def startService(self) -> None:
        super().startService()
        self._loop.start(self._interval, now=False)
        _log.info("ready")

    def stopService(self) -> Deferred[None]:
        """Stop the cleanup. The Deferred fires when no run is active."""
        super().stopService()
        if self._loop.running:
            self._loop.stop()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self._running is not None:
            self._running.cancel()

    async def _run(self) -> None:
        if not self._is_owner():
            return
        self._running = Deferred.fromCoroutine(self.clean_up())
        self._running.addTimeout(RUN_SECONDS, self._reactor)
        try:
            count = await self._running
            _log.info("deleted {count} tasks", count=count)
        except TimeoutError:
            _log.warn("cleanup timeout exceeded")
        except Exception as error:
            _log.error("cannot clean up tasks: {error}", error=str(error))
        finally:
            self._running = None

    async def clean_up(self) -> int:
        """Delete all expired tasks; return their number."""
        await self._store.delete_former_listing()
        now = from_timestamp(self._wall_clock())
        count = 0
        kept: list[tuple[datetime, str]] = []
        project_id = 0
        async for task in self._store.all():
            if task.project_id != project_id:  # the tasks of a project are adjacent
                count += await self._delete_oldest(kept)
                project_id, kept = task.project_id, []
            if is_expired(task, now):
                await self._store.delete(task.key)
                count += 1
            elif task.is_finished:
                kept.append((task.created_at, task.key))
        return count + await self._delete_oldest(kept)

    async def _delete_oldest(self, kept: list[tuple[datetime, str]]) -> int:
        """Delete the oldest of these tasks of a project, so that `KEPT_TASKS` remain."""
        oldest = sorted(kept)[: max(0, len(kept) - KEPT_TASKS)]
        for _, key in oldest:
            await self._store.delete(key)
        return len(oldest)
