from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, gatherResults

from stream.api.resources.tables import check_table_id
from stream.definition.mappings import MAX_MAPPING_BYTES
from stream.errors import UserError
from stream.mapping.columns import MAX_COLUMNS, MAX_TEMPLATE_CHARACTERS
from tests.api.conftest import SINK, SINKS, SOURCE, SOURCES, Api, sink_body

ensure = pytest_twisted.ensureDeferred


def table(*columns: dict[str, Any], table_id: str = "in.c-my-bucket.my-table") -> dict[str, Any]:
    return {"type": "keboola", "tableId": table_id, "mapping": {"columns": list(columns)}}


@ensure
async def test_create_and_get(api: Api) -> None:
    """A created sink has an open file, and each column shows only its own members."""
    await api.create_source()
    columns: list[dict[str, Any]] = [
        {"type": "uuid", "name": "id", "path": "dropped", "primaryKey": True},
        {"type": "path", "name": "a", "path": "x.y", "defaultValue": ""},
        {"type": "path", "name": "b", "path": "x[0]", "rawString": True},
        {
            "type": "template",
            "name": "c",
            "template": {"language": "jsonnet", "content": "Body('x')"},
        },
    ]
    task = await api.finish(await api.call("POST", SINKS, sink_body(table=table(*columns))))
    assert task["result"] == "Sink has been created successfully."
    assert task["outputs"]["sinkId"] == "my-sink"
    assert task["outputs"]["url"] == f"https://stream.target.keboola.local{SINK}"
    sink = await api.get(SINK)
    assert list(sink) == [
        *("projectId", "branchId", "sourceId", "sinkId", "type", "name", "description"),
        *("table", "version", "created"),
    ]
    assert sink["table"]["mapping"]["columns"] == [
        {"type": "uuid", "name": "id", "primaryKey": True},
        {"type": "path", "name": "a", "path": "x.y", "defaultValue": "", "rawString": False},
        {"type": "path", "name": "b", "path": "x[0]", "rawString": True},
        {
            "type": "template",
            "name": "c",
            "rawString": False,
            "template": {"language": "jsonnet", "content": "Body('x')"},
        },
    ]
    files = await api.etcd.range("storage/file/level/local/123/456/my-source/my-sink/")
    assert files.count == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"table": None}, '"table" must be configured for the "table" sink type.'),
        ({"table": table({"type": "path", "name": "c"})}, 'Column "c" is missing path.'),
        ({"table": table({"type": "template", "name": "c"})}, 'Column "c" is missing template.'),
        (
            {
                "table": table(
                    {
                        "type": "template",
                        "name": "jsonnet",
                        "template": {"language": "jsonnet", "content": "Invalid"},
                    }
                )
            },
            'Column "jsonnet" template is invalid: 1:1-8 Unknown variable: Invalid.',
        ),
        (
            {"table": table({"type": "uuid", "name": "c"}, table_id="foo")},
            'Invalid "tableId" value "foo": invalid table ID "foo": '
            "unexpected number of fragments.",
        ),
        ({"sinkId": "??"}, '"sinkId" must not be empty.'),
    ],
)
@ensure
async def test_content_is_checked_first(api: Api, changes: dict[str, Any], message: str) -> None:
    """An invalid sink of an unknown source is refused because it is invalid."""
    reply = await api.call("POST", SINKS, sink_body(**changes))
    assert (reply.status, reply.json["error"], reply.json["message"]) == (
        400,
        "stream.api.badRequest",
        message,
    )


@ensure
async def test_a_sink_needs_a_source_and_a_unique_id(api: Api) -> None:
    """An unknown source and an id that is taken are refused."""
    reply = await api.call("POST", SINKS, sink_body())
    assert (reply.status, reply.json["error"]) == (404, "stream.api.sourceNotFound")
    await api.create_source()
    await api.create_sink()
    reply = await api.call("POST", SINKS, sink_body())
    assert (reply.status, reply.json["message"]) == (
        409,
        'Sink "my-sink" already exists in the source.',
    )


