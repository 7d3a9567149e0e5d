"""The probe of a connection to a real server."""

from __future__ import annotations

import json
from pathlib import Path

import attrs
import pytest
import pytest_twisted

from stream.errors import UserError
from stream.etcd import EtcdClient
from stream.settings import Settings
from stream.settings.connections import Connections
from stream.target.postgres.target import PostgresTarget
from tests.conftest import free_port
from tests.target.postgres.world import shared_postgres
from tests.target.world import context_of

ensure = pytest_twisted.ensureDeferred


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, ""),
        ({"passwordFile": "wrong"}, "the server rejected the user or the password"),
        ({"passwordFile": "missing"}, "the file with its password can't be read"),
        ({"user": "nobody"}, "the server rejected the user or the password"),
        ({"database": "other"}, "the server has no such database"),
        ({"port": "free"}, "the server does not answer"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value.items()), ("good",))[0],
)
@ensure
async def test_probe(
    etcd: EtcdClient, tmp_path: Path, change: dict[str, str], message: str
) -> None:
    """The message contains no host and no user, for any error."""
    server = shared_postgres()
    (tmp_path / "right").write_text(server.password)
    (tmp_path / "wrong").write_text("a-wrong-password")
    dsn = server.dsn(change.get("database", "postgres"))
    dsn = dsn.replace("//stream@", f"//{change.get('user', 'stream')}@")
    if "port" in change:
        dsn = dsn.replace(str(server.port), str(free_port()))
    file = str(tmp_path / change.get("passwordFile", "right"))
    declared = {"w": {"type": "postgres", "dsn": dsn, "passwordFile": file}}
    connections = Connections.parse(json.dumps(declared))
    settings = Settings()
    staging = attrs.evolve(settings.target.staging, url=(tmp_path / "staging").as_uri())
    target = attrs.evolve(settings.target, connections=connections, staging=staging)
    async with context_of(etcd, attrs.evolve(settings, target=target)) as (_, context):
        probing = PostgresTarget(context).probe("w")
        if not message:
            await probing
            return
        with pytest.raises(UserError) as caught:
            await probing
        assert str(caught.value) == message
