from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import Clock, deferLater

from stream.errors import UserError
from stream.etcd import EtcdClient, EtcdUnavailable, Session
from stream.task import executor as executor_module
from stream.task.entity import Task
from stream.task.errors import ObjectExists, TaskAlreadyRunning, TaskNotFound, TooManyTasks
from stream.task.executor import TASK_SECONDS, Body, TaskExecutor, TaskRun
from stream.task.store import TaskStore
from tests.waiting import until

ensure = pytest_twisted.ensureDeferred
KEY = "123/456/my-source"


@attrs.frozen
class Tasks:
    """A started executor with a fake clock."""

    client: EtcdClient
    session: Session
    clock: Clock
    executor: TaskExecutor
    store: TaskStore

    async def start(self, body: Body, key: str = KEY, project: int = 123) -> Task:
        return await self.executor.start(
            project_id=project,
            type="api.create.source",
            object_id=key.removeprefix("123/"),
            object_key=key,
            body=body,
        )

    async def end_of(self, task: Task) -> Task:
        """Wait for the end, and return the record."""
        while True:
            stored = await self.store.get(123, task.task_id)
            if stored.is_finished:
                return stored
            await deferLater(reactor, 0.01)


@pytest_twisted.async_yield_fixture()
async def tasks(etcd: EtcdClient) -> AsyncIterator[Tasks]:
    session = Session(etcd, ttl=15, reactor=reactor)
    await session.startService()
    clock = Clock()
    executor = TaskExecutor(clock, etcd, session, node_id="test-node")
    executor.startService()
    yield Tasks(etcd, session, clock, executor, TaskStore(etcd))
    if executor.running:
        await executor.stopService()
    await session.stopService()


@ensure
async def test_a_task_runs_in_the_background(tasks: Tasks) -> None:
    """The record exists at once, is locked, and contains the result at the end."""
    gate: Deferred[None] = Deferred()

    async def body(run: TaskRun) -> str:
        await gate
        run.outputs = {"sourceId": "my-source"}
        return "Done."

    task = await tasks.start(body)
    assert task.task_id.startswith("api.create.source/456/my-source/1970-01-01T00:00:00.000Z_")
    assert (await tasks.store.get(123, task.task_id)).status == "processing"
    lock = await tasks.client.get(f"runtime/lock/task/{KEY}")
    assert lock is not None
    assert lock.lease == tasks.session.lease_id

    tasks.clock.advance(2)
    gate.callback(None)
    ended = await tasks.end_of(task)
    assert (ended.status, ended.result, ended.duration) == ("success", "Done.", 2_000_000_000)
    assert ended.outputs == {"sourceId": "my-source"}
    assert await tasks.client.get(f"runtime/lock/task/{KEY}") is None


@ensure
async def test_an_object_has_one_task_at_a_time(tasks: Tasks) -> None:
    """A second task of an object is refused on every node; a task of another object isn't."""
    gate: Deferred[str] = Deferred()

    async def body(run: TaskRun) -> str:
        return await gate

    async def quick(run: TaskRun) -> str:
        return "Done."

    first = await tasks.start(body)
    with pytest.raises(TaskAlreadyRunning, match=KEY):
        await tasks.start(quick)
    with pytest.raises(TaskAlreadyRunning, match=KEY):
        await attrs.evolve(tasks, executor=_other_node(tasks)).start(quick)
    await tasks.end_of(await tasks.start(quick, f"{KEY}/my-sink"))

    gate.callback("Done.")
    await tasks.end_of(first)
    await tasks.end_of(await tasks.start(quick))


@ensure
async def test_the_lock_of_another_process_is_kept(tasks: Tasks) -> None:
    """After the end of the lease, a process with the same name has locked the object."""
    gate: Deferred[str] = Deferred()

    async def body(run: TaskRun) -> str:
        return await gate

    task = await tasks.start(body)
    key = f"runtime/lock/task/{KEY}"
    granted = await tasks.client.call("lease/grant", {"TTL": 60})
    await tasks.client.delete(key)
    await tasks.client.put(key, b"test-node", lease=int(granted["ID"]))
    gate.callback("Done.")
    await tasks.end_of(task)
    assert await tasks.client.get(key) is not None


