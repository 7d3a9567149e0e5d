from __future__ import annotations

import pytest_twisted

from tests.api.conftest import SOURCE, SOURCES, Api

ensure = pytest_twisted.ensureDeferred


@ensure
async def test_create_and_get(api: Api) -> None:
    """A created source can be read with its URL, version and creator."""
    reply = await api.call("POST", SOURCES, {"type": "http", "name": "My Source"})
    assert list(reply.json) == ["taskId", "type", "url", "status", "isFinished", "createdAt"]
    task = await api.finish(reply)
    assert task["result"] == "Source has been created successfully."
    assert task["outputs"] == {
        "url": f"https://stream.keboola.local{SOURCE}",
        "projectId": 123,
        "branchId": 456,
        "sourceId": "my-source",
    }
    source = await api.get(SOURCE)
    assert source["http"]["url"].startswith(
        "https://stream-in.keboola.local/stream/123/my-source/"
    )
    assert source["version"]["number"] == 1
    assert source["version"]["description"] == "New source."
    assert source["created"]["by"]["type"] == "user"
