"""Runs tasks in the background, one at a time for each object, and records their outcomes.

A task outlives the request that started it. While it runs, its object is locked in this node's
memory, and in the cluster by a key that is bound to the node's lease, so that the lock ends when
the node dies. When the task ends, its outcome is written and its lock is deleted in one
transaction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

import attrs
from twisted.application.service import Service
from twisted.internet import defer
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from stream.concurrency.waiters import ended
from stream.errors import UserError
from stream.etcd import AtomicTxn, EtcdClient, EtcdUnavailable, Session, atomic
from stream.ops.clock import wall_clock
from stream.ops.logging.ids import exception_id, random_id
from stream.ops.metrics.error_type import error_type
from stream.ops.metrics.registry import Metrics
from stream.ops.tracing.spans import span
from stream.task.entity import LOCK_PREFIX, Task, TaskFailure, finished, task_id
from stream.task.errors import ObjectExists, TaskAlreadyRunning, TaskTimeout, TooManyTasks
from stream.values.backoff import Backoff
from stream.values.codec import decode, encode
from stream.values.duration import Duration
from stream.values.fair_share import may_take
from stream.values.utctime import from_timestamp

__all__ = ["TASK_SECONDS", "TaskExecutor", "TaskRun"]

_log = Logger(namespace="stream.task")

TASK_SECONDS = 300.0
"""Time limit of a task."""
ROLLBACK_SECONDS = 30.0
"""Time limit of all rollbacks of a task together."""
DRAIN_SECONDS = 30.0
"""How long a stopping executor waits for running tasks."""
MAX_RUNNING = 500
"""Maximum number of running tasks on a node; see Note [Shares] of `stream.values.fair_share`."""
MAX_RECORDED = 100_000
"""Number of recorded tasks of a project above which no task starts.

