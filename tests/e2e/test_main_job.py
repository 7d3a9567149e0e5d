"""The main task: a pushed record is a row that SQL can query."""

from __future__ import annotations

import csv
import io
import json
import re

from tests.e2e.processes import ALL, TABLE, Deployment, request


def test_pushed_records_become_rows(deployed: Deployment) -> None:
    """Pushed records are in the table with every column as defined; a missing path has its default
    value.
    """
    deployed.start(*ALL)
    url = deployed.define()
    for i in range(3):
        status, answer = deployed.push(url, {"id": f"r{i}", "text": 'say "hi"\n'})
        assert (status, answer) == (200, b"OK")
    assert deployed.push(url, {"other": 1})[0] == 200
    deployed.wait_ids({"r0", "r1", "r2", "none"})
    columns = "uuid, at, ip, id, headers, body"
    found = deployed.query(f'SELECT {columns} FROM "{TABLE}" ORDER BY id')
    assert len(found) == 4
    rows = [row for row in found if row[3] != "none"]
    for i, (uuid, at, ip, record, headers, body) in enumerate(rows):
        assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f-]{17}", uuid)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", at)
        assert ip == "127.0.0.1"
        assert record == f"r{i}"
        assert json.loads(headers)["Content-Type"] == "application/json"
        assert json.loads(body) == {"id": f"r{i}", "text": 'say "hi"\n'}
    preview = _preview(deployed)
    assert sorted(row["id"] for row in preview) == [row[3] for row in found]


def _preview(deployed: Deployment) -> list[dict[str, str]]:
    """Return the rows as the Storage API shows them."""
    storage = f"http://127.0.0.1:{deployed.ports['sandbox']}/v2/storage"
    status, body = request(
        "GET",
        f"{storage}/branch/456/tables/{TABLE}/data-preview?limit=100",
        None,
        {"X-StorageApi-Token": "e2e-token"},
    )
    assert status == 200
    return list(csv.DictReader(io.StringIO(body.decode())))


def test_a_restart_keeps_everything(deployed: Deployment) -> None:
    """Definitions, acknowledged records and tables survive a restart after any end of the
    process.
    """
    first = deployed.start(*ALL)
    url = deployed.define()
    assert deployed.push(url, {"id": "before"})[0] == 200
    assert first.stop() == 0
    second = deployed.start(*ALL)
    assert deployed.push(url, {"id": "after"})[0] == 200
    second.kill()
    deployed.start(*ALL)
    ids = deployed.wait_ids({"before", "after"})
    assert sorted(ids) == ["after", "before"]
