"""The whole product with staging in an object store of another party: each record is a row."""

from __future__ import annotations

import json
from pathlib import Path

import obstore
import pytest

from stream.sandbox import ObjectStaging
from tests.e2e.processes import ALL, deployment
from tests.staging.servers import SERVERS, ObjectServer, running_server

RECORDS = 300


def _settings(staging: ObjectStaging) -> dict[str, str]:
    told = {
        "PROVIDER": staging.provider,
        "ENDPOINT": staging.endpoint,
        "BUCKET": staging.bucket,
        "REGION": staging.region,
        "KEY_ID": staging.key_id,
        "SECRET": staging.secret,
    }
    return {f"STREAM_SANDBOX_STAGING_{name}": value for name, value in told.items() if value}


@pytest.mark.parametrize("server", SERVERS, ids=lambda server: server.name)
def test_pushed_records_become_rows(tmp_path: Path, server: ObjectServer) -> None:
    """The slices are in the store, its manifests list them, and each record is there once."""
    with (
        running_server(server, tmp_path / server.name / "objects") as staging,
        deployment(tmp_path / "stream", **_settings(staging)) as deployed,
    ):
        deployed.start(*ALL)
        url = deployed.define()
        expected = [f"r{i}" for i in range(RECORDS)]
        for id in expected:
            assert deployed.push(url, {"id": id})[0] == 200
        ids = deployed.wait_ids(set(expected))
        store = staging._open()
        sizes = {item["path"]: item["size"] for page in obstore.list(store) for item in page}
        manifests = [path for path in sizes if path.endswith("/manifest")]
        listed = [
            entry["url"].rpartition("/")[2]
            for path in manifests
            for entry in json.loads(bytes(obstore.get(store, path).bytes()))["entries"]
        ]
    assert sorted(ids) == sorted(expected)
    assert manifests
    slices = [path.rpartition("/")[2] for path in sizes if path not in manifests]
    assert sorted(listed) == sorted(slices)
    print(f"{staging.provider}: {len(ids)} rows; objects {sizes}; manifests list {listed}")
