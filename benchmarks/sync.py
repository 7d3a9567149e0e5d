"""Single records in each sync mode, compared with the default: the disk, with waiting.

It also measures the share of checksums if rows are sent over a connection to the writer.
"""

from __future__ import annotations

import statistics
import time

from benchmarks.servers import service
from benchmarks.setting import Setting, cell, record_body
from benchmarks.singles import WARM_UP_SECONDS
from benchmarks.wrk import Figure, load
from stream.storage.network.commands import checksum

__all__ = ["section"]

CONNECTIONS = 256
_PREFIX = "STREAM_STORAGE_LEVEL_LOCAL_ENCODING_SYNC"
GROUP_RECORDS = 100
CHECKSUM_ROUNDS = 2000
MODES = (("disk", "true"), ("disk", "false"), ("cache", "true"), ("cache", "false"))


def section(setting: Setting) -> list[str]:
    """Return the section about sync modes."""
    script = setting.single()
    figures: dict[tuple[str, str], list[Figure]] = {}
    syncs: dict[tuple[str, str], list[float]] = {}
    for _ in range(setting.rounds):
        for mode, wait in MODES:
            chosen = {f"{_PREFIX}_MODE": mode, f"{_PREFIX}_WAIT": wait}
            with service(setting.data(), bound=True, **chosen) as running:
                load(running.url, CONNECTIONS, WARM_UP_SECONDS, script)
                before = running.syncs
                run = load(running.url, CONNECTIONS, setting.seconds, script)
                syncs.setdefault((mode, wait), []).append(
                    (running.syncs - before) / setting.seconds
                )
                figures.setdefault((mode, wait), []).append(run)
    usual = statistics.median(run.rate for run in figures[MODES[0]])
    return [
        f"### Sync modes, single records, {CONNECTIONS} connections",
        "",
        "| mode | waits | records/s, median (range) | p50 ms | p99 ms | errors | ÷ the default "
        "| fdatasync/s |",
        "|---|---|---|---|---|---|---|---|",
        *(
            f"| {mode} | {wait} | {cell(runs)} | {statistics.median(r.p50 for r in runs):.1f} "
            f"| {statistics.median(r.p99 for r in runs):.1f} | {sum(r.errors for r in runs)} "
            f"| {statistics.median(r.rate for r in runs) / usual:.2f} "
            f"| {statistics.median(syncs[mode, wait]):.0f} |"
            for (mode, wait), runs in figures.items()
        ),
        "",
        _checksums(usual),
        "",
    ]


def _checksums(rate: float) -> str:
    """Measure the cost of checking each group at both ends of the connection to a writer.

    :param rate: records/s of the default.
    """
    group = (record_body() + "\n").encode() * GROUP_RECORDS
    start = time.process_time()
    for _ in range(CHECKSUM_ROUNDS):
        checksum(group)
    seconds = 2 * (time.process_time() - start) / CHECKSUM_ROUNDS / GROUP_RECORDS
    return (
        f"Computing the checksum of an uncompressed group of {GROUP_RECORDS} records at both ends "
        f"takes {seconds * 1e9:.0f} ns per record, {100 * seconds * rate:.2f} % of its time."
    )
