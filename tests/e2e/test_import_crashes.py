"""A coordinator that is killed just after the Storage API has started its import job.

``STREAM_KILLS`` is the number of kills (``make kill-imports``).
"""

from __future__ import annotations

import itertools
import os
import random
import threading
import time
from collections import Counter
from pathlib import Path

from benchmarks.coordination.evidence import read_jobs
from benchmarks.coordination.staging_proxy import StagingProxy
from tests.e2e.processes import Running, deployment
from tests.serving import serving

KILLS = int(os.environ.get("STREAM_KILLS", "2"))
SETTINGS = {"STREAM_DISTRIBUTION_TTL_SECONDS": "2"}
_FOUND = "had already been started"
_LATEST_SECONDS = 0.03
"""The longest delay after the answer: the id of the job is stored by then, or not."""


class Killing(StagingProxy):
    """A proxy of the Storage API that kills the coordinator when an import job was started.

    :ivar coordinator: the one that is killed next; None while there is none.
    :ivar kills: the delays of the kills, in order.
    """

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.coordinator: Running | None = None
        self.kills: list[str] = []

    def passes(self, method: str, path: str) -> bool:
        if not path.endswith("/import-async") or self.coordinator is None:
            return True
        victim, self.coordinator = self.coordinator, None
        if len(self.kills) % 2:
            delay = random.uniform(0.0, _LATEST_SECONDS)
            self.kills.append("after the answer")
            threading.Timer(delay, victim.kill).start()
            return True
        victim.kill()
        self.kills.append("before the answer")
        return False


def test_no_row_is_duplicated(tmp_path: Path) -> None:
    """Repeated kills around the answer result in one job per file."""
    with deployment(tmp_path, **SETTINGS) as deployed:
        deployed.start("etcd", node_id="etcd")
        deployed.start("sandbox", node_id="sandbox")
        deployed.start(*("api", "http-source", "storage-writer", "storage-reader"))
        with serving(Killing(f"http://127.0.0.1:{deployed.ports['sandbox']}")) as proxy:

            def start() -> Running:
                return deployed.start(
                    "storage-coordinator", node_id="coordinator", STREAM_STORAGE_API_HOST=proxy.url
                )

            running, url = start(), deployed.define()
            sent: list[str] = []
            while len(proxy.kills) < KILLS:
                proxy.coordinator = running
                for number in itertools.count(len(sent)):
                    if running.process.poll() is not None:
                        break
                    assert deployed.push(url, {"id": f"r{number}"})[0] == 200
                    sent.append(f"r{number}")
                    time.sleep(0.1)
                running = start()
            deployed.wait_ids(set(sent))
            assert running.stop() == 0
        rows = Counter(deployed.ids())
        jobs = Counter(job.file for job in read_jobs(deployed))
        found = sum(log.read_text().count(_FOUND) for log in tmp_path.glob("*.log"))
    doubled = sum(rows.values()) - len(rows)
    print(
        f"{len(proxy.kills)} kills {dict(Counter(proxy.kills))}; {len(sent)} records, "
        f"{sum(rows.values())} rows, {doubled} doubled; {len(jobs)} files, "
        f"{sum(jobs.values())} import jobs, {found} of them found again by their file"
    )
    assert rows == Counter(sent)
    assert set(jobs.values()) == {1}