@ensure
async def test_a_caller_that_waits_for_the_previous_task(tasks: Tasks) -> None:
    """The task starts when the previous one has ended."""
    gate: Deferred[str] = Deferred()

    async def slow(run: TaskRun) -> str:
        return await gate

    async def quick(run: TaskRun) -> str:
        return "Done."

    await tasks.start(slow)
    waiting = Deferred.fromCoroutine(
        tasks.executor.start(
            project_id=123, type="t", object_id="o", object_key=KEY, body=quick, patience=1.0
        )
    )
    tasks.clock.advance(0.5)
    assert not waiting.called
    gate.callback("Done.")
    while not waiting.called:
        await deferLater(reactor, 0.01)
        tasks.clock.advance(0.05)
    ended = await tasks.end_of(await waiting)
    assert ended.result == "Done."


@ensure
async def test_a_duplicate_creation(tasks: Tasks) -> None:
    """The second creation is refused as soon as the object of the first exists."""
    gate: Deferred[str] = Deferred()

    async def slow(run: TaskRun) -> str:
        return await gate

    async def create(patience: float) -> Task:
        return await tasks.executor.start(
            project_id=123,
            type="t",
            object_id="o",
            object_key=KEY,
            body=slow,
            patience=patience,
            absent="definition/made",
        )

    first = await create(0.0)
    with pytest.raises(TaskAlreadyRunning):
        await create(0.0)
    refused: list[Any] = []
    waiting = Deferred.fromCoroutine(create(1.0)).addErrback(refused.append)
    await tasks.client.put("definition/made", b"{}")
    while not refused:
        await deferLater(reactor, 0.01)
        tasks.clock.advance(0.05)
    assert waiting.called and refused[0].check(ObjectExists)
    gate.callback("Done.")
    await tasks.end_of(first)
    with pytest.raises(ObjectExists, match=KEY):
        await create(0.0)
    assert await tasks.client.get(f"runtime/lock/task/{KEY}") is None


@ensure
async def test_errors_for_users(tasks: Tasks) -> None:
    """A user's error is shown as a message, and an internal one is hidden."""

    async def refused(run: TaskRun) -> str:
        raise UserError("the limit is reached", name="limitReached")

    async def broken(run: TaskRun) -> str:
        raise RuntimeError("internals")

    ended = await tasks.end_of(await tasks.start(refused))
    assert ended.status == "error"
    assert ended.user_error is not None
    assert ended.user_error.message == "The limit is reached."
    assert ended.user_error.name == "limitReached"

    ended = await tasks.end_of(await tasks.start(broken))
    assert ended.user_error is not None
    assert ended.user_error.message == "Unknown error"
    assert ended.user_error.name == "unknownError"
    assert ended.user_error.exception_id.startswith("keboola-stream-api-")
    assert ended.error == "internals"


