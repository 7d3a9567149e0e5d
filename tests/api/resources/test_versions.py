from __future__ import annotations

import pytest_twisted

from tests.api.conftest import SINK, SOURCE, Api

ensure = pytest_twisted.ensureDeferred


@ensure
async def test_versions_of_a_source(api: Api) -> None:
    """Versions are listed by number, and the page shows `afterId` as it was sent."""
    await api.create_source()
    for number in (2, 3):
        await api.run("PATCH", SOURCE, {"changeDescription": f"Change {number}."})
    listed = await api.get(f"{SOURCE}/versions?afterId=2")
    assert [version["description"] for version in listed["versions"]] == ["Change 3."]
    assert listed["page"] == {
        "limit": 100,
        "totalCount": 1,
        "afterId": "2",
        "lastId": "0000000003",
    }
    assert (await api.get(f"{SOURCE}/versions?limit=2"))["page"]["totalCount"] == 3
    assert (await api.get(f"{SOURCE}/versions?afterId=0000000003"))["versions"] == []
    version = await api.get(f"{SOURCE}/versions/2")
    assert list(version) == ["number", "hash", "description", "at", "by"]
    assert version["number"] == 2


@ensure
async def test_versions_of_a_sink(api: Api) -> None:
    """The page of a sink's versions shows `afterId` as it is in keys."""
    await api.create_source()
    await api.create_sink()
    listed = await api.get(f"{SINK}/versions?afterId=1")
    assert listed["page"]["afterId"] == "0000000001"
    assert (await api.get(f"{SINK}/versions"))["page"]["lastId"] == "0000000001"
    task = await api.run("PUT", f"{SINK}/versions/1/rollback")
    assert task["result"] == "Sink version was rolled back successfully."
    assert (await api.get(f"{SINK}/versions/2"))["description"] == 'Rollback to version "1".'


@ensure
async def test_unknown_versions(api: Api) -> None:
    """An unknown number is not found, and text is invalid."""
    reply = await api.call("PUT", f"{SOURCE}/versions/asfasf/rollback")
    assert (reply.status, reply.json["message"]) == (
        400,
        'Invalid value "asfasf" for "versionNumber", must be a integer; '
        "versionNumber must be greater or equal than 1 but got value 0.",
    )
    await api.create_source()
    await api.create_sink()
    for path, message in (
        (f"{SOURCE}/versions/25", 'Source version "my-source/0000000025" not found in the branch.'),
        (f"{SINK}/versions/12345", 'Sink version "my-sink/0000012345" not found in the source.'),
    ):
        assert (await api.call("GET", path)).json["message"] == message
        assert (await api.call("PUT", f"{path}/rollback")).json["message"] == message


@ensure
async def test_the_content_of_a_version(api: Api) -> None:
    """The content is shown on request, without the secret of the source."""
    await api.create_source()
    await api.create_sink()
    await api.run("PATCH", SOURCE, {"name": "Renamed"})
    await api.run("PATCH", SINK, {"description": "Changed"})
    first = await api.get(f"{SOURCE}/versions/1?content=true")
    second = await api.get(f"{SOURCE}/versions/2?content=true")
    assert (first["content"]["name"], second["content"]["name"]) == ("My Source", "Renamed")
    secret = (await api.get(SOURCE))["http"]["url"].rpartition("/")[2]
    assert secret not in str(second)
    before = await api.get(f"{SINK}/versions/1?content=1")
    assert before["content"]["description"] == ""
    assert before["content"]["table"]["mapping"]["columns"][0]["name"] == "id"
    assert "content" not in await api.get(f"{SINK}/versions/1")
