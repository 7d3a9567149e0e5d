"""`stream sink`: the bodies sent to the API, and the names of tables."""

from __future__ import annotations

from typing import Any, Self

import pytest

from stream.api.spec.request_schemas import CREATE_SINK
from stream.cli.commands import sinks
from stream.cli.commands.sinks import table_name
from stream.cli.main import run


class StubApi:
    """An API that records the body of a change."""

    def __init__(self) -> None:
        self.body: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing: nothing is open."""

    def change(self, method: str, *path: str, body: Any) -> dict[str, Any]:
        self.body = body
        return {"outputs": {"sinkId": "orders"}}

    def get(self, *path: str) -> dict[str, Any]:
        return {"sinkId": path[-1]}


@pytest.mark.parametrize(
    ("options", "table", "name"),
    [
        (["--table", "in.c-a.b"], {"type": "keboola", "tableId": "in.c-a.b"}, "in.c-a.b"),
        (
            ["--type", "postgres", "--connection", "w", "--schema", "s", "--table", "t"],
            {"type": "postgres", "connection": "w", "schema": "s", "table": "t"},
            "postgres:w.s.t",
        ),
        (
            ["--type", "parquet", "--connection", "lake", "--path", "a/b"],
            {"type": "parquet", "connection": "lake", "path": "a/b"},
            "parquet:lake.a/b",
        ),
        (
            [
                *("--type", "iceberg", "--connection", "lake", "--namespace", "n", "--table", "t"),
                *("--partition-by", "day(at)"),
            ],
            {
                "type": "iceberg",
                "connection": "lake",
                "namespace": "n",
                "table": "t",
                "partitionBy": ["day(at)"],
            },
            "iceberg:lake.n.t",
        ),
    ],
)
def test_tables(
    options: list[str], table: dict[str, Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each kind of table has its address, and the API accepts it."""
    api = StubApi()
    monkeypatch.setattr(sinks, "connect", lambda: api)
    arguments = ["sink", "create", "shop", "Orders", "--column", "id:uuid", *options]
    assert run(arguments) == 0
    mapping = {"columns": [{"type": "uuid", "name": "id"}]}
    assert api.body["table"] == {**table, "mapping": mapping}
    assert list(CREATE_SINK.check(api.body, "body")) == []
    assert table_name(table) == name
