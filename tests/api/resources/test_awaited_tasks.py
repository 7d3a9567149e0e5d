"""Callers that wait for tasks with `Prefer: wait`."""

from __future__ import annotations

from typing import Any, cast

import attrs
import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from stream.api.resources.awaited_tasks import Arrivals
from stream.api.spec.operation import MAX_WAIT_SECONDS
from stream.api.spec.operations import OPERATIONS
from stream.definition.key import SourceKey
from stream.task import ends
from stream.task.entity import Task
from stream.values.utctime import from_timestamp
from tests.api.conftest import SINK, SINKS, SOURCE, SOURCES, Api, Reply, sink_body
from tests.api.spec.test_openapi import assert_as_declared

ensure = pytest_twisted.ensureDeferred

WAIT = {"Prefer": "wait=20"}
NEW_SOURCE = {"type": "http", "name": "My Source"}


async def waited(api: Api, method: str, path: str, body: Any = None, status: int = 200) -> Any:
    """Return the answer to a waiting caller."""
    reply = await api.call(method, path, body, headers=WAIT)
    assert (reply.status, reply.header("Preference-Applied")) == (status, "wait=20"), reply
    return reply.json


@ensure
async def test_creations_are_answered_with_the_object(api: Api) -> None:
    """A creation is answered with 201, the location and the object, which the next request
    finds.
    """
    source = await api.call("POST", SOURCES, NEW_SOURCE, headers=WAIT)
    shown = await api.call("GET", SOURCE)
    assert (source.status, source.body) == (201, shown.body)
    assert source.header("Location") == f"https://stream.target.keboola.local{SOURCE}"
    assert source.header("Preference-Applied") == "wait=20"
    sink = await api.call("POST", SINKS, sink_body(), headers=WAIT)
    assert (sink.status, sink.json) == (201, await api.get(SINK))
    assert sink.header("Location") == f"https://stream.target.keboola.local{SINK}"


@ensure
async def test_changes_are_answered_with_the_object(api: Api) -> None:
    """A change is answered with 200 and the new object; a deletion is answered with the task."""
    await waited(api, "POST", SOURCES, NEW_SOURCE, 201)
    await waited(api, "POST", SINKS, sink_body(), 201)
    assert (await waited(api, "PATCH", SOURCE, {"name": "Other"}))["name"] == "Other"
    assert (await waited(api, "PATCH", SINK, {"name": "Other"}))["name"] == "Other"
    key = "storage.level.target.import.trigger.interval"
    patch = {"settings": [{"key": key, "value": "30s"}]}
    for of in (SOURCE, SINK):
        found = await waited(api, "PATCH", f"{of}/settings", patch)
        assert {"key": key, "value": "30s"}.items() <= next(
            item.items() for item in found["settings"] if item["key"] == key
        )
        assert (await waited(api, "PUT", f"{of}/versions/1/rollback"))["version"]["number"] == 4
        assert "disabled" in await waited(api, "PUT", f"{of}/disable")
        assert "disabled" not in await waited(api, "PUT", f"{of}/enable")
    for of in (SINK, SOURCE):
        task = await waited(api, "DELETE", of)
        assert (task["status"], task["type"]) in {
            ("success", "api.delete.sink"),
            ("success", "api.delete.source"),
        }
    for of in (SOURCE, SINK):
        assert "deleted" not in await waited(api, "PUT", f"{of}/undelete")


def test_every_task_can_be_waited_for() -> None:
    """The description of each operation that starts a task has the answer to a waiting caller."""
    for operation in OPERATIONS.values():
        assert operation.waits == bool(operation.task) or operation.id == "GetTask"
        if operation.task:
            assert operation.outcome is not None
            assert operation.outcome.shows in {*OPERATIONS, ""}
            shown = OPERATIONS.get(operation.outcome.shows)
            assert shown is None or shown.result == operation.outcome.result


@ensure
async def test_the_error_of_the_task(api: Api) -> None:
    """The error of the task is the answer, with its own status; the task has it too."""
    await api.create_source()
    await api.create_sink()
    columns = [{"type": "ip", "name": "other", "primaryKey": True}]
    table = sink_body()["table"] | {"mapping": {"columns": columns}}
    body = sink_body(name="Other Sink", table=table)
    reply = await api.call("POST", SINKS, body, headers=WAIT)
    task = await api.finish(await api.call("POST", SINKS, body))
    assert reply.status == 400, reply
    assert reply.json["message"] == task["error"]
    assert reply.json["statusCode"] == 400
    assert reply.json["exceptionId"]
    assert reply.header("Location") is None


