"""Records in Parquet files and in an Iceberg table, while coordinators are killed."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.processes import Deployment, Running, deployment, request, wait_for

pytest.importorskip("pyiceberg", reason="pyiceberg is not installed, see the extra `iceberg`")

KILLS = int(os.environ.get("STREAM_KILLS", "1"))
COLUMNS = [
    {"type": "datetime", "name": "at", "dataType": "timestamp"},
    {"type": "path", "name": "id", "path": "id", "rawString": True},
    {"type": "path", "name": "total", "path": "total", "dataType": "decimal(18,2)"},
]
SECRET = "a-secret-of-the-catalog"


def _settings(root: Path) -> dict[str, str]:
    keys = root / "catalog.json"
    keys.write_text(json.dumps({"token": SECRET}))
    lake = {
        "type": "iceberg",
        "catalog": {
            "type": "sql",
            "uri": f"sqlite:///{root}/catalog.db?timeout=60",
            "warehouse": (root / "warehouse").as_uri(),
            "credentialFile": str(keys),
        },
    }
    archive = {"type": "parquet", "url": (root / "archive").as_uri()}
    return {
        "STREAM_TARGET_CONNECTIONS": json.dumps({"lake": lake, "archive": archive}),
        "STREAM_TARGET_STAGING_URL": (root / "staging").as_uri(),
        "STREAM_DISTRIBUTION_TTL_SECONDS": "2",
    }


def _define(deployed: Deployment, name: str, place: dict[str, Any]) -> str:
    sources = f"{deployed.api}/v1/branches/default/sources"
    source = deployed.task("POST", sources, {"type": "http", "name": name})["url"]
    table = {**place, "partitionBy": ["day(at)"], "mapping": {"columns": COLUMNS}}
    deployed.task("POST", f"{source}/sinks", {"type": "table", "name": "Orders", "table": table})
    shown = deployed.call("GET", f"{source}/sinks/orders")[1]["table"]
    assert shown["partitionBy"] == ["day(at)"]
    url: str = deployed.call("GET", source)[1]["http"]["url"]
    return url


def _of_iceberg(root: Path) -> list[str]:
    from pyiceberg.catalog import load_catalog

    catalog = load_catalog(
        "lake",
        type="sql",
        uri=f"sqlite:///{root}/catalog.db?timeout=60",
        warehouse=(root / "warehouse").as_uri(),
    )
    ids: list[str] = catalog.load_table("shop.orders").scan().to_arrow()["id"].to_pylist()
    return ids


def _of_parquet(root: Path) -> list[str]:
    """Return the rows of all objects, including those of incomplete files."""
    import pyarrow.parquet as pq

    objects = sorted((root / "archive").rglob("*.parquet"))
    return [each for path in objects for each in pq.read_table(path)["id"].to_pylist()]


def test_killed_coordinators(tmp_path: Path) -> None:
    """Each acknowledged record is one row of each lake, whenever a coordinator is killed; no secret
    is stored.
    """
    with deployment(tmp_path, **_settings(tmp_path)) as deployed:
        deployed.start("etcd", node_id="etcd")
        deployed.start("sandbox", node_id="sandbox")
        deployed.start(*("api", "http-source", "storage-writer", "storage-reader"))
        urls = [
            _define(deployed, "Lake", {"type": "iceberg", "connection": "lake"} | PLACE),
            _define(deployed, "Archive", {"type": "parquet", "connection": "archive"} | FOLDER),
        ]
        pushed: list[str] = []
        for kill in range(KILLS):
            running: Running = deployed.start("storage-coordinator", node_id=f"coordinator-{kill}")
            names = [f"{kill}-{number}" for number in range(200)]
            lines = "".join(json.dumps({"id": name, "total": "1.50"}) + "\n" for name in names)
            headers = {"Content-Type": "application/x-ndjson"}
            for url in urls:
                assert request("POST", url, lines.encode(), headers)[0] == 200
            pushed += names
            seen = len(_of_parquet(tmp_path))
            wait_for(lambda seen=seen: len(_of_parquet(tmp_path)) > seen, "an import", 120.0)  # type: ignore[misc]
            running.kill()
        deployed.start("storage-coordinator", node_id="coordinator-last")
        expected = Counter(pushed)
        for read in (_of_parquet, _of_iceberg):
            wait_for(lambda read=read: len(read(tmp_path)) >= len(pushed), "all rows", 120.0)  # type: ignore[misc]
            assert Counter(read(tmp_path)) == expected
        texts = [path.read_bytes() for path in tmp_path.glob("*.log")]
        texts += [path.read_bytes() for path in (tmp_path / "etcd").rglob("*") if path.is_file()]
        assert not any(SECRET.encode() in text for text in texts)


PLACE = {"namespace": "shop", "table": "orders"}
FOLDER = {"path": "shop/orders"}
