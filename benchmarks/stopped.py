"""Memory of a source node under full load while its only writer is paused."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

from benchmarks.setting import Setting
from benchmarks.wrk import Figure, load
from tests.e2e.processes import Deployment

__all__ = ["section"]

CONNECTIONS = 256
_PAGE = os.sysconf("SC_PAGE_SIZE")
_SAMPLES_A_SECOND = 5


def section(setting: Setting) -> list[str]:
    """Return the section about a paused writer."""
    seconds = max(setting.seconds, 20)
    deployed = Deployment(setting.data())
    try:
        deployed.start("etcd", "sandbox", "storage-coordinator", "api")
        writer = deployed.start("storage-writer", node_id="writer").process
        deployed.start("storage-reader", node_id="reader")
        source = deployed.start("http-source", node_id="source").process
        script = setting.single()
        url = deployed.define()
        load(url, CONNECTIONS, 5, script)
        before = _resident(source.pid)
        writer.send_signal(signal.SIGSTOP)
        runs: list[Figure] = []
        loading = threading.Thread(
            target=lambda: runs.append(load(url, CONNECTIONS, seconds, script))
        )
        loading.start()
        seen = []
        while loading.is_alive():
            seen.append(_resident(source.pid))
            time.sleep(1 / _SAMPLES_A_SECOND)
        loading.join()
        writer.send_signal(signal.SIGCONT)
        after = load(url, CONNECTIONS, 5, script)
    finally:
        deployed.stop_all()
    half = len(seen) // 2
    return [
        f"### A writer that is paused for {seconds} s, {CONNECTIONS} connections",
        "",
        "| memory of the source before, MB | most, first half | most, second half "
        "| non-2xx answers during the pause | records/s afterwards (errors) |",
        "|---|---|---|---|---|",
        f"| {before:.0f} | {max(seen[:half]):.0f} | {max(seen[half:]):.0f} "
        f"| {runs[0].errors:,} | {after.rate:,.0f} ({after.errors:,}) |",
        "",
    ]


def _resident(pid: int) -> float:
    """Return the resident memory in MB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE / 1e6
