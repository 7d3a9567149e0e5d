"""Damaged, incomplete and newer records in etcd: the other records are still shown."""

from __future__ import annotations

import json
from typing import Any

import pytest_twisted

from stream.api.spec.operations import OPERATIONS
from stream.etcd import EtcdClient
from stream.task.entity import TASK_PREFIX
from tests.api.conftest import (
    BRANCH,
    SINK,
    SINKS,
    SOURCE,
    SOURCES,
    Api,
    OwnProjects,
    Reply,
    sink_body,
)

ensure = pytest_twisted.ensureDeferred

AGGREGATION = f"/v1/branches/{BRANCH}/aggregation/sources"
DAMAGES = (b"{", b"{}", b"[1]")
STREAMS = {"LiveBranch", "TailSource"}
LARGE = [
    {"type": "path", "name": f"column-{number}", "path": f"a.{'b' * 40}[{number}]"}
    for number in range(60)
]


def _paths(values: dict[str, Any]) -> list[str]:
    """Return all requests that read a project's objects."""
    return [
        operation.path.replace("{*", "{").format(**values)
        for operation in OPERATIONS.values()
        if operation.method == "GET"
        and operation.id not in STREAMS
        and operation.path.startswith("/v1/")
        and "documentation" not in operation.path
    ]


async def _settle(api: Api, task_id: str) -> None:
    """Wait until the API has the state of etcd, as after the end of a task."""
    reply = await api.call("GET", f"/v1/tasks/{task_id}")
    assert reply.status in (200, 409), reply


def _is_precise(reply: Reply) -> bool:
    return reply.status < 500 or reply.json["error"] in (
        "stream.api.previewNotSupported",
        "stream.api.serviceUnavailable",
    )


async def _keys(etcd: EtcdClient) -> list[Any]:
    found = (await etcd.range("")).kvs
    return [kv for kv in found if kv.key.startswith(("definition/", "storage/", TASK_PREFIX))]


@ensure
async def test_no_answer_is_500(api: Api) -> None:
    """Each request works or names the error, whichever record is damaged in whichever way."""
    await api.create_source()
    await api.run("POST", SOURCES, {"type": "otlp", "name": "Gone"})
    await api.run("DELETE", f"{SOURCES}/gone")
    task = await api.run("POST", SINKS, sink_body())
    table = {"type": "keboola", "tableId": "in.c-b.large", "mapping": {"columns": LARGE}}
    await api.run("POST", SINKS, sink_body(name="Large", table=table))
    await api.run("DELETE", f"{SINKS}/large")
    values = {
        "branchId": BRANCH,
        "sourceId": "my-source",
        "sinkId": "my-sink",
        "versionNumber": 1,
        "taskId": task["taskId"],
        "rejectedId": "none",
    }
    paths = [
        *_paths(values),
        f"{SINK}/versions/1?content=true",
        f"{SOURCE}/versions/1?content=true",
    ]
    stored = await _keys(api.etcd)
    assert {kv.key.split("/")[0] for kv in stored} == {"definition", "storage", "task"}
    refused: set[str] = set()
    for number, kv in enumerate(stored):
        await api.etcd.put(kv.key, DAMAGES[number % len(DAMAGES)])
        await _settle(api, task["taskId"])
        for path in paths:
            reply = await api.call("GET", path)
            assert _is_precise(reply), (kv.key, path, reply)
            if reply.status == 409:
                assert kv.key in reply.json["message"]
                assert "check-takeover" in reply.json["detail"]
                refused.add(path)
        await api.etcd.put(kv.key, kv.value)
    assert {SOURCE, SINK, f"/v1/tasks/{task['taskId']}"} <= refused
    assert not {SOURCES, f"{SOURCES}/deleted", AGGREGATION} & refused


@ensure
async def test_a_list_omits_invalid_records(api: Api) -> None:
    """The list contains the other sources, and the next page starts after the damaged one."""
    for name in ("A", "B", "C"):
        task = await api.run("POST", SOURCES, {"type": "http", "name": name})
    await api.etcd.put(f"definition/source/active/123/{BRANCH}/b", b"{")
    for path in (SOURCES, AGGREGATION):
        await _settle(api, task["taskId"])
        shown = await api.get(path)
        assert [source["sourceId"] for source in shown["sources"]] == ["a", "c"]
        page = await api.get(f"{path}?limit=1&afterId=a")
        assert page["sources"] == []
        assert page["page"]["lastId"] == "b"
    reply = await api.call("GET", f"{SOURCES}/b")
    assert (reply.status, reply.json["error"]) == (409, "stream.api.unreadableRecord")


@ensure
async def test_incomplete_records(api: Api) -> None:
    """A source and a sink without a part are listed, but requests for them fail."""
    await api.create_source()
    task = await api.run("POST", SINKS, sink_body())
    for kind, key, drop in (
        ("source", f"123/{BRANCH}/my-source", lambda plain: plain.pop("http")),
        ("sink", f"123/{BRANCH}/my-source/my-sink", lambda plain: plain["table"].pop("keboola")),
    ):
        for path in (
            f"definition/{kind}/active/{key}",
            f"definition/{kind}/version/{key}/0000000001",
        ):
            stored = await api.etcd.get(path)
            assert stored is not None
            plain = json.loads(stored.value)
            drop(plain)
            await api.etcd.put(path, json.dumps(plain).encode())
    await _settle(api, task["taskId"])
    [source] = (await api.get(SOURCES))["sources"]
    assert (source["name"], "http" in source) == ("My Source", False)
    [sink] = (await api.get(SINKS))["sinks"]
    assert (sink["name"], sorted(sink["table"])) == ("My Sink", ["mapping", "type"])
    [both] = (await api.get(AGGREGATION))["sources"]
    assert [each["sinkId"] for each in both["sinks"]] == ["my-sink"]
    assert (await api.get(f"{SINK}/versions/1?content=true"))["content"]["table"][
        "type"
    ] == "keboola"
    for path, missing in ((SOURCE, '"http"'), (SINK, '"table.keboola"')):
        reply = await api.call("GET", path)
        assert (reply.status, reply.json["error"]) == (409, "stream.api.unreadableRecord")
        assert missing in reply.json["message"]
    failed = await api.finish(await api.call("PATCH", SINK, {"name": "Other"}))
    assert "table.keboola" in failed["error"]
    await api.run("DELETE", SOURCE)


@ensure
async def test_damaged_records_of_managed_projects(own: OwnProjects) -> None:
    """Branches and tokens with a valid record are listed."""
    (node, _), (_, token) = own.nodes, await own.token("admin")
    headers = {"Authorization": f"Bearer {token}"}
    for name in ("b1", "b2"):
        reply = await node.call("POST", "/v1/branches", {"name": name}, token=token)
        assert reply.status < 300, reply
    other, _ = await own.token("read")
    stored = (await node.etcd.range("")).kvs
    for kv in stored:
        if kv.key.startswith("definition/branch/active/") and b'"b1"' in kv.value:
            await node.etcd.put(kv.key, b"{")
        elif other in kv.key:
            await node.etcd.put(kv.key, b"{}")
    for path, member, count in (("/v1/branches", "branches", 2), ("/v1/tokens", "tokens", 1)):
        reply = await node.call("GET", path, token=None, headers=headers)
        assert reply.status == 200, reply
        assert len(reply.json[member]) == count, reply