@ensure
async def test_simultaneous_creations(api: Api) -> None:
    """A second creation at the same time is refused with the whole key."""
    await api.create_source()
    first = await api.call("POST", SINKS, sink_body())
    second = await api.call("POST", SINKS, sink_body())
    assert (second.status, second.json["message"]) == (
        409,
        'Sink "123/456/my-source/my-sink" already exists in the source.',
    )
    assert (await api.finish(first))["status"] == "success"


@ensure
async def test_parallel_creations(api: Api) -> None:
    """Several sinks of one source can be created at the same time."""
    await api.create_source()
    await gatherResults(
        [Deferred.fromCoroutine(api.create_sink(name=f"Sink {number}")) for number in range(3)]
    )
    assert (await api.get(SINKS))["page"]["totalCount"] == 3


@ensure
async def test_an_update_changes_only_given_members(api: Api) -> None:
    """Only given members change; a table without an id keeps the one it has."""
    await api.create_source()
    await api.create_sink(allowedSignals=["logs"])
    await api.run("PATCH", SINK, {"name": "Other", "changeDescription": "Renamed."})
    sink = await api.get(SINK)
    assert (sink["name"], sink["allowedSignals"]) == ("Other", ["logs"])
    assert sink["version"]["description"] == "Renamed."
    mapping = {"columns": [{"type": "uuid", "name": "id"}, {"type": "body", "name": "body"}]}
    await api.run("PATCH", SINK, {"allowedSignals": [], "table": {"mapping": mapping}})
    sink = await api.get(SINK)
    assert "allowedSignals" not in sink
    assert sink["table"]["tableId"] == "in.c-my-bucket.my-table"
    # The existence of the source isn't checked here.
    reply = await api.call("PATCH", f"{SOURCES}/other/sinks/my-sink", {})
    assert (reply.status, reply.json["error"]) == (404, "stream.api.sinkNotFound")


@ensure
async def test_a_table_with_other_columns(api: Api) -> None:
    """The task reports how the existing table differs, and nothing changes."""
    await api.create_source()
    await api.create_sink()
    reply = await api.call("PATCH", SINK, {"table": table({"type": "uuid", "name": "id"})})
    task = await api.finish(reply)
    assert task["status"] == "error"
    assert task["error"] == (
        'Columns of the table "in.c-my-bucket.my-table" do not match expected ["id"], '
        'found ["id","body"]'
    )
    assert (await api.get(SINK))["version"]["number"] == 1


@ensure
async def test_lists_and_deletion(api: Api) -> None:
    """A deleted sink moves to the list of deleted ones, and back when it is undeleted."""
    await api.create_source()
    await api.create_sink()
    task = await api.run("DELETE", SINK)
    assert task["result"] == "Sink has been deleted successfully."
    assert (await api.get(SINKS))["sinks"] == []
    deleted = await api.get(f"{SINKS}/deleted")
    assert list(deleted) == ["projectId", "branchId", "sourceId", "page", "sinks"]
    assert [sink["sinkId"] for sink in deleted["sinks"]] == ["my-sink"]
    assert (await api.call("DELETE", SINK)).json["error"] == "stream.api.sinkNotFound"
    task = await api.run("PUT", f"{SINK}/undelete")
    assert task["result"] == "Sink has been undeleted successfully."
    assert (await api.get(SINK))["version"]["number"] == 2
    reply = await api.call("PUT", f"{SINK}/undelete")
    assert (reply.status, reply.json["message"]) == (
        404,
        'Deleted sink "my-sink" not found in the source.',
    )


