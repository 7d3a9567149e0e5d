from __future__ import annotations

from urllib.parse import urlsplit

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, gatherResults

from stream.definition.size import SIZE, DefinitionSize
from stream.source.http.route import Ingest, find_route
from stream.target.keboola import StorageApiError
from stream.values.codec import decode, encode
from tests.api.conftest import SINK, SINKS, SOURCE, SOURCES, TOKEN, Api

ensure = pytest_twisted.ensureDeferred


@ensure
async def test_create_and_get(api: Api) -> None:
    """A created source is shown with its URL, version and creator."""
    reply = await api.call("POST", SOURCES, {"type": "http", "name": "My Source"})
    assert list(reply.json) == ["taskId", "type", "url", "status", "isFinished", "createdAt"]
    assert reply.json["type"] == "api.create.source"
    assert (
        reply.json["url"] == f"https://stream.target.keboola.local/v1/tasks/{reply.json['taskId']}"
    )
    task = await api.finish(reply)
    assert task["result"] == "Source has been created successfully."
    assert list(task["outputs"].items()) == [
        ("url", f"https://stream.target.keboola.local{SOURCE}"),
        ("projectId", 123),
        ("branchId", 456),
        ("sourceId", "my-source"),
    ]
    source = await api.get(SOURCE)
    assert list(source) == [
        *("projectId", "branchId", "sourceId", "type", "name", "description", "http"),
        *("version", "created"),
    ]
    assert source["http"]["url"].startswith("https://stream-in.keboola.local/stream/123/my-source/")
    assert len(source["http"]["url"].rpartition("/")[2]) == 48
    assert source["version"]["number"] == 1
    assert source["version"]["description"] == "New source."
    assert source["created"]["by"] == {
        "type": "user",
        "tokenId": "1",
        "tokenDesc": "Local master token",
        "userId": "1",
        "userName": "Local Admin",
    }


@ensure
async def test_an_otlp_source_shows_its_secret(api: Api) -> None:
    """An OTLP source has one URL with its secret and one without."""
    await api.run("POST", SOURCES, {"type": "otlp", "name": "n", "sourceId": "My Source"})
    otlp = (await api.get(SOURCE))["otlp"]
    assert otlp["baseUrl"] == "https://stream-in.keboola.local/otlp/123/my-source"
    assert otlp["url"] == f"{otlp['baseUrl']}/{otlp['secret']}"


@ensure
async def test_ids_are_unique_and_not_empty(api: Api) -> None:
    """An id that is taken or empty is refused."""
    await api.create_source()
    reply = await api.call("POST", SOURCES, {"type": "http", "name": "My Source"})
    assert (reply.status, reply.json["error"], reply.json["message"]) == (
        409,
        "stream.api.sourceAlreadyExists",
        'Source "my-source" already exists in the branch.',
    )
    asked_for = {"type": "http", "name": "n", "sourceId": "!!!"}
    reply = await api.call("POST", SOURCES, asked_for)
    assert (reply.status, reply.json["message"]) == (400, '"sourceId" must not be empty.')
    assert reply.json["param"] == "body.sourceId"
    assert "letters from a to z" in reply.json["detail"]
    asked_for["sourceId"] = "Ab" * 24
    reply = await api.call("POST", SOURCES, asked_for)
    assert (reply.status, reply.json["message"]) == (
        400,
        '"sourceId" must not be longer than 48 characters.',
    )
    reply = await api.call("GET", f"{SOURCES}/other")
    assert (reply.status, reply.json["message"]) == (
        404,
        'Source "other" not found in the branch.',
    )


@pytest.mark.parametrize("name", ["日本語", "🎉", "Кошка", "!!!", "Straße", "aB" * 20])
@ensure
async def test_any_name(api: Api, name: str) -> None:
    """A source with any name can be created, polled and fetched by its URLs."""
    started = await api.call("POST", SOURCES, {"type": "http", "name": name})
    assert started.status == 202, started
    task = await api.finish(started)
    assert task["status"] == "success", task
    links = [task["url"], task["outputs"]["url"]]
    for link in links:
        assert link.isascii()
        path = link.removeprefix("https://stream.target.keboola.local")
        reply = await api.call("GET", path)
        assert reply.status == 200, reply
    source = (await api.call("GET", path)).json
    assert source["name"] == name
    assert source["http"]["url"].isascii()
    route = find_route(urlsplit(source["http"]["url"]).path.encode())
    assert isinstance(route, Ingest)
    assert route.source_id == source["sourceId"]


