"""Five processes, one of them killed under load: no acknowledged record is lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.processes import Deployment, Running, load_of, wait_for


def _start_separately(deployed: Deployment) -> dict[str, Running]:
    """Each component in a process of its own."""
    running = {"etcd": deployed.start("etcd"), "sandbox": deployed.start("sandbox")}
    for name in (
        "storage-writer",
        "storage-reader",
        "storage-coordinator",
        "api",
        "http-source",
    ):
        running[name] = deployed.start(name, node_id=name)
    return running


@pytest.mark.parametrize("victim", ["storage-writer", "http-source"])
def test_no_acknowledged_record_is_lost(deployed: Deployment, tmp_path: Path, victim: str) -> None:
    """The killed process comes back, and every record answered with 200 is in the table."""
    running = _start_separately(deployed)
    url = deployed.define()
    acknowledged = tmp_path / "acknowledged"
    with load_of(url, 6000, acknowledged) as load:
        wait_for(lambda: deployed.written > 20_000, "the first rows on disk")
        running[victim].kill()
        deployed.start(victim, node_id=victim)
        output, _ = load.communicate(timeout=120)
    result = json.loads(output)
    ids = set(acknowledged.read_text().split())
    assert len(ids) == result["statuses"]["200"]
    assert len(ids) > 1000
    stored = deployed.wait_ids(ids)
    unanswered = result["records"] - len(ids)
    assert len(stored) - len(ids) <= unanswered, "a record was stored twice"


def test_a_stop_under_load_answers_everything(deployed: Deployment, tmp_path: Path) -> None:
    """SIGTERM to a source: what it has read it answers, and what it answered is stored."""
    running = _start_separately(deployed)
    url = deployed.define()
    acknowledged = tmp_path / "acknowledged"
    with load_of(url, 6000, acknowledged) as load:
        wait_for(lambda: deployed.written > 20_000, "the first rows on disk")
        assert running["http-source"].stop() == 0
        deployed.start("http-source", node_id="http-source")
        output, _ = load.communicate(timeout=120)
    assert set(json.loads(output)["statuses"]) <= {"200", "0", "503"}
    ids = set(acknowledged.read_text().split())
    stored = deployed.wait_ids(ids)
    assert len(stored) == len(set(stored)), "a record was stored twice"
