from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.defer import ensureDeferred

from stream.sandbox import SandboxService
from tests.sandbox.api import BUCKET, TABLE, Api
from tests.waiting import until


def columns_on_disk(service: SandboxService, table: str) -> list[tuple[str, str, int]]:
    data = sqlite3.connect(service.data_path)
    try:
        found = data.execute("SELECT name, type, pk FROM pragma_table_info(?)", (table,)).fetchall()
    finally:
        data.close()
    return found


@pytest_twisted.ensureDeferred
async def test_a_bucket(api: Api) -> None:
    """A bucket is created once, found, and deleted by a job."""
    missing = await api.branch("GET", f"buckets/{BUCKET}")
    assert (missing.status, missing.json["code"]) == (404, "storage.buckets.notFound")
    body = {"description": "", "stage": "in", "name": "events"}
    made = await api.branch("POST", "buckets", body)
    assert (made.status, made.json["id"]) == (201, BUCKET)
    twice = await api.branch("POST", "buckets", body)
    assert (twice.status, twice.json["code"]) == (400, "storage.buckets.alreadyExists")
    found = await api.branch("GET", f"buckets/{BUCKET}")
    assert found.status == 200 and found.json["id"] == BUCKET
    job = await api.done(await api.branch("DELETE", f"buckets/{BUCKET}?async=1"))
    assert job["status"] == "success"
    assert (await api.branch("GET", f"buckets/{BUCKET}")).status == 404
    assert (await api.branch("DELETE", f"buckets/{BUCKET}?async=1")).status == 404


