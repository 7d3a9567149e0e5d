"""The types of tables that a project can have."""

from __future__ import annotations

import pytest_twisted

from tests.api.conftest import Api, OwnProjects

ensure = pytest_twisted.ensureDeferred

PATH = "/v1/branches/default/connections"


@ensure
async def test_the_default_connection(api: Api) -> None:
    """Without connections, only tables of Keboola projects are available."""
    assert await api.get(PATH) == {"connections": [], "tableTypes": ["keboola"]}


@ensure
async def test_without_a_target(own: OwnProjects) -> None:
    """Without the target of Keboola, no tables are available."""
    api, (_, token) = own.nodes[0], await own.token("read")
    reply = await api.call("GET", PATH, token=token)
    assert (reply.status, reply.json) == (200, {"connections": [], "tableTypes": []})
