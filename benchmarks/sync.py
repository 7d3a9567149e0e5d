"""Single records in each sync mode, against the default: the disk, waited for."""

from __future__ import annotations

import statistics

from benchmarks.servers import service
from benchmarks.setting import Setting, cell
from benchmarks.singles import WARM_UP_SECONDS
from benchmarks.wrk import Figure, load

__all__ = ["section"]

CONNECTIONS = 256
_PREFIX = "STREAM_STORAGE_LEVEL_LOCAL_ENCODING_SYNC"
MODES = (("disk", "true"), ("disk", "false"), ("cache", "true"), ("cache", "false"))


def section(setting: Setting) -> list[str]:
    script = setting.single()
    figures: dict[tuple[str, str], list[Figure]] = {}
    for _ in range(setting.rounds):
        for mode, wait in MODES:
            chosen = {f"{_PREFIX}_MODE": mode, f"{_PREFIX}_WAIT": wait}
            with service(setting.data(), bound=True, **chosen) as running:
                load(running.url, CONNECTIONS, WARM_UP_SECONDS, script)
                run = load(running.url, CONNECTIONS, setting.seconds, script)
                figures.setdefault((mode, wait), []).append(run)
    usual = statistics.median(run.rate for run in figures[MODES[0]])
    return [
        f"### Sync modes, single records, {CONNECTIONS} connections",
        "",
        "| mode | waits | records/s, median (range) | p50 ms | p99 ms | errors | ÷ the default |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {mode} | {wait} | {cell(runs)} | {statistics.median(r.p50 for r in runs):.1f} "
            f"| {statistics.median(r.p99 for r in runs):.1f} | {sum(r.errors for r in runs)} "
            f"| {statistics.median(r.rate for r in runs) / usual:.2f} |"
            for (mode, wait), runs in figures.items()
        ),
        "",
    ]
