"""A sink with a small quota of buffered data, in the running service."""

from __future__ import annotations

import json
import os

from tests.e2e.processes import ALL, Deployment, wait_for


def test_a_sink_over_its_quota_is_answered_with_507(deployed: Deployment) -> None:
    """Records are refused until uploads have freed space, and those with 200 are in the
    table once.
    """
    deployed.settings["STREAM_STORAGE_LEVEL_LOCAL_QUOTA"] = "100KB"
    deployed.settings["STREAM_STORAGE_LEVEL_STAGING_UPLOAD_TRIGGER_INTERVAL"] = "5s"
    deployed.settings["STREAM_STORAGE_LEVEL_TARGET_IMPORT_TRIGGER_INTERVAL"] = "5s"
    deployed.start(*ALL)
    url = deployed.define()
    stored: set[str] = set()
    refused: set[str] = set()
    refusals: list[bytes] = []

    def push() -> int:
        name = f"r{len(stored) + len(refused)}"
        status, body = deployed.push(url, {"id": name, "noise": os.urandom(20_000).hex()})
        (stored if status == 200 else refused).add(name)
        if status != 200:
            assert status == 507, (status, body)
            refusals.append(body)
        return status

    wait_for(lambda: push() == 507, "a refusal", 30)
    answer = json.loads(refusals[0])
    assert answer["statusCode"] == 507, answer
    assert "ull storage buffer for the sink" in str(answer), answer
    assert 'quota "100KB"' in str(answer), answer
    wait_for(lambda: push() == 200, "a record taken again", 30)
    found = deployed.wait_ids(stored)
    assert len(found) == len(set(found))
    assert not refused & set(found)
