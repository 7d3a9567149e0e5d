"""Detects tasks whose node has died, so that they don't remain ``processing`` forever.

Note [Running tasks]: a task's record and its lock are written in one transaction, and the lock is
bound to the lease of the node that runs the task. So the task isn't running if the lock doesn't
exist, or if the lock's revision shows that it belongs to another task. A node that was only
disconnected from etcd may reconnect and replace the recorded failure with the actual outcome, which
is correct.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from twisted.logger import Logger

from stream.etcd import AtomicTxn, EtcdClient, atomic
from stream.ops.clock import wall_clock
from stream.ops.logging.ids import exception_id
from stream.task.entity import Task, TaskFailure, finished
from stream.values.codec import decode, encode
from stream.values.utctime import age, from_timestamp

__all__ = ["AbandonedTasks"]

_log = Logger(namespace="stream.task")

_EXCEPTION_PREFIX = "keboola-stream-api"
_NAME = "taskAbandoned"
_MESSAGE = (
    "The node that worked on the task has stopped. Please check whether the change was made, and "
    "repeat it if it was not."
)


class AbandonedTasks:
    """Detects tasks whose node has died.

    :param ttl: seconds after the start of a task during which it isn't checked.
    """

    def __init__(self, reactor: Any, client: EtcdClient, ttl: float) -> None:
        self._wall_clock = wall_clock(reactor)
        self._client = client
        self._ttl = timedelta(seconds=ttl)

    async def settle(self, task: Task) -> Task:
        """Return the current state of the task; if its node has died, record it as failed."""
        now = from_timestamp(self._wall_clock())
        if task.is_finished or age(task.created_at, now) < self._ttl:
            return task
        failure = TaskFailure(_NAME, _MESSAGE, exception_id(_EXCEPTION_PREFIX))
        failed = finished(task, now, error=f'the node "{task.node}" has stopped', failure=failure)

        async def body(txn: AtomicTxn) -> Task:
            stored = await txn.get(task.key)
            if stored is None:
                return task
            latest = decode(Task, stored.value)
            lock = await txn.get(task.lock) if task.lock else None
            is_alive = lock is not None and lock.create_revision == stored.create_revision
            if latest.is_finished or is_alive:
                return latest
            txn.put(task.key, encode(failed))
            return failed

        settled = await atomic(self._client, body)
        if settled is failed:
            _log.warn(
                "task failed: its node {node} has stopped",
                node=task.node,
                task=task.task_id,
                exception_id=failure.exception_id,
            )
        return settled
