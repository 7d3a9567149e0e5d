"""Tasks of a dead node."""

from __future__ import annotations

import attrs
import pytest_twisted
from twisted.internet.task import Clock

from stream.etcd import AtomicTxn, EtcdClient, atomic
from stream.task.abandoned import AbandonedTasks
from stream.task.entity import Task, finished
from stream.task.store import TaskStore
from stream.values.codec import encode
from stream.values.utctime import from_timestamp

ensure = pytest_twisted.ensureDeferred

TTL = 15.0
TASK = Task(
    project_id=123,
    task_id="api.create.source/456/s/1970-01-01T00:00:00.000Z_abcde",
    type="api.create.source",
    created_at=from_timestamp(0),
    node="n",
    lock="runtime/lock/task/123/456/s",
)


async def started(etcd: EtcdClient) -> None:
    """Put record and lock in one transaction, as the executor does."""

    async def body(txn: AtomicTxn) -> None:
        txn.put(TASK.lock, b"n")
        txn.put(TASK.key, encode(TASK))

    await atomic(etcd, body)


def abandoned(etcd: EtcdClient, seconds: float = TTL) -> AbandonedTasks:
    clock = Clock()
    clock.advance(seconds)
    return AbandonedTasks(clock, etcd, TTL)


@ensure
async def test_a_task_without_its_lock(etcd: EtcdClient) -> None:
    """The task is shown as failed in all later requests."""
    await started(etcd)
    await etcd.delete(TASK.lock)
    settled = await abandoned(etcd).settle(TASK)
    assert (settled.status, settled.error) == ("error", 'the node "n" has stopped')
    assert settled.user_error is not None
    assert settled.user_error.name == "taskAbandoned"
    assert await TaskStore(etcd).get(123, TASK.task_id) == settled
    assert await abandoned(etcd).settle(TASK) == settled


@ensure
async def test_the_lock_of_another_task(etcd: EtcdClient) -> None:
    """A lock of another task on the same object isn't mistaken for the task's own."""
    await started(etcd)
    await etcd.delete(TASK.lock)
    await etcd.put(TASK.lock, b"n")
    assert (await abandoned(etcd).settle(TASK)).status == "error"


@ensure
async def test_a_running_task(etcd: EtcdClient) -> None:
    """The duration of a task is not limited while its node runs."""
    await started(etcd)
    assert await abandoned(etcd).settle(TASK) == TASK


@ensure
async def test_a_young_task(etcd: EtcdClient) -> None:
    """The task is unchanged, and etcd isn't queried."""
    await etcd.put(TASK.key, encode(TASK))
    assert await abandoned(etcd, TTL - 1).settle(TASK) == TASK


@ensure
async def test_a_task_that_has_ended_meanwhile(etcd: EtcdClient) -> None:
    """The result stored by its node is kept."""
    ended = finished(TASK, from_timestamp(1), result="Done.")
    await etcd.put(TASK.key, encode(ended))
    assert await abandoned(etcd).settle(TASK) == ended
    deleted = attrs.evolve(TASK, task_id="api.create.source/456/s/x")
    assert await abandoned(etcd).settle(deleted) == deleted
