"""One of several processes is killed under load: no acknowledged record is lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.processes import ALL, Deployment, Running, load_of, wait_for


def _start_separately(deployed: Deployment, victim: str) -> Running:
    """Start the component *victim* in a separate process and all others in another; return the
    former.

    The chaos run has a process for each component.
    """
    others = [name for name in ALL if name != victim]
    if victim == "storage-writer":  # the source is ready when it knows a volume
        deployed.start("etcd")
        running = deployed.start(victim, node_id=victim)
        deployed.start(*others[1:], node_id="others")
        return running
    deployed.start(*others, node_id="others")
    return deployed.start(victim, node_id=victim)


@pytest.mark.parametrize("victim", ["storage-writer", "http-source"])
def test_no_acknowledged_record_is_lost(deployed: Deployment, tmp_path: Path, victim: str) -> None:
    """The killed process restarts, and every record answered with 200 is in the table."""
    running = _start_separately(deployed, victim)
    url = deployed.define()
    acknowledged = tmp_path / "acknowledged"
    with load_of(url, 6000, acknowledged) as load:
        wait_for(lambda: deployed.written > 20_000, "the first rows on disk")
        running.kill()
        deployed.start(victim, node_id=victim)
        output, _ = load.communicate(timeout=120)
    result = json.loads(output)
    ids = set(acknowledged.read_text().split())
    assert len(ids) == result["statuses"]["200"]
    assert len(ids) > 1000
    stored = deployed.wait_ids(ids)
    unanswered = result["records"] - len(ids)
    assert len(stored) - len(ids) <= unanswered, "a record was stored twice"


def test_a_stop_under_load_loses_nothing(deployed: Deployment, tmp_path: Path) -> None:
    """After SIGTERM, a source answers the requests it has read, and the acknowledged records are
    stored.
    """
    source = _start_separately(deployed, "http-source")
    url = deployed.define()
    acknowledged = tmp_path / "acknowledged"
    with load_of(url, 6000, acknowledged) as load:
        wait_for(lambda: deployed.written > 20_000, "the first rows on disk")
        assert source.stop() == 0
        deployed.start("http-source", node_id="http-source")
        output, _ = load.communicate(timeout=120)
    assert set(json.loads(output)["statuses"]) <= {"200", "0", "503"}
    ids = set(acknowledged.read_text().split())
    stored = deployed.wait_ids(ids)
    assert len(stored) == len(set(stored)), "a record was stored twice"