Their records are in etcd, which all projects share. The cleanup keeps far fewer.
"""

_EXCEPTION_PREFIX = "keboola-stream-api"
_ENDING_LENGTH = 5
_LOCK_POLL = 0.05
_FIRST_RETRY = 0.1
_MAX_RETRY = 5.0

Rollback = Callable[[], Awaitable[object]]


class TaskRun:
    """The argument of a task's body, which describes the running task.

    :ivar task: the task's record, as it was when it started.
    :ivar outputs: outputs of the task. The body sets them as soon as they are known; a failed task
        keeps them.
    """

    def __init__(self, task: Task, record: Callable[[Task], Awaitable[None]]) -> None:
        """Create the description of a running task.

        :param record: stores the record of a running task.
        """
        self.task = task
        self._record = record
        self.outputs: dict[str, Any] | None = None
        self.rollbacks: list[Rollback] = []

    async def report(self, outputs: dict[str, Any]) -> None:
        """Store *outputs* while the task runs, so that polling shows them."""
        self.outputs = outputs
        await self._record(attrs.evolve(self.task, outputs=dict(sorted(outputs.items()))))

    def on_failure(self, rollback: Rollback) -> None:
        """Add a rollback to run if the task fails; rollbacks run in reverse order."""
        self.rollbacks.append(rollback)


Body = Callable[[TaskRun], Awaitable[str]]
"""A function that does the work of a task and returns the text of the result."""


class TaskExecutor(Service):
    """Runs tasks in the background and records them in etcd.

    :param client: etcd client, already started.
    :param session: etcd session to whose lease the locks are bound.
    :param node_id: ID of this node, which is recorded in tasks and locks.
    :param metrics: metrics of tasks.
    :param recorded: returns the number of recorded tasks of a project.
    """

    name = "task"

    def __init__(
        self,
        reactor: Any,
        client: EtcdClient,
        session: Session,
        *,
        node_id: str,
        metrics: Metrics | None = None,
        recorded: Callable[[int], int] = lambda project_id: 0,
    ) -> None:
        self._recorded = recorded
        self._reactor = reactor
        self._wall_clock = wall_clock(reactor)
        self._client = client
        self._session = session
        self._node_id = node_id
        self._metrics = metrics or Metrics()
        self._running: dict[str, Deferred[None] | None] = {}
        self._of_project: Counter[int] = Counter()
        self._ending: set[str] = set()

    def startService(self) -> None:
        super().startService()
        _log.info('node ID "{node_id}"', node_id=self._node_id)

    def stopService(self) -> Deferred[None]:
        """Stop the executor. The Deferred fires when all tasks have ended or were cancelled."""
        super().stopService()
        return Deferred.fromCoroutine(self._drain())

    async def start(
        self,
        *,
        project_id: int,
        type: str,
        object_id: str,
        object_key: str,
        body: Body,
        patience: float = 0.0,
        absent: str | None = None,
    ) -> Task:
        """Start a task and return its record without waiting until the task ends.

        :param type: type of the task, for example ``api.create.source``.
        :param object_id: ID of the object without its project, which becomes part of the task's ID.
        :param object_key: key of the object to lock.
        :param body: the function that does the work.
        :param patience: seconds to wait while another task has locked the object.
        :param absent: an etcd key that must not exist when the task starts: the key of the object,
            if the task creates it. Without this check, the second of two concurrent creations would
            become a task that can only fail.

        Raises `TaskAlreadyRunning`, `ObjectExists`, `TooManyTasks`.
        """
        deadline = self._reactor.seconds() + patience
        while True:
            try:
                return await self._start(project_id, type, object_id, object_key, body, absent)
            except TaskAlreadyRunning:
                if absent is not None and await self._client.get(absent) is not None:
                    raise ObjectExists(object_key) from None
                if self._reactor.seconds() >= deadline:
                    raise
            await deferLater(self._reactor, _LOCK_POLL)

    async def _start(
        self,
        project_id: int,
        type: str,
        object_id: str,
        object_key: str,
        body: Body,
        absent: str | None,
    ) -> Task:
        if not self.running or len(self._running) >= MAX_RUNNING:
            raise TooManyTasks("the service is busy, please try again in a moment")
        if not may_take(self._of_project[project_id], len(self._running), MAX_RUNNING):
            raise TooManyTasks("too many tasks of this project run, please try again in a moment")
        if self._recorded(project_id) >= MAX_RECORDED:
            raise TooManyTasks(
                f"the project has {MAX_RECORDED} recorded tasks, please try again in an hour"
            )
        ending = self._running.get(object_key)
        if ending is not None and object_key in self._ending:
            # Its record may already be visible: a caller that has read it must not be answered that
            # the task is running.
            await ended(ending)
        if object_key in self._running:
            raise TaskAlreadyRunning(object_key)
        self._running[object_key] = None
        self._of_project[project_id] += 1
        try:
            now = self._now()
            task = Task(
                project_id=project_id,
                task_id=task_id(type, object_id, now, random_id(_ENDING_LENGTH)),
                type=type,
                created_at=now,
                node=self._node_id,
                lock=f"{LOCK_PREFIX}{object_key}",
            )
            started_at = await self._record_start(task, object_key, absent)
        except BaseException:
            self._forget(object_key, project_id)
            raise
        running = Deferred.fromCoroutine(self._run(task, body, started_at))
        if not running.called:
            self._running[object_key] = running
        running.addErrback(self._lost, task)
        running.addBoth(lambda _: self._forget(object_key, project_id))
        return task

    def _forget(self, object_key: str, project_id: int) -> None:
        del self._running[object_key]
        self._ending.discard(object_key)
        self._of_project[project_id] -= 1
        if not self._of_project[project_id]:
            del self._of_project[project_id]

    async def _record_start(self, task: Task, object_key: str, absent: str | None) -> int:
        """Record that the task has started; return the revision, which identifies the lock."""
        lease = self._session.lease_id
        if lease is None:
            raise EtcdUnavailable("there is no session with etcd at the moment")

        async def body(txn: AtomicTxn) -> AtomicTxn:
            found = await txn.expect_absent([task.lock] if absent is None else [task.lock, absent])
            if found[task.lock] is not None:
                raise TaskAlreadyRunning(object_key)
            if absent is not None and found[absent] is not None:
                raise ObjectExists(object_key)
            txn.put(task.lock, self._node_id.encode(), lease=lease)
            txn.put(task.key, encode(task))
            return txn

        return (await atomic(self._client, body)).written_at

    async def _run(self, task: Task, body: Body, started_at: int) -> None:
        self._metrics.task_started(task.type)
        _log.info("started task", task=task.task_id)
        run = TaskRun(task, self._record_progress)
        problem: BaseException | None = None
        try:
            attributes = {"task": task.task_id, "resource.name": task.type}
            with span("keboola.go.task", attributes):
                result = await self._limited(_coroutine(body(run)), TASK_SECONDS)
        except Exception as error:
            problem = TaskTimeout() if isinstance(error, defer.TimeoutError) else error
            ended = self._failed(task, run, problem)
            await self._roll_back(task, run)
        else:
            ended = finished(task, self._now(), result=result, outputs=run.outputs)
            _log.info(
                "task succeeded: {result}",
                task=task.task_id,
                result=result,
                duration=str(Duration(ended.duration or 0)),
            )
        self._metrics.task_finished(
            task.type,
            (ended.duration or 0) / 1e6,
            error_type=error_type(problem),
            application_error=problem is not None and not isinstance(problem, UserError),
        )
        self._ending.add(task.lock.removeprefix(LOCK_PREFIX))
        await self._record_end(ended, started_at)

    def _failed(self, task: Task, run: TaskRun, problem: BaseException) -> Task:
        failure = TaskFailure.of(problem, exception_id(_EXCEPTION_PREFIX))
        if isinstance(problem, UserError):
            _log.warn(
                "task failed: {error}",
                task=task.task_id,
                error=str(problem),
                exception_id=failure.exception_id,
            )
        else:
            _log.failure(
                "task failed",
                Failure(problem),
                task=task.task_id,
                exception_id=failure.exception_id,
            )
        return finished(
            task,
            self._now(),
            error=str(problem) or repr(problem),
            failure=failure,
            outputs=run.outputs,
        )

    async def _roll_back(self, task: Task, run: TaskRun) -> None:
        async def all_of_them() -> None:
            for rollback in reversed(run.rollbacks):
                try:
                    await rollback()
                except Exception:
                    _log.failure("rollback failed", task=task.task_id)

        if run.rollbacks:
            try:
                await self._limited(all_of_them(), ROLLBACK_SECONDS)
            except defer.TimeoutError:
                _log.error("rollback timeout exceeded", task=task.task_id)

    async def _record_progress(self, task: Task) -> None:
        async def body(txn: AtomicTxn) -> None:
            stored = await txn.get(task.key)
            if stored is not None and not decode(Task, stored.value).is_finished:
                txn.put(task.key, encode(task))

        await atomic(self._client, body)

    async def _record_end(self, task: Task, started_at: int) -> None:
        """Write the record, with retries until it is written, since callers may poll the task.

        A request without an answer may be applied after its repetition. By then the lock may belong
        to another task of this process or of another one. That lock is kept.

        :param started_at: the create revision of this task's lock.
        """
        record = encode(task)
        backoff = Backoff(_FIRST_RETRY, _MAX_RETRY)
        while True:
            try:
                await self._client.put_and_unlock(task.key, record, task.lock, started_at)
            except Exception as error:
                _log.error(
                    "cannot record the result of the task: {error}",
                    task=task.task_id,
                    error=str(error),
                )
                if not self.running:
                    return
                await deferLater(self._reactor, backoff.next())
            else:
                return

    async def _limited(self, work: Any, seconds: float) -> Any:
        """Wait for a coroutine, with a time limit in seconds. Raises `defer.TimeoutError`."""
        return await Deferred.fromCoroutine(work).addTimeout(seconds, self._reactor)

    async def _drain(self) -> None:
        waiting = [running for running in self._running.values() if running is not None]
        if not waiting:
            return
        _log.info("waiting for {count} tasks", count=len(waiting))
        late = self._reactor.callLater(DRAIN_SECONDS, _cancel_all, waiting)
        await DeferredList([ended(running) for running in waiting])
        if late.active():
            late.cancel()

    def _lost(self, failure: Any, task: Task) -> None:
        _log.failure("task was lost", failure, task=task.task_id)

    def _now(self) -> datetime:
        return from_timestamp(self._wall_clock())


async def _coroutine(work: Awaitable[str]) -> str:
    return await work


def _cancel_all(running: list[Deferred[None]]) -> None:
    for one in running:
        one.cancel()
