"""The list of tasks of a branch or a source: the newest first, page by page."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted

from stream.etcd import EtcdClient
from stream.task.entity import Task
from stream.values.codec import encode
from stream.values.utctime import parse_time
from tests.api.conftest import BRANCH, PROJECT, SINKS, SOURCE, SOURCES, Api, sink_body

ensure = pytest_twisted.ensureDeferred

TASKS = f"/v1/branches/{BRANCH}/tasks"
CREATED = parse_time("2026-01-02T03:04:05.000Z")


async def _types(api: Api, query: str = "") -> list[str]:
    answer = await api.get(f"{TASKS}{query}")
    return [task["type"] for task in answer["tasks"]]


@ensure
async def test_a_branch_without_tasks(api: Api) -> None:
    """The list of a branch without tasks is empty, and has no next page."""
    answer = await api.get(TASKS)
    assert answer["tasks"] == []
    assert answer["page"] == {"limit": 100, "totalCount": 0, "afterId": "", "lastId": ""}


@ensure
async def test_the_newest_come_first(api: Api) -> None:
    """The order doesn't depend on the author or type of a task."""
    await api.create_source()
    await api.create_sink()
    for change in ("disable", "enable"):
        await api.finish(await api.call("PUT", f"{SOURCE}/{change}"))
    expected = ["api.enable.source", "api.disable.source", "api.create.sink", "api.create.source"]
    assert await _types(api) == expected
    shown = (await api.get(f"{TASKS}?limit=1"))["tasks"][0]
    assert shown == await api.get(f"/v1/tasks/{shown['taskId']}")


@ensure
async def test_pages(api: Api) -> None:
    """Each page continues after the previous one, even if tasks are added meanwhile."""
    await api.create_source()
    await api.create_sink()
    first = await api.get(f"{TASKS}?limit=1")
    assert first["page"]["totalCount"] == 2
    await api.finish(await api.call("PUT", f"{SOURCE}/disable"))
    second = await api.get(f"{TASKS}?limit=1&afterId={first['page']['lastId']}")
    assert [task["type"] for task in second["tasks"]] == ["api.create.source"]
    third = await api.get(f"{TASKS}?limit=1&afterId={second['page']['lastId']}")
    assert third["tasks"] == []
    assert await _types(api, "?afterId=1") == []


@ensure
async def test_tasks_of_a_source(api: Api) -> None:
    """The list contains the tasks of the source and its sinks, not of a source whose id has the
    same prefix.
    """
    await api.create_source()
    await api.create_sink()
    body = {"type": "http", "name": "Other", "sourceId": "my-source-2"}
    await api.finish(await api.call("POST", SOURCES, body))
    assert await _types(api, "?sourceId=my-source") == ["api.create.sink", "api.create.source"]
    assert await _types(api, "?sourceId=my-source-2") == ["api.create.source"]
    assert await _types(api, "?sourceId=my") == []


@ensure
async def test_failed_tasks_have_their_error(api: Api) -> None:
    """A task that fails stays in the list with its error."""
    await api.create_source()
    await api.create_sink()
    other = sink_body() | {"sinkId": "second"}
    other["table"]["mapping"]["columns"] = [{"type": "body", "name": "another"}]
    await api.call("POST", f"{SINKS}?wait=10s", other)
    newest = (await api.get(f"{TASKS}?limit=1"))["tasks"][0]
    assert (newest["type"], newest["status"]) == ("api.create.sink", "error")
    assert newest["error"]


def _task(ending: str, **members: Any) -> Task:
    type = "api.replay.rejectedRecords"
    name = f"{type}/{BRANCH}/s/k/2026-01-02T03:04:05.000Z_{ending}"
    return Task(project_id=PROJECT, task_id=name, type=type, created_at=CREATED, **members)


async def _put(etcd: EtcdClient, task: Task, value: bytes = b"") -> None:
    await etcd.put(task.key, value or encode(task))


@ensure
async def test_long_results_are_left_out(api: Api) -> None:
    """The list leaves out the records of a replay, which only the task itself shows."""
    results = [{"id": "1", "stored": True}]
    task = _task("aaaaa", outputs={"stored": 1, "results": results}, finished_at=CREATED)
    await _put(api.etcd, task)
    listed = (await api.get(TASKS))["tasks"][0]
    assert listed["outputs"] == {"stored": 1}
    assert (await api.get(f"/v1/tasks/{task.task_id}"))["outputs"]["results"] == results


@ensure
async def test_a_task_of_a_dead_node(api: Api) -> None:
    """A task of a dead node is shown as failed in the list and on its own."""
    task = _task("bbbbb", lock="runtime/lock/task/123/456/s/k", node="gone")
    await _put(api.etcd, task)
    assert (await api.get(TASKS))["tasks"][0]["status"] == "error"


@ensure
async def test_invalid_records(api: Api) -> None:
    """Tasks whose record can't be parsed are left out; the others are shown."""
    await api.create_source()
    await _put(api.etcd, _task("ccccc"), b"{")
    assert await _types(api) == ["api.create.source"]


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=101", "limit=x", "afterId=x", "afterId=-1", f"sourceId={'x' * 49}"]
)
@ensure
async def test_invalid_parameters(api: Api, query: str) -> None:
    """Invalid parameters are refused with 400."""
    assert (await api.call("GET", f"{TASKS}?{query}")).status == 400


@ensure
async def test_only_records_of_the_page_are_read(
    api: Api, etcd: EtcdClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The work for a page doesn't grow with the number of tasks."""
    for number in range(30):
        task = _task(f"{number:05d}", finished_at=CREATED)
        await _put(api.etcd, task)
    asked: list[int] = []
    get_many = EtcdClient.get_many

    async def counted(client: EtcdClient, keys: Any, **options: Any) -> Any:
        asked.append(len(keys))
        return await get_many(client, keys, **options)

    monkeypatch.setattr(EtcdClient, "get_many", counted)
    answer = await api.get(f"{TASKS}?limit=3")
    assert [len(answer["tasks"]), answer["page"]["totalCount"]] == [3, 30]
    assert max(asked) == 3