@pytest.mark.parametrize(
    "body",
    [
        {"stage": "up", "name": "a"},
        {"stage": "in", "name": "a.b"},
        {"stage": "in", "name": ""},
        {"stage": "in", "name": "x" * 95},
        {"stage": "in", "name": 5},
        {"stage": "in"},
        ["in"],
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_bucket_needs_a_stage_and_a_name(api: Api, body: object) -> None:
    """A body that isn't a bucket is a 400."""
    answer = await api.branch("POST", "buckets", body)
    assert (answer.status, answer.json["code"]) == (400, "storage.validation")


@pytest_twisted.ensureDeferred
async def test_names_that_differ_only_in_case(api: Api) -> None:
    """A name that differs from another only in case is refused, because SQLite ignores case."""
    await api.bucket()
    answer = await api.branch("POST", "buckets", {"stage": "in", "name": "EVENTS"})
    assert answer.json["code"] == "storage.buckets.alreadyExists"
    await api.table()
    definition = {"name": "CLICKS", "columns": [{"name": "a"}]}
    answer = await api.branch("POST", f"buckets/{BUCKET}/tables-definition", definition)
    assert answer.json["code"] == "storage.tables.alreadyExists"
    assert (await api.branch("GET", "tables/in.c-events.CLICKS")).status == 404


@pytest_twisted.ensureDeferred
async def test_a_table(api: Api, service: SandboxService) -> None:
    """A job creates a table with the declared columns in both databases; a table is deleted at
    once.
    """
    await api.bucket()
    missing = await api.branch("GET", f"tables/{TABLE}")
    assert (missing.status, missing.json["code"]) == (404, "storage.tables.notFound")
    job = await api.table(columns=["b", 'a"; --', "č"], key=["č", "b"])
    assert job["operationName"] == "tableCreate"
    assert job["results"]["columns"] == ["b", 'a"; --', "č"]
    assert job["results"]["primaryKey"] == ["č", "b"]
    table = (await api.branch("GET", f"tables/{TABLE}")).json
    assert (table["id"], table["name"]) == (TABLE, "clicks")
    assert table["columns"] == ["b", 'a"; --', "č"] and table["primaryKey"] == ["č", "b"]
    assert table["rowsCount"] == 0 and table["metadata"] == []
    assert table["bucket"]["id"] == BUCKET
    assert columns_on_disk(service, TABLE) == [
        ("b", "TEXT", 2),
        ('a"; --', "TEXT", 0),
        ("č", "TEXT", 1),
    ]
    assert (await api.branch("DELETE", f"tables/{TABLE}?force=true")).status == 204
    assert (await api.branch("GET", f"tables/{TABLE}")).status == 404
    assert (await api.branch("DELETE", f"tables/{TABLE}")).status == 404
    assert columns_on_disk(service, TABLE) == []


@pytest_twisted.ensureDeferred
async def test_a_table_without_a_primary_key(api: Api) -> None:
    """``primaryKey`` is an empty list."""
    await api.bucket()
    assert (await api.table())["results"]["primaryKey"] == []


@pytest_twisted.ensureDeferred
async def test_two_requests_for_one_table(api: Api) -> None:
    """One of two jobs that create the same table succeeds, and the table stays intact."""
    await api.bucket()
    definition = {"name": "clicks", "columns": [{"name": "a"}]}
    path = f"buckets/{BUCKET}/tables-definition"
    answers = [ensureDeferred(api.branch("POST", path, definition)) for _ in range(3)]
    statuses = []
    for answer in answers:
        reply = await answer
        if reply.status == 202:
            statuses.append((await api.done(reply))["status"])
    assert statuses.count("success") == 1
    assert (await api.branch("GET", f"tables/{TABLE}/data-preview")).text == '"a"\n'


@pytest.mark.parametrize(
    "change",
    [
        {"name": "a.b"},
        {"name": None},
        {"columns": []},
        {"columns": [{"name": "a"}, {"name": "A"}]},
        {"columns": [{"name": "a\0"}]},
        {"columns": [{"name": "x" * 129}]},
        {"columns": [{"name": f"c{n}"} for n in range(2001)]},
        {"columns": ["a"]},
        {"primaryKeysNames": ["b"]},
        {"primaryKeysNames": ["a", "a"]},
    ],
)
@pytest_twisted.ensureDeferred
async def test_an_invalid_definition_is_refused(api: Api, change: dict[str, object]) -> None:
    """Invalid names, duplicate columns and keys that aren't columns are a 400."""
    await api.bucket()
    definition = {"name": "clicks", "columns": [{"name": "a"}], **change}
    answer = await api.branch("POST", f"buckets/{BUCKET}/tables-definition", definition)
    assert (answer.status, answer.json["code"]) == (400, "storage.validation")


@pytest_twisted.ensureDeferred
async def test_the_maximum_number_of_columns(api: Api, tmp_path: Path) -> None:
    """A table with the maximum number of columns can be created and loaded."""
    columns = [f"c{n}" for n in range(2000)]
    await api.bucket()
    await api.table(columns=columns)
    row = (",".join(f'"{n}"' for n in range(2000)) + "\n").encode()
    job = await api.done(await api.load(await api.stage({"a": row * 3}), columns=columns))
    assert job["status"] == "success", job["error"]
    assert await api.rows_count() == 3


@pytest_twisted.ensureDeferred
async def test_a_table_needs_its_bucket(api: Api) -> None:
    """A definition for an unknown bucket is a 404."""
    definition = {"name": "clicks", "columns": [{"name": "a"}]}
    answer = await api.branch("POST", f"buckets/{BUCKET}/tables-definition", definition)
    assert (answer.status, answer.json["code"]) == (404, "storage.buckets.notFound")


@pytest_twisted.ensureDeferred
async def test_a_bucket_with_tables_is_only_deleted_by_force(
    api: Api, service: SandboxService
) -> None:
    """Without force a bucket that isn't empty is kept; with it, the tables are deleted too."""
    await api.bucket()
    await api.table()
    kept = await api.branch("DELETE", f"buckets/{BUCKET}?async=1")
    assert (kept.status, kept.json["code"]) == (400, "buckets.deleteNotEmpty")
    job = await api.done(await api.branch("DELETE", f"buckets/{BUCKET}?async=1&force=true"))
    assert job["status"] == "success"
    assert (await api.branch("GET", f"tables/{TABLE}")).status == 404
    await until(lambda: columns_on_disk(service, TABLE) == [])  # removed from the list first


@pytest_twisted.ensureDeferred
async def test_metadata_is_set_by_provider_and_key(api: Api) -> None:
    """A repeated key replaces its value, and the answer has all metadata of the table."""
    await api.bucket()
    await api.table()
    path = f"tables/{TABLE}/metadata"
    first = {"KBC.stream.sink.id": "snk", "KBC.stream.source.id": "src"}
    body = {
        "provider": "stream",
        "metadata": [{"key": key, "value": value} for key, value in first.items()],
    }
    answer = await api.branch("POST", path, body)
    assert answer.status == 201
    assert {item["key"]: item["value"] for item in answer.json["metadata"]} == first
    change = [{"key": "KBC.stream.sink.id", "value": "other"}]
    await api.branch("POST", path, {"provider": "stream", "metadata": change})
    await api.branch("POST", path, {"provider": "someone", "metadata": change})
    metadata = (await api.branch("GET", f"tables/{TABLE}")).json["metadata"]
    assert [(item["provider"], item["key"], item["value"]) for item in metadata] == [
        ("stream", "KBC.stream.sink.id", "other"),
        ("stream", "KBC.stream.source.id", "src"),
        ("someone", "KBC.stream.sink.id", "other"),
    ]
    assert all(isinstance(item["id"], str) and item["timestamp"] for item in metadata)
    missing = await api.branch("POST", "tables/in.c-events.x/metadata", {"provider": "stream"})
    assert missing.status == 404


@pytest.mark.parametrize("table", ["x", "in.c-events", "in.c-events.a.b", "..", "in..a", "a%2Fb"])
@pytest_twisted.ensureDeferred
async def test_an_invalid_table_id_is_not_found(api: Api, table: str) -> None:
    """A path segment that isn't the id of a table is a 404."""
    assert (await api.branch("GET", f"tables/{table}")).status == 404


@pytest_twisted.ensureDeferred
async def test_unknown_jobs(api: Api) -> None:
    """An unknown job is a 404, and so is a job of another bucket for a sink token."""
    answer = await api.storage("GET", "jobs/1")
    assert (answer.status, answer.json["code"]) == (404, "storage.jobs.notFound")
    await api.branch("POST", "buckets", {"stage": "in", "name": "other"})
    job = await api.done(await api.branch("DELETE", "buckets/in.c-other?async=1"))
    sink = await api.sink_token()
    assert (await sink.storage("GET", f"jobs/{job['id']}")).status == 403


@pytest_twisted.ensureDeferred
async def test_a_new_sink_token_sees_earlier_jobs(api: Api) -> None:
    """A job of a bucket is shown to every token of that bucket."""
    await api.bucket()
    job = await (await api.sink_token()).table()
    successor = await api.sink_token()
    assert (await successor.storage("GET", f"jobs/{job['id']}")).status == 200