@ensure
async def test_an_update_changes_only_given_members(api: Api) -> None:
    """Only given members change; the secret changes only with the type."""
    await api.create_source()
    first = await api.get(SOURCE)
    await api.run("PATCH", SOURCE, {"description": "d", "type": "http"})
    second = await api.get(SOURCE)
    assert (second["name"], second["description"]) == ("My Source", "d")
    assert second["http"] == first["http"]
    assert (second["version"]["number"], second["version"]["description"]) == (2, "Updated.")
    await api.run("PATCH", SOURCE, {"type": "otlp", "changeDescription": ""})
    third = await api.get(SOURCE)
    assert "http" not in third
    assert third["otlp"]["secret"] not in first["http"]["url"]
    assert third["version"]["description"] == ""


@ensure
async def test_rotation_of_the_secret(api: Api) -> None:
    """A new secret takes effect at once, and a rollback restores the old one."""
    await api.create_source()
    before = await api.get(SOURCE)
    reply = await api.call("POST", f"{SOURCE}/rotate-secret")
    assert reply.status == 200
    assert reply.json["http"]["url"] != before["http"]["url"]
    assert reply.json["version"]["description"] == "Rotated secret."
    assert reply.json == await api.get(SOURCE)
    task = await api.run("PUT", f"{SOURCE}/versions/1/rollback")
    assert task["type"] == "api.rollback.sourceVersion"
    after = await api.get(SOURCE)
    assert after["http"] == before["http"]
    assert after["version"]["description"] == 'Rollback to version "1".'
    reply = await api.call("POST", f"{SOURCES}/other/rotate-secret")
    assert reply.status == 404


@ensure
async def test_lists_are_paged_by_id(api: Api) -> None:
    """The pages of a list are ordered by id."""
    for name in ("c", "a", "b"):
        await api.create_source(name)
    listed = await api.get(f"{SOURCES}?limit=2&afterId=a")
    assert list(listed) == ["projectId", "branchId", "page", "sources"]
    assert [source["sourceId"] for source in listed["sources"]] == ["b", "c"]
    assert listed["page"] == {"limit": 2, "totalCount": 3, "afterId": "a", "lastId": "c"}
    assert (await api.get(f"{SOURCES}?afterId=c"))["page"]["lastId"] == ""


@ensure
async def test_disable_and_enable(api: Api) -> None:
    """A disabled source shows the reason, and repeated calls succeed."""
    await api.create_source()
    await api.create_sink()
    task = await api.run("PUT", f"{SOURCE}/disable")
    assert task["result"] == "Source has been disabled successfully."
    disabled = (await api.get(SOURCE))["disabled"]
    assert list(disabled) == ["at", "by", "reason"]
    assert disabled["reason"] == "API"
    assert (await api.get(SINK))["disabled"]["reason"] == "Auto-disabled with the parent source."
    await api.run("PUT", f"{SOURCE}/disable")
    assert (await api.get(SOURCE))["version"]["number"] == 2
    await api.run("PUT", f"{SINK}/enable")
    assert "disabled" in await api.get(SINK)
    task = await api.run("PUT", f"{SOURCE}/enable")
    assert task["result"] == "Source has been enabled successfully."
    assert "disabled" not in await api.get(SOURCE)
    assert "disabled" not in await api.get(SINK)


@ensure
async def test_delete_and_undelete(api: Api) -> None:
    """A deleted source is only in the list of deleted sources until it is undeleted."""
    await api.create_source()
    await api.create_sink()
    task = await api.run("DELETE", SOURCE)
    assert task["result"] == "Source has been deleted successfully."
    for path in (SOURCE, SINK, SINKS, f"{SINKS}/deleted", f"{SOURCE}/versions"):
        reply = await api.call("GET", path)
        assert (reply.status, reply.json["error"]) == (404, "stream.api.sourceNotFound"), path
    deleted = await api.get(f"{SOURCES}/deleted")
    assert deleted["page"]["totalCount"] == 1
    assert list(deleted["sources"][0]["deleted"]) == ["at", "by"]
    task = await api.run("PUT", f"{SOURCE}/undelete")
    assert task["result"] == "Source has been undeleted successfully."
    assert (await api.get(SOURCE))["version"]["description"] == 'Undeleted to version "1".'
    assert "deleted" not in await api.get(SINK)
    reply = await api.call("PUT", f"{SOURCE}/undelete")
    assert (reply.status, reply.json["message"]) == (
        404,
        'Deleted source "my-source" not found in the branch.',
    )


