"""A real disk that fills up under load."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.processes import ALL, Deployment, wait_for
from tests.mounting import small_disk


@pytest.fixture
def full_soon(deployed: Deployment) -> Iterator[Path]:
    """The only volume, on a disk of 80 MiB."""
    path = deployed.root / "volumes" / "default" / "one"
    with small_disk(path, "80m"):
        yield path
        deployed.stop_all()


def test_a_full_disk_is_answered_with_503(deployed: Deployment, full_soon: Path) -> None:
    """Records with 200 are in the table once, those with 503 aren't, and ingestion resumes."""
    deployed.settings["STREAM_STORAGE_LEVEL_LOCAL_WRITER_ALLOCATION_ENABLED"] = "false"
    deployed.settings["STREAM_STORAGE_LEVEL_STAGING_UPLOAD_TRIGGER_INTERVAL"] = "30s"
    deployed.start(*ALL)
    url = deployed.define()
    answers: Counter[int] = Counter()
    stored: set[str] = set()
    refused: set[str] = set()

    def push(name: str) -> int:
        status, _ = deployed.push(url, {"id": name, "noise": os.urandom(8_000).hex()})
        answers[status] += 1
        (stored if status == 200 else refused).add(name)
        return status

    assert push("first") == 200
    ballast = full_soon / "ballast"
    free = os.statvfs(full_soon).f_bavail * os.statvfs(full_soon).f_frsize
    ballast.write_bytes(bytes(free - 300_000))
    for index in range(60):
        push(f"r{index}")
    assert set(answers) == {200, 503}, answers
    assert answers[503] > 10
    ballast.unlink()
    wait_for(lambda: push(f"again{answers.total()}") == 200, "a record stored again", 30)
    found = deployed.wait_ids(stored)
    assert len(found) == len(set(found)), "a record was stored twice"
    assert not refused & set(found), "a refused record was stored"
