"""A target that refuses rows: real processes, and a coordinator that is killed meanwhile."""

from __future__ import annotations

import json
import random
import threading
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.coordination.staging_proxy import StagingProxy
from stream.target.keboola.quarantine import OBJECT
from tests.e2e.processes import Deployment, Running, deployment, request, wait_for
from tests.serving import serving

KILLS = 3
SETTINGS = {"STREAM_DISTRIBUTION_TTL_SECONDS": "2"}
POISON = "poison"
_CALLS = ("/import-async", "/files/prepare")


class Killing(StagingProxy):
    """Kills the coordinator at one of its calls during the search for refused rows.

    :ivar coordinator: the coordinator to kill; None for none.
    :ivar left: number of calls before the kill.
    """

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.coordinator: Running | None = None
        self.left = 0

    def passes(self, method: str, path: str) -> bool:
        if not path.endswith(_CALLS) or self.coordinator is None:
            return True
        self.left -= 1
        if self.left > 0:
            return True
        victim, self.coordinator = self.coordinator, None
        if random.random() < 0.5:
            threading.Timer(random.uniform(0.0, 0.05), victim.kill).start()
            return True
        victim.kill()
        return False


def _push(url: str, ids: list[str]) -> None:
    lines = "".join(json.dumps({"id": name}) + "\n" for name in ids)
    answer = request("POST", url, lines.encode(), {"Content-Type": "application/x-ndjson"})
    assert answer[0] == 200, answer


def _has_ended(running: Running) -> bool:
    return running.process.poll() is not None


def _kept(deployed: Deployment, root: Path) -> list[dict[str, Any]]:
    """Return the rows of all quarantine files, once all of them are finished."""
    sink = f"{deployed.api}/v1/branches/default/sources/my-source/sinks/my-sink"
    status, answer = deployed.call("GET", f"{sink}/statistics/files")
    assert status == 200, answer
    found = []
    for file in answer["files"]:
        if "quarantine" in file and file["state"] == "imported":
            told = file["quarantine"]
            assert told["isFinished"]
            (path,) = root.glob(f"**/staging/{told['fileId']}/{OBJECT}")
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            assert len(lines) == told["recordsCount"]
            found += lines
    return found


def test_each_row_is_in_the_table_or_in_quarantine(tmp_path: Path) -> None:
    """Each row is in the table or in quarantine exactly once, whenever the coordinator is
    killed.
    """
    with deployment(tmp_path, **SETTINGS) as deployed:
        deployed.start("etcd", node_id="etcd")
        deployed.start("sandbox", node_id="sandbox")
        deployed.start(*("api", "http-source", "storage-writer", "storage-reader"))
        sandbox = f"http://127.0.0.1:{deployed.ports['sandbox']}"
        with serving(Killing(sandbox)) as proxy:

            def start() -> Running:
                return deployed.start(
                    "storage-coordinator", node_id="coordinator", STREAM_STORAGE_API_HOST=proxy.url
                )

            running, url = start(), deployed.define()
            fault = {"route": "job", "rowsWith": POISON, "times": 1_000_000}
            data, headers = json.dumps(fault).encode(), {"Content-Type": "application/json"}
            assert request("POST", f"{sandbox}/_local/faults", data, headers)[0] == 201
            good: set[str] = set()
            bad: set[str] = set()
            for kill in range(KILLS):
                proxy.left, proxy.coordinator = random.randint(2, 5), running
                poisoned = set(random.sample(range(40), 3))
                ids = [f"{kill}-{i}{POISON if i in poisoned else ''}" for i in range(40)]
                _push(url, ids)
                good |= {name for name in ids if POISON not in name}
                bad |= {name for name in ids if POISON in name}
                wait_for(partial(_has_ended, running), "the coordinator's end")
                running = start()
            deployed.wait_ids(good)
            kept: list[dict[str, Any]] = []

            def all_kept() -> bool:
                kept[:] = _kept(deployed, tmp_path)
                return len(kept) >= len(bad)

            wait_for(all_kept, f"{len(bad)} rows in quarantine", 90.0)
            assert running.stop() == 0
        rows = Counter(deployed.ids())
    assert rows == Counter(good)
    named = [name for line in kept for name in bad if f'"{name}"' in line["row"]]
    assert sorted(named) == sorted(bad)
    assert all("is refused" in line["reason"] for line in kept)
    print(f"{KILLS} kills; {len(good)} rows in the table, {len(kept)} in quarantine, none twice")
