"""The clock of the machine is set back and forth while everything runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import pytest

from tests.e2e.processes import ALL, TABLE, Deployment, deployment, wait_for

_LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
_RECORDS = 3
_IMPORT_SECONDS = 240.0
_STEPS = (3600, 0)
"""Offsets from the true time in seconds, applied in order."""


@contextmanager
def _on_a_false_clock(root: Path) -> Iterator[tuple[Deployment, Path]]:
    """Return a deployment, and the file with the offset of its wall clock."""
    offset = root / "clock"
    offset.write_text("+0")
    settings = {
        "LD_PRELOAD": str(_LIBRARIES[0]),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_DONT_RESET": "1",
    }
    with deployment(root, **settings) as deployed:
        yield deployed, offset


@pytest.mark.skipif(sys.platform != "linux" or not _LIBRARIES, reason="needs faketime (apt)")
def test_the_clock_is_set_back_and_forth(tmp_path: Path) -> None:
    """Records are imported without waiting for the clock to catch up, and no lease ends."""
    with _on_a_false_clock(tmp_path) as (deployed, offset):
        running = deployed.start(*ALL)
        url = deployed.define()
        wait_for(lambda: deployed.push(url, {"id": "first"})[0] == 200, "the first record")
        deployed.wait_ids({"first"})
        for step in _STEPS:
            offset.write_text(f"{step:+d}")
            _push_until_imported(deployed, url, step)
        assert "lease has ended" not in running.log.read_text()
        assert running.stop() == 0


def _push_until_imported(deployed: Deployment, url: str, step: int) -> None:
    """Push until some records with the false time in their rows are imported."""
    pushed: dict[str, float] = {}

    def imported() -> bool:
        name = f"{step}/{len(pushed)}"
        pushed[name] = time.time() + step
        status, answer = deployed.push(url, {"id": name})
        # On a busy machine, opening a slice can take a while.
        assert status in (200, 503), (step, answer)
        rows = deployed.query(f'SELECT id, "at" FROM "{TABLE}"')
        return sum(name in pushed and _is_near(at, pushed[name]) for name, at in rows) >= _RECORDS

    wait_for(imported, f"an import after the step to {step} s", _IMPORT_SECONDS)


def _is_near(at: str, moment: float) -> bool:
    return abs(datetime.fromisoformat(at).timestamp() - moment) < 100