@ensure
async def test_disable_and_enable(api: Api) -> None:
    """Disabling a sink closes its file, and enabling it opens another."""
    await api.create_source()
    await api.create_sink()
    task = await api.run("PUT", f"{SINK}/disable")
    assert task["result"] == "Sink has been disabled successfully."
    assert (await api.get(SINK))["disabled"]["reason"] == "API"
    task = await api.run("PUT", f"{SINK}/enable")
    assert task["result"] == "Sink has been enabled successfully."
    assert "disabled" not in await api.get(SINK)
    files = (await api.get(f"{SINK}/statistics/files"))["files"]
    assert [file["state"] for file in files] == ["closing", "writing"]


@ensure
async def test_the_source_is_checked_first(api: Api) -> None:
    """Every route of a sink reports an unknown source first."""
    for method, path in (
        ("GET", SINK),
        ("DELETE", SINK),
        ("PUT", f"{SINK}/disable"),
        ("PUT", f"{SINK}/undelete"),
        ("GET", f"{SINK}/versions/1"),
        ("GET", f"{SINK}/statistics/total"),
        ("DELETE", f"{SOURCE}/statistics/clear"),
    ):
        reply = await api.call(method, path)
        assert (reply.status, reply.json["error"]) == (404, "stream.api.sourceNotFound"), path


def test_table_ids() -> None:
    """The id of a table consists of a stage, a bucket and a name."""
    check_table_id("in.c-bucket.table")
    for text in ("in.c-bucket", "in.c-bucket.table.x", "foo.c-bucket.table", "in..table", "in.b."):
        with pytest.raises(UserError, match="invalid table ID"):
            check_table_id(text)


def _templates(count: int, content: str) -> list[dict[str, Any]]:
    return [
        {
            "type": "template",
            "name": f"c{number:03}",
            "template": {"language": "jsonnet", "content": content},
        }
        for number in range(count)
    ]


@ensure
async def test_the_largest_sink(api: Api) -> None:
    """A sink at the documented limits can be created, shown, listed, changed and rolled back."""
    await api.create_source()
    columns = _templates(MAX_COLUMNS, f"'{'x' * (MAX_TEMPLATE_CHARACTERS - 2)}'")
    await api.create_sink(table=table(*columns))
    for sink in (await api.get(SINK), (await api.get(SINKS))["sinks"][0]):
        assert sink["table"]["mapping"]["columns"] == [
            {"type": c["type"], "name": c["name"], "rawString": False, "template": c["template"]}
            for c in columns
        ]
    await api.run("PATCH", SINK, {"name": "Other"})
    await api.run("PUT", f"{SINK}/versions/1/rollback")
    assert (await api.get(f"{SINK}/versions"))["page"]["totalCount"] == 3
    assert (await api.etcd.range("storage/mapping/", keys_only=True)).count == 1
    await api.run("PUT", f"{SOURCE}/disable")
    await api.run("PUT", f"{SOURCE}/enable")
    task = await api.run("DELETE", f"{SOURCE}?cascade=true")
    assert "have been deleted" in task["result"]


@ensure
async def test_a_mapping_that_is_too_large(api: Api) -> None:
    """A mapping whose JSON is too large because of escapes is refused with its size, before any
    task.
    """
    await api.create_source()
    content = '"x"' + "\n" * (MAX_TEMPLATE_CHARACTERS - 3)
    body = sink_body(table=table(*_templates(MAX_COLUMNS, content)))
    await api.create_sink()
    for method, path in (("POST", SINKS), ("PATCH", SINK)):
        sent = body | {"sinkId": "other"} if method == "POST" else {"table": body["table"]}
        reply = await api.call(method, path, sent)
        assert reply.status == 400, reply
        assert reply.json["error"] == "stream.api.mappingTooLarge"
        assert f"the limit is {MAX_MAPPING_BYTES} bytes" in reply.json["message"]
        assert reply.json["param"] == "body.table.mapping"
        assert "distribute" in reply.json["detail"]
    fits = table(*_templates(60, content), table_id="in.c-my-bucket.other")
    await api.create_sink(name="Other", table=fits)