@ensure
async def test_a_cascade_removes_tables_and_empty_buckets(api: Api) -> None:
    """A cascade removes the source forever, with its tables and the empty bucket."""
    await api.create_source()
    await api.create_sink()
    await api.storage_api.get_table(TOKEN, 456, "in.c-my-bucket.my-table")
    task = await api.run("DELETE", f"{SOURCE}?cascade=true")
    assert task["result"] == "Source and its destination tables and bucket have been deleted."
    assert (await api.get(f"{SOURCES}/deleted"))["sources"] == []
    for path in ("definition/source/", "definition/sink/"):
        assert (await api.etcd.range(path)).count == 0
    with pytest.raises(StorageApiError, match="notFound"):
        await api.storage_api.get_table(TOKEN, 456, "in.c-my-bucket.my-table")
    with pytest.raises(StorageApiError, match="notFound"):
        await api.storage_api.get_bucket(TOKEN, 456, "in.c-my-bucket")
    await api.create_source()
    assert (await api.get(SOURCE))["version"]["number"] == 1


@ensure
async def test_a_source_called_deleted(api: Api) -> None:
    """The route of deleted sources hides a source with that id, which can still be deleted."""
    await api.create_source("deleted")
    assert "sources" in await api.get(f"{SOURCES}/deleted")
    task = await api.run("DELETE", f"{SOURCES}/deleted")
    assert task["outputs"]["sourceId"] == "deleted"


@ensure
async def test_the_limit_of_sources(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """The task fails at the limit, with a message for the user."""
    monkeypatch.setattr("stream.definition.repository.MAX_SOURCES", 1)
    await api.create_source("a")
    task = await api.finish(await api.call("POST", SOURCES, {"type": "http", "name": "b"}))
    assert (task["status"], task["isFinished"]) == ("error", True)
    assert task["error"] == "Source count limit reached in the branch, the maximum is 1."
    assert "result" not in task


@ensure
async def test_unknown_tasks(api: Api) -> None:
    """An unknown task is not found."""
    reply = await api.call("GET", "/v1/tasks/api.create.source/x/y")
    assert (reply.status, reply.json["error"]) == (404, "stream.api.taskNotFound")
    assert reply.json["message"] == ('Task "api.create.source/x/y" not found in the project.')


@ensure
async def test_simultaneous_creations(api: Api) -> None:
    """Only one of several simultaneous creations succeeds; the others are refused."""
    body = {"type": "http", "name": "My Source"}
    replies = await gatherResults(
        [Deferred.fromCoroutine(api.call("POST", SOURCES, body)) for _ in range(4)]
    )
    (made,) = [reply for reply in replies if reply.status == 202]
    assert (await api.finish(made))["status"] == "success"
    refused = [reply for reply in replies if reply is not made]
    assert {reply.status for reply in refused} == {409}
    assert {reply.json["error"] for reply in refused} == {"stream.api.sourceAlreadyExists"}
    assert len((await api.etcd.range("task/")).kvs) == 1


@ensure
async def test_a_project_whose_definitions_are_too_large(api: Api) -> None:
    """It gets 409 for what needs more space. A new secret, disabling and deleting are possible."""
    await api.create_source()
    await api.etcd.put(f"{SIZE}123", encode(DefinitionSize(256 * 1024**2)))
    reply = await api.call("PATCH", f"{SOURCE}?wait=10s", {"description": "d"})
    assert (reply.status, reply.json["error"]) == (409, "stream.api.definitionSizeLimitReached")
    assert (
        "occupy 256.0 MB, the maximum is 256.0 MB, and this change needs" in reply.json["message"]
    )
    assert "delete sources or sinks that are no longer used" in reply.json["message"]
    assert (await api.get(SOURCE))["version"]["number"] == 1
    assert (await api.call("POST", f"{SOURCE}/rotate-secret")).status == 200
    await api.run("PUT", f"{SOURCE}/disable")
    await api.run("DELETE", SOURCE)
    stored = await api.etcd.get(f"{SIZE}123")
    assert stored is not None and decode(DefinitionSize, stored.value).written > 1000
