"""Which types of tables a project can have."""

from __future__ import annotations

import pytest_twisted

from tests.api.conftest import Api, OwnProjects

ensure = pytest_twisted.ensureDeferred

PATH = "/v1/branches/default/connections"


@ensure
async def test_without_connections_there_are_the_tables_of_the_projects(api: Api) -> None:
    """Only they need no connection."""
    assert await api.get(PATH) == {"connections": [], "tableTypes": ["keboola"]}


@ensure
async def test_without_a_target_there_are_none(own: OwnProjects) -> None:
    """Not even those of Keboola, which isn't there."""
    api, (_, token) = own.nodes[0], await own.token("read")
    reply = await api.call("GET", PATH, token=token)
    assert (reply.status, reply.json) == (200, {"connections": [], "tableTypes": []})
