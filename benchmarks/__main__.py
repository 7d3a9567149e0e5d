"""``make bench``: compares the service with other servers and with itself, alternating in one run.

Every server is bound to one core and the load to another. Only the ratios are comparable, because
machines differ, and one machine varies over time.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import (
    batches,
    beside,
    costs,
    defined,
    low,
    mappings,
    otlp,
    overload,
    pace,
    singles,
    sinks,
    stopped,
    sync,
    tails,
    workers,
)
from benchmarks.servers import ROOT
from benchmarks.setting import Setting

__all__ = ["main"]

REPORT = ROOT / "docs" / "performance.md"
MARK = "<!-- figures -->"

SECTIONS: dict[str, Callable[[Setting], list[str]]] = {
    "singles": singles.section,
    "connections": singles.section_many,
    "batches": batches.section,
    "sizes": batches.section_sizes,
    "otlp": otlp.section,
    "mappings": mappings.section,
    "sinks": sinks.section,
    "pace": pace.section,
    "low": low.section,
    "overload": overload.section,
    "costs": costs.section,
    "beside": beside.section,
    "defined": defined.section,
    "workers": workers.section,
    "tails": tails.section,
    "sync": sync.section,
    "stopped": stopped.section,
}
"""The measuring functions by section; each returns the lines of its report."""


def main() -> None:
    """Run the benchmarks and write their figures into the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=8, help="of each run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--print", action="store_true", help="don't write docs/performance.md")
    arguments = parser.parse_args()
    if not shutil.which("wrk"):
        raise SystemExit("make bench needs wrk (Debian: apt-get install wrk)")
    lines = [
        f"Measured {datetime.now(UTC):%Y-%m-%d %H:%M} UTC on {os.cpu_count()} cores, "
        f"Python {platform.python_version()}; {arguments.rounds} rounds of "
        f"{arguments.seconds} seconds.",
        "",
    ]
    with tempfile.TemporaryDirectory(prefix="stream-bench-") as folder:
        setting = Setting(Path(folder), arguments.seconds, arguments.rounds)
        for name in arguments.only:
            began = time.monotonic()
            section = _measured(name, setting)
            print("\n".join(section), flush=True)
            print(f"({name}: {time.monotonic() - began:.0f} s)\n", flush=True)
            lines += [*section, ""]
    if not arguments.print:
        before = REPORT.read_text().partition(MARK)[0]
        REPORT.write_text(f"{before}{MARK}\n\n" + "\n".join(lines))


def _measured(name: str, setting: Setting) -> list[str]:
    """Return the lines of a section; one that fails doesn't prevent the others."""
    try:
        return SECTIONS[name](setting)
    except Exception as error:
        traceback.print_exc()
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        return [f"### {name.capitalize()}", "", f"Not measured: {reason}", ""]


if __name__ == "__main__":
    main()
