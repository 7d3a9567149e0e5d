"""Waiting for the end of a task that runs on any node."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import attrs
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from stream.etcd import EtcdClient, EtcdUnavailable, Session
from stream.task import ends as ends_module
from stream.task.ends import TaskEnds
from stream.task.entity import Task
from stream.task.executor import TaskExecutor, TaskRun
from tests.waiting import until

ensure = pytest_twisted.ensureDeferred
KEY = "123/456/my-source"


@attrs.frozen
class Nodes:
    """One node runs tasks, and another one waits for them.

    :ivar gate: fired to end the tasks.
    """

    etcd: EtcdClient
    executor: TaskExecutor
    clock: Clock
    ends: TaskEnds
    gate: Deferred[str]

    async def start(self) -> Task:
        async def body(run: TaskRun) -> str:
            return await self.gate

        return await self.executor.start(
            project_id=123,
            type="api.create.source",
            object_id="456/my-source",
            object_key=KEY,
            body=body,
        )

    async def waiting(self, task: Task, seconds: float = 10) -> Deferred[Task]:
        """Start to wait for a task that was read as running."""
        before = len(self.clock.getDelayedCalls())
        waiting = Deferred.fromCoroutine(self.ends.wait(task, seconds))
        await until(lambda: len(self.clock.getDelayedCalls()) > before)
        return waiting


@pytest_twisted.async_yield_fixture()
async def nodes(etcd: EtcdClient) -> AsyncIterator[Nodes]:
    session = Session(etcd, ttl=15, reactor=reactor)
    await session.startService()
    executor = TaskExecutor(reactor, etcd, session, node_id="other-node")
    executor.startService()
    clock = Clock()
    ends = TaskEnds(clock, etcd)
    await ends.startService()
    nodes = Nodes(etcd, executor, clock, ends, Deferred())
    yield nodes
    if not nodes.gate.called:
        nodes.gate.callback("Done.")
    await executor.stopService()
    await ends.stopService()
    await session.stopService()
    assert len(ends) == 0
    assert not clock.getDelayedCalls()


@ensure
async def test_the_end_of_a_task_on_another_node(nodes: Nodes) -> None:
    """All waiters get the final record, and nothing is polled."""
    task = await nodes.start()
    waiting = [await nodes.waiting(task) for _ in range(3)]
    assert len(nodes.ends) == 3
    nodes.gate.callback("Done.")
    for each in waiting:
        assert (await each).result == "Done."


@ensure
async def test_a_task_that_has_already_ended(nodes: Nodes) -> None:
    """The record of the task is returned at once."""
    nodes.gate.callback("Done.")
    task = await nodes.start()
    assert (await nodes.ends.wait(task, 10)).result == "Done."
    assert (await nodes.ends.wait(await nodes.ends.wait(task, 10), 10)).result == "Done."


@ensure
async def test_the_wait_times_out(nodes: Nodes) -> None:
    """After the timeout the unfinished task is returned, and continues."""
    task = await nodes.start()
    waiting = await nodes.waiting(task)
    nodes.clock.advance(9.9)
    assert not waiting.called
    nodes.clock.advance(0.1)
    assert await waiting == task
    nodes.gate.callback("Done.")
    assert (await nodes.ends.wait(task, 10)).result == "Done."


@ensure
async def test_the_node_of_the_task_dies(nodes: Nodes) -> None:
    """The wait ends immediately, since no node works on the task any more."""
    task = await nodes.start()
    waiting = await nodes.waiting(task)
    await nodes.etcd.delete(task.lock)
    assert await waiting == task
    assert await nodes.ends.wait(task, 10) == task


@ensure
async def test_the_next_task_of_the_object(nodes: Nodes) -> None:
    """The lock of the next task isn't mistaken for that of a task whose node has died."""
    task = await nodes.start()
    waiting = await nodes.waiting(task)
    await nodes.etcd.delete(task.lock)
    await nodes.etcd.put(task.lock, b"next")
    assert await waiting == task
    await nodes.etcd.delete(task.lock)


@ensure
async def test_the_caller_disconnects(nodes: Nodes) -> None:
    """No state of the request remains, and the task continues."""
    task = await nodes.start()
    waiting = await nodes.waiting(task)
    failed = waiting.addErrback(lambda failure: failure.trap(CancelledError))
    waiting.cancel()
    assert await failed is CancelledError
    assert len(nodes.ends) == 0
    assert not nodes.clock.getDelayedCalls()


@ensure
async def test_the_node_stops(nodes: Nodes) -> None:
    """All waits end at once, and later ones don't wait."""
    task = await nodes.start()
    waiting = await nodes.waiting(task)
    nodes.ends.end_all()
    assert await waiting == task
    assert not nodes.ends.has_room(123)


@ensure
async def test_too_many_waits(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A further wait is possible when one has ended, and earlier for another project."""
    monkeypatch.setattr(ends_module, "MAX_WAITING", 2)
    task = await nodes.start()
    assert nodes.ends.has_room(123)
    waiting = await nodes.waiting(task)
    assert not nodes.ends.has_room(123)
    assert nodes.ends.has_room(124)
    nodes.gate.callback("Done.")
    await waiting
    assert nodes.ends.has_room(123)


@ensure
async def test_etcd_becomes_unavailable(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller gets the last known record, and can poll the task when etcd is available."""
    task = await nodes.start()

    async def unavailable(keys: Sequence[str]) -> None:
        raise EtcdUnavailable("gone")

    with monkeypatch.context() as patch:
        patch.setattr(nodes.etcd, "get_many", unavailable)
        assert await nodes.ends.wait(task, 10) == task