@ensure
async def test_a_defect_in_the_task(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A defect in the task gets the answer of other defects, with the id of its log event."""

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("inside")

    monkeypatch.setattr("stream.definition.change.making.DefinitionChanges.make", broken)
    reply = await api.call("POST", SOURCES, NEW_SOURCE, headers=WAIT)
    assert (reply.status, reply.json["error"]) == (500, "stream.api.panicError")
    assert reply.json["exceptionId"] in reply.json["message"]
    assert "inside" not in reply.json["message"]


@ensure
async def test_without_waiting(api: Api) -> None:
    """A caller that doesn't wait gets 202 and the task."""
    for query, headers in (("", {}), ("?wait=", {}), ("?wait=0s", WAIT), ("", {"Prefer": "x"})):
        reply = await api.call("POST", f"{SOURCES}{query}", NEW_SOURCE, headers=headers)
        assert reply.header("Preference-Applied") is None
        assert reply.header("Location") is None
        await api.finish(reply)
        await api.run("DELETE", SOURCE)


@ensure
async def test_the_wait_times_out(api: Api) -> None:
    """After the time limit the caller gets the task, and can wait for it again."""
    await api.create_source()
    reply = await api.call("POST", f"{SINKS}?wait=1us", sink_body())
    assert (reply.status, reply.json["status"]) == (202, "processing")
    task = await api.get(f"/v1/tasks/{reply.json['taskId']}?wait=20s")
    assert (task["status"], task["outputs"]["sinkId"]) == ("success", "my-sink")
    result = OPERATIONS["GetTask"].result
    assert result is not None
    assert_as_declared(task, result, "GetTask")


@pytest.mark.parametrize(
    ("wait", "name"),
    [
        ("10", "invalidFieldType"),
        ("ten", "invalidFieldType"),
        ("-1s", "invalidRange"),
        (f"{MAX_WAIT_SECONDS + 1}s", "invalidRange"),
    ],
)
@ensure
async def test_an_invalid_wait(api: Api, wait: str, name: str) -> None:
    """An invalid wait is refused before the task starts."""
    reply = await api.call("POST", f"{SOURCES}?wait={wait}", NEW_SOURCE)
    assert (reply.status, reply.json["error"]) == (400, f"stream.api.{name}")
    assert (await api.call("GET", SOURCE)).status == 404


@ensure
async def test_unknown_members(api: Api) -> None:
    """The object comes with the warning that the task would have."""
    reply = await api.call("POST", SOURCES, NEW_SOURCE | {"nmae": "x"}, headers=WAIT)
    source = reply.json
    [warning] = source.pop("warnings")
    assert warning["param"] == "body.nmae"
    assert source == await api.get(SOURCE)
    reply = await api.call("DELETE", SOURCE, headers=WAIT)
    assert reply.json["isFinished"]


@ensure
async def test_too_many_callers_wait(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the limit, callers are answered immediately, as without waiting."""
    monkeypatch.setattr(ends, "MAX_WAITING", 0)
    reply = await api.call("POST", SOURCES, NEW_SOURCE, headers=WAIT)
    assert reply.header("Preference-Applied") is None
    await api.finish(reply)


@ensure
async def test_many_callers_wait(api: Api) -> None:
    """Each caller gets the answer to its own change."""
    names = [f"source-{number}" for number in range(20)]
    calls: list[Deferred[Reply]] = [
        Deferred.fromCoroutine(api.call("POST", f"{SOURCES}?wait=20s", NEW_SOURCE | {"name": name}))
        for name in names
    ]
    assert [(await call).json["sourceId"] for call in calls] == names


class _Memory:
    """A memory of definitions that notes for which sources it was waited."""

    def __init__(self) -> None:
        self.is_late = False
        self.settled: list[SourceKey] = []

    async def settle(self, source: SourceKey) -> None:
        self.settled.append(source)


@ensure
async def test_tasks_whose_changes_are_waited_for() -> None:
    """A task of this node has waited for its change before its end, but not without limit."""
    memory = _Memory()
    arrivals = Arrivals(cast(Any, memory), "this-node")
    task = Task(
        project_id=123,
        task_id="api.update.sink/456/s/k/x",
        type="api.update.sink",
        created_at=from_timestamp(0),
        node="this-node",
        lock="runtime/lock/task/123/456/s/k",
    )
    await arrivals.of(task)
    assert memory.settled == []
    await arrivals.of(attrs.evolve(task, node="other-node"))
    assert memory.settled == [SourceKey(123, 456, "s")]
    memory.is_late = True
    await arrivals.of(task)
    await arrivals.of(attrs.evolve(task, lock=""))
    assert memory.settled == [SourceKey(123, 456, "s")] * 2
