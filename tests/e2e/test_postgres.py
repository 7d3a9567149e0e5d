"""Records in a PostgreSQL table, with real processes, from the definition to the row."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.processes import Deployment, Running, deployment, request, wait_for
from tests.postgres import Postgres, running_postgres

KILLS = 3
COLUMNS = [
    {"type": "uuid", "name": "key", "dataType": "uuid"},
    {"type": "datetime", "name": "at", "dataType": "timestamp"},
    {"type": "path", "name": "id", "path": "id", "primaryKey": True, "rawString": True},
    {"type": "path", "name": "total", "path": "order.total", "dataType": "decimal(18,2)"},
    {"type": "path", "name": "qty", "path": "order.qty", "dataType": "integer", "nullable": True},
    {"type": "body", "name": "body", "dataType": "json"},
]


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with running_postgres() as running:
        yield running


def _settings(server: Postgres, root: Path) -> dict[str, str]:
    password = root / "postgres-password"
    password.write_text(server.password)
    declared = {"type": "postgres", "dsn": server.dsn(), "passwordFile": str(password)}
    return {
        "STREAM_TARGET_CONNECTIONS": json.dumps({"warehouse": declared}),
        "STREAM_TARGET_STAGING_URL": (root / "staging").as_uri(),
        "STREAM_DISTRIBUTION_TTL_SECONDS": "2",
    }


def _define(deployed: Deployment, table: str, columns: Any = COLUMNS) -> str:
    sources = f"{deployed.api}/v1/branches/default/sources"
    source = deployed.task("POST", sources, {"type": "http", "name": "Shop"})["url"]
    place = {"type": "postgres", "connection": "warehouse", "schema": "shop", "table": table}
    sink = {"type": "table", "name": "Orders", "table": {**place, "mapping": {"columns": columns}}}
    deployed.task("POST", f"{source}/sinks", sink)
    status, shown = deployed.call("GET", f"{source}/sinks/orders")
    assert status == 200
    shown["table"].pop("mapping")
    assert shown["table"] == place
    url: str = deployed.call("GET", source)[1]["http"]["url"]
    return url


def _query(server: Postgres, text: str) -> list[tuple[Any, ...]]:
    connection: Any = server.connect()
    with connection:
        rows: list[tuple[Any, ...]] = connection.execute(text).fetchall()
        return rows


def test_a_record_becomes_a_row(server: Postgres, tmp_path: Path) -> None:
    """The row has typed values; a value that doesn't fit rejects the record, and no secret is
    stored.
    """
    settings = _settings(server, tmp_path)
    del settings["STREAM_TARGET_STAGING_URL"]  # a single process doesn't need one
    with deployment(tmp_path, **settings) as deployed:
        deployed.start("etcd", node_id="etcd")
        deployed.start("sandbox", node_id="sandbox")
        node = deployed.start(
            *("api", "http-source", "storage-writer", "storage-reader", "storage-coordinator")
        )
        url = _define(deployed, "orders")
        body = {"id": "a", "order": {"total": "12.50", "qty": None}}
        assert deployed.push(url, body)[0] == 200
        status, answer = deployed.push(url, {"id": "b", "order": {"total": "12.505", "qty": 1}})
        assert status == 400
        assert b'column \\"total\\"' in answer
        assert b'The value \\"12.505\\" is not a number with at most' in answer
        table = "SELECT id, total::text, qty, body FROM shop.orders"
        wait_for(lambda: _query(server, table), "the row")
        assert _query(server, table) == [("a", "12.50", None, body)]
        assert deployed.push(url, {"id": "a", "order": {"total": 3, "qty": 7}})[0] == 200
        wait_for(lambda: _query(server, table)[0][2] == 7, "the row to change")
        assert len(_query(server, table)) == 1
        assert (tmp_path / "staging" / ".stream-staging").exists()
        assert not list((tmp_path / "staging").glob("*/*/*/*/*/*"))
        assert node.stop() == 0
        texts = [path.read_bytes() for path in tmp_path.glob("*.log")]
        texts += [path.read_bytes() for path in (tmp_path / "etcd").rglob("*") if path.is_file()]
        assert not any(server.password.encode() in text for text in texts)


def test_invalid_definitions(server: Postgres, tmp_path: Path) -> None:
    """Errors of a definition are reported before anything is stored."""
    with deployment(tmp_path, **_settings(server, tmp_path)) as deployed:
        deployed.start("etcd", node_id="etcd")
        deployed.start("sandbox", node_id="sandbox")
        deployed.start("api", "storage-writer")
        sources = f"{deployed.api}/v1/branches/default/sources"
        source = deployed.task("POST", sources, {"type": "http", "name": "Shop"})["url"]

        def refused(table: dict[str, Any]) -> str:
            sink = {"type": "table", "name": "Orders", "table": table}
            status, answer = deployed.call("POST", f"{source}/sinks", sink)
            if status == 202:
                task = wait_for(
                    lambda: (t := deployed.call("GET", answer["url"])[1])["isFinished"] and t,
                    "the task",
                )
                assert task["status"] == "error", task
                return str(task["error"])
            assert status == 400, answer
            return str(answer["message"])

        column = {"type": "body", "name": "body"}
        mapping = {"columns": [column]}
        place = {"type": "postgres", "connection": "warehouse", "table": "orders"}
        assert '"lake"' in refused({**place, "type": "lake", "mapping": mapping})
        assert '"connection" is missing' in refused({"type": "postgres", "mapping": mapping})
        unknown = refused({**place, "connection": "other", "mapping": mapping})
        assert (
            'no connection "other" of the type postgres, its connections are: warehouse' in unknown
        )
        odd = {"columns": [{**column, "dataType": "text"}]}
        assert 'unknown data type "text"' in refused({**place, "mapping": odd})
        typed = {"columns": [{**column, "dataType": "json"}]}
        keboola = {"type": "keboola", "tableId": "in.c-a.b", "mapping": typed}
        assert "have no types" in refused(keboola)
        assert 'has no "tableId"' in refused({**place, "tableId": "in.c-a.b", "mapping": mapping})


def test_killed_coordinators(server: Postgres, tmp_path: Path) -> None:
    """Each acknowledged record is one row, whenever a coordinator is killed."""
    columns = [{"type": "path", "name": "id", "path": "id", "rawString": True}]
    with deployment(tmp_path, **_settings(server, tmp_path)) as deployed:
        deployed.start("etcd", node_id="etcd")
        deployed.start("sandbox", node_id="sandbox")
        deployed.start(*("api", "http-source", "storage-writer", "storage-reader"))
        url = _define(deployed, "ids", columns)
        pushed: list[str] = []
        for kill in range(KILLS):
            running: Running = deployed.start("storage-coordinator", node_id=f"coordinator-{kill}")
            names = [f"{kill}-{number}" for number in range(200)]
            lines = "".join(json.dumps({"id": name}) + "\n" for name in names)
            headers = {"Content-Type": "application/x-ndjson"}
            assert request("POST", url, lines.encode(), headers)[0] == 200
            pushed += names
            seen = len(_query(server, "SELECT 1 FROM shop._stream_imports"))
            wait_for(
                lambda seen=seen: len(_query(server, "SELECT 1 FROM shop._stream_imports")) > seen,  # type: ignore[misc]
                "an import",
            )
            running.kill()
        deployed.start("storage-coordinator", node_id="coordinator-last")
        table = "SELECT id FROM shop.ids"
        wait_for(lambda: len(_query(server, table)) >= len(pushed), "all rows", 120.0)
        assert Counter(_query(server, table)) == Counter((name,) for name in pushed)