@ensure
async def test_the_next_task_starts_after_the_end(
    tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watch may report the end of the task before etcd answers the node's write."""
    written, answered = Deferred[None](), Deferred[None]()

    put_and_unlock = tasks.client.put_and_unlock

    async def late(*arguments: Any) -> None:
        await put_and_unlock(*arguments)
        if not written.called:
            written.callback(None)
            await answered

    async def at_once(run: TaskRun) -> str:
        monkeypatch.setattr(tasks.client, "put_and_unlock", late)
        return "Done."

    first = await tasks.start(at_once)
    await written
    assert (await tasks.end_of(first)).result == "Done."
    second = ensureDeferred(tasks.start(at_once))
    assert not second.called
    answered.callback(None)
    assert (await tasks.end_of(await second)).result == "Done."


@ensure
async def test_a_late_end_keeps_the_lock_of_the_next_task(
    tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request without an answer may reach etcd when the next task of the object runs."""
    late: list[Any] = []
    gate: Deferred[str] = Deferred()
    call = tasks.client.call

    async def at_once(run: TaskRun) -> str:
        monkeypatch.setattr(tasks.client, "call", unanswered)
        return "Done."

    async def unanswered(method: str, body: Any, **options: Any) -> Any:
        if method != "kv/txn":
            return await call(method, body, **options)
        monkeypatch.setattr(tasks.client, "call", call)
        late.append((method, body))
        raise EtcdUnavailable("no answer within 10 s")

    async def slow(run: TaskRun) -> str:
        return await gate

    first = await tasks.start(at_once)
    await until(lambda: bool(late))
    tasks.clock.advance(1)
    assert (await tasks.end_of(first)).result == "Done."
    second = await tasks.start(slow)
    lock = await tasks.client.get(second.lock)
    await call(*late[0])
    assert lock is not None and await tasks.client.get(second.lock) == lock
    with pytest.raises(TaskAlreadyRunning):
        await attrs.evolve(tasks, executor=_other_node(tasks)).start(slow)
    gate.callback("Done.")
    assert (await tasks.end_of(second)).result == "Done."
    assert await tasks.client.get(second.lock) is None


def _other_node(tasks: Tasks) -> TaskExecutor:
    executor = TaskExecutor(tasks.clock, tasks.client, tasks.session, node_id="other-node")
    executor.startService()
    return executor


@ensure
async def test_a_failed_task_is_rolled_back(tasks: Tasks) -> None:
    """Rollbacks run in reverse order, and a failing one doesn't prevent the others."""
    undone: list[int] = []

    async def body(run: TaskRun) -> str:
        for number in range(3):

            async def undo(number: int = number) -> None:
                undone.append(number)
                if number == 1:
                    raise RuntimeError("cannot undo")

            run.on_failure(undo)
        raise UserError("no")

    await tasks.end_of(await tasks.start(body))
    assert undone == [2, 1, 0]


@ensure
async def test_a_task_has_a_time_limit(tasks: Tasks) -> None:
    """A task that doesn't end is cancelled after five minutes."""

    async def body(run: TaskRun) -> str:
        await Deferred()
        return "Never."

    task = await tasks.start(body)
    tasks.clock.advance(TASK_SECONDS)
    ended = await tasks.end_of(task)
    assert ended.error == "task timeout exceeded"
    assert ended.status == "error"


@ensure
async def test_stopping_waits_for_running_tasks(tasks: Tasks) -> None:
    """The executor stops after its last task, and accepts no new ones."""
    gate: Deferred[str] = Deferred()

    async def body(run: TaskRun) -> str:
        return await gate

    task = await tasks.start(body)
    stopping = tasks.executor.stopService()
    assert not stopping.called
    with pytest.raises(TooManyTasks):
        await tasks.start(body, f"{KEY}/other")
    gate.callback("Done.")
    await stopping
    assert (await tasks.store.get(123, task.task_id)).status == "success"


@ensure
async def test_tasks_of_one_project_leave_room(
    tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A project may run as many tasks as there is room for others, until one of its tasks ends."""
    monkeypatch.setattr(executor_module, "MAX_RUNNING", 4)
    gate: Deferred[str] = Deferred()

    async def body(run: TaskRun) -> str:
        return await gate

    running = [await tasks.start(body, f"{KEY}/{name}") for name in ("a", "b")]
    with pytest.raises(TooManyTasks, match="of this project"):
        await tasks.start(body, f"{KEY}/c")
    running.append(await tasks.start(body, "124/456/other", project=124))
    gate.callback("Done.")
    for task in running[:2]:
        await tasks.end_of(task)
    await tasks.end_of(await tasks.start(body, f"{KEY}/a"))
    await tasks.end_of(await tasks.start(body, f"{KEY}/c"))


@ensure
async def test_too_many_recorded_tasks(tasks: Tasks, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project with too many records of tasks can't start more, until some are deleted."""
    monkeypatch.setattr(executor_module, "MAX_RECORDED", 2)
    await tasks.store.listing.startService()
    executor = TaskExecutor(
        tasks.clock,
        tasks.client,
        tasks.session,
        node_id="other-node",
        recorded=tasks.store.listing.count,
    )
    executor.startService()
    others = attrs.evolve(tasks, executor=executor)

    async def body(run: TaskRun) -> str:
        return "Done."

    for name in ("a", "b"):
        await others.end_of(await others.start(body, f"{KEY}/{name}"))
    await tasks.store.newest(123, 456, "", limit=1)  # waits until all are known
    with pytest.raises(TooManyTasks, match="has 2 recorded tasks"):
        await others.start(body, f"{KEY}/c")
    await others.start(body, "124/456/other", project=124)
    deleted = (await tasks.client.range("task/123/", limit=1)).kvs[0].key
    await tasks.store.delete(deleted)
    while tasks.store.listing.count(123) > 1:
        await deferLater(reactor, 0.01)
    await others.end_of(await others.start(body, f"{KEY}/c"))
    await executor.stopService()
    await tasks.store.listing.stopService()


@ensure
async def test_tasks_of_other_projects(tasks: Tasks) -> None:
    """A task is only found in its own project."""

    async def body(run: TaskRun) -> str:
        return "Done."

    task = await tasks.start(body)
    await tasks.end_of(task)
    with pytest.raises(TaskNotFound, match=r'task "api\.create\.source/.*" not found'):
        await tasks.store.get(124, task.task_id)
