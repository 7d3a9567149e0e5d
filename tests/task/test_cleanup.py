from __future__ import annotations

from datetime import timedelta

import attrs
import pytest
import pytest_twisted
from twisted.internet.task import Clock

from stream.etcd import EtcdClient
from stream.task.cleanup import TaskCleanup, is_expired
from stream.task.entity import Task, TaskFailure, finished
from stream.task.listing import FORMER_LISTING_PREFIX
from stream.task.store import TaskStore
from stream.values.codec import encode
from stream.values.utctime import from_timestamp

ensure = pytest_twisted.ensureDeferred

START = from_timestamp(0)
RUNNING = Task(
    project_id=123,
    task_id="api.create.source/456/s/1970-01-01T00:00:00.000Z_abcde",
    type="api.create.source",
    created_at=START,
    node="n",
    lock="runtime/lock/task/123/456/s",
)
SUCCESSFUL = finished(RUNNING, START, result="Done.")
FAILED = finished(RUNNING, START, error="no", failure=TaskFailure("n", "No.", "id"))


@pytest.mark.parametrize(
    ("task", "hours"), [(RUNNING, 48), (SUCCESSFUL, 1), (FAILED, 48)], ids=["running", "ok", "bad"]
)
def test_expired_tasks(task: Task, hours: int) -> None:
    """Successful tasks expire after an hour, all others after two days."""
    limit = START + timedelta(hours=hours)
    assert is_expired(task, limit)
    assert not is_expired(task, limit - timedelta(milliseconds=1))
    assert not is_expired(task, START - timedelta(minutes=59)), "the clock was set back a little"
    assert is_expired(task, START - timedelta(hours=hours))


@ensure
async def test_only_the_owner_deletes_tasks(etcd: EtcdClient) -> None:
    """At each interval the owner in the group deletes expired tasks; other nodes do nothing."""
    await etcd.put(SUCCESSFUL.key, encode(SUCCESSFUL))
    other = attrs.evolve(FAILED, task_id="api.create.source/456/t/x")
    await etcd.put(other.key, encode(other))
    await etcd.put("task/123/unreadable", b"{}")
    store, clock = TaskStore(etcd), Clock()
    clock.advance(7200)
    cleanup = TaskCleanup(clock, store, is_owner=lambda: False, interval=3600.0)
    cleanup.startService()
    clock.advance(3600)
    assert (await etcd.range("task/")).count == 3
    await cleanup.stopService()
    assert await cleanup.clean_up() == 1
    left = await etcd.range("task/")
    assert [stored.key for stored in left.kvs] == [other.key, "task/123/unreadable"]


@ensure
async def test_the_oldest_tasks_of_a_project_are_deleted(
    etcd: EtcdClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest finished tasks of each project remain, and those that run."""
    monkeypatch.setattr("stream.task.cleanup.KEPT_TASKS", 3)

    def task(project_id: int, minute: int, *, ends: bool = True) -> Task:
        at = START + timedelta(minutes=minute)
        # The keys have another order than the times.
        name = f"api.create.source/456/s{9 - minute}/x"
        running = attrs.evolve(RUNNING, project_id=project_id, task_id=name, created_at=at)
        return finished(running, at, result="Done.") if ends else running

    running = task(2, 0, ends=False)
    tasks = [*(task(1, minute) for minute in range(5)), *(task(2, minute) for minute in (1, 2, 3))]
    for each in (*tasks, running, task(3, 1)):
        await etcd.put(each.key, encode(each))
    cleanup = TaskCleanup(Clock(), TaskStore(etcd), is_owner=lambda: True, interval=3600.0)
    assert await cleanup.clean_up() == 2
    left = {stored.key for stored in (await etcd.range("task/")).kvs}
    assert left == {*(each.key for each in tasks[2:]), running.key, task(3, 1).key}


@ensure
async def test_keys_of_a_node_of_an_earlier_version_are_deleted(etcd: EtcdClient) -> None:
    """In an upgrade it may write keys after the start of all newer nodes, which delete them."""
    former = f"{FORMER_LISTING_PREFIX}branch/123/456/1"
    await etcd.put(former, b"x")
    cleanup = TaskCleanup(Clock(), TaskStore(etcd), is_owner=lambda: True, interval=3600.0)
    await cleanup.clean_up()
    assert await etcd.get(former) is None
