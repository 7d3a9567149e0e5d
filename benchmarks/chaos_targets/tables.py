"""The three tables: their definitions, and their rows as read by other programs."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from tests.postgres import Postgres

__all__ = ["READERS", "TYPES", "connections", "left_behind", "rows_of", "table_of"]

_COLUMNS = [
    {"type": "path", "name": "id", "path": "id", "dataType": "integer"},
    {"type": "uuid", "name": "uuid", "dataType": "uuid"},
    {"type": "datetime", "name": "at", "dataType": "timestamp"},
    {"type": "path", "name": "text", "path": "text"},
]
_DAYS = {"partitionBy": ["day(at)"]}
_PLACES: dict[str, dict[str, Any]] = {
    "postgres": {"connection": "database", "schema": "chaos", "table": "events"},
    "parquet": {"connection": "archive", "path": "chaos/events", **_DAYS},
    "iceberg": {"connection": "lake", "namespace": "chaos", "table": "events", **_DAYS},
}
TYPES = tuple(_PLACES)
READERS = {"postgres": "psycopg", "parquet": "DuckDB", "iceberg": "pyiceberg"}


def table_of(type_: str, *, is_strict: bool) -> dict[str, Any]:
    """Return the table of a sink.

    :param is_strict: whether records whose amount isn't a number are rejected.
    """
    amount = {
        "type": "path",
        "name": "amount",
        "dataType": "integer",
        "defaultValue": "0",
        "path": "amount" if is_strict else "other",
    }
    return {"type": type_, **_PLACES[type_], "mapping": {"columns": [*_COLUMNS, amount]}}


def connections(root: Path, server: Postgres) -> str:
    """Return the setting that declares the connections."""
    password = root / "postgres-password"
    password.write_text(server.password)
    return json.dumps(
        {
            "database": {
                "type": "postgres",
                "dsn": server.dsn(),
                "passwordFile": str(password),
            },
            "archive": {"type": "parquet", "url": (root / "archive").as_uri(), "workers": 1},
            "lake": {"type": "iceberg", "catalog": _catalog(root), "workers": 1},
        }
    )


def _catalog(root: Path) -> dict[str, str]:
    return {
        "type": "sql",
        "uri": f"sqlite:///{root}/catalog.db?timeout=60",
        "warehouse": (root / "warehouse").as_uri(),
    }


def rows_of(root: Path, server: Postgres) -> dict[str, dict[int, int]]:
    """Return the number of rows of each record in each table."""
    return {
        "postgres": _of_postgres(server),
        "parquet": _of_parquet(root),
        "iceberg": _of_iceberg(root),
    }


def _of_postgres(server: Postgres) -> dict[int, int]:
    connection: Any = server.connect()
    with connection:
        return dict(
            connection.execute("SELECT id, count(*) FROM chaos.events GROUP BY id").fetchall()
        )


def _of_parquet(root: Path) -> dict[int, int]:
    """Return the rows of all Parquet objects, not only those in manifests."""
    import duckdb

    objects = str(root / "archive" / "chaos" / "events" / "**" / "*.parquet")
    query = "SELECT id, count(*) FROM read_parquet(?) GROUP BY id"
    return dict(duckdb.execute(query, [objects]).fetchall())


def _of_iceberg(root: Path) -> dict[int, int]:
    from pyiceberg.catalog import load_catalog

    table = load_catalog("lake", **_catalog(root)).load_table("chaos.events")
    found: Counter[int] = Counter()
    for batch in table.scan(selected_fields=("id",)).to_arrow_batch_reader():
        found.update(batch.column(0).to_pylist())
    return dict(found)


def left_behind(root: Path) -> list[str]:
    """Return leftovers that should not exist when everything is imported."""
    found = [
        f"in staging: {path.relative_to(root)}"
        for path in sorted((root / "staging").rglob("*"))
        if path.is_file() and not path.name.startswith(".stream-staging")
    ]
    table = root / "archive" / "chaos" / "events"
    found += [f"not whole: {path.name}" for path in sorted(table.glob("_manifest/pending/*"))]
    manifests = [json.loads(path.read_bytes()) for path in table.glob("_manifest/*.json")]
    listed = {table / each["path"] for manifest in manifests for each in manifest["objects"]}
    stored = set(table.rglob("*.parquet"))
    found += [f"in no manifest: {path.name}" for path in sorted(stored - listed)]
    found += [f"in a manifest only: {path.name}" for path in sorted(listed - stored)]
    return found
