"""``python -m benchmarks.command_line``: start-up of `stream`; `push` compared with curl and wrk.

All senders send the same batches to the same service over the same number of connections,
alternating. wrk, if it is installed, sends one batch repeatedly for some seconds, without reading a
file. The processor time is that of the sender alone; it is comparable even on a busy machine.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import attrs

from benchmarks.servers import service
from benchmarks.wrk import load, write_script

_STARTS = 10
_BATCH = 5000
_PARALLEL = 4
_WRK_SECONDS = 10

_START = {
    "`stream --help`": "from stream.cli.main import run; run(['--help'])",
    "a command that calls the API, up to the call": "import stream.cli.commands.sources, "
    "stream.client.api, rich.cells",
    "`stream push`, up to the first batch": "import stream.cli.commands.push, "
    "stream.client.delivery",
    "Python alone": "pass",
}


@attrs.frozen
class Cost:
    """The cost of a run.

    :ivar seconds: wall-clock time.
    :ivar processor: processor time of the processes, in seconds.
    """

    seconds: float
    processor: float

    def of_million(self, records: float) -> Cost:
        """Return the cost of a million records; this one is that of *records*."""
        share = 1_000_000 / records
        return Cost(self.seconds * share, self.processor * share)


def _cost(command: Sequence[str], **environ: str) -> Cost:
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(
        command,
        env={**os.environ, **environ},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    seconds, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(seconds, processor)


def _starts() -> None:
    print("| command | ms, lowest of 10 | CPU ms |")
    print("|---|---|---|")
    for name, program in _START.items():
        costs = [_cost([sys.executable, "-c", program]) for _ in range(_STARTS)]
        lowest = min(cost.seconds for cost in costs)
        processor = min(cost.processor for cost in costs)
        print(f"| {name} | {lowest * 1000:.0f} | {processor * 1000:.0f} |")


def _senders(folder: Path, records: int, rounds: int) -> None:
    file = folder / "records.ndjson"
    parts = folder / "parts"
    parts.mkdir()
    lines = [
        json.dumps({"id": str(number), "user": {"name": "Ada"}, "text": "x" * 60}) + "\n"
        for number in range(records)
    ]
    file.write_text("".join(lines))
    for start in range(0, records, _BATCH):
        (parts / f"{start:010d}").write_text("".join(lines[start : start + _BATCH]))
    with service(folder / "service", bound=False) as running:
        url = running.url
        curl = (
            f"ls {parts}/* | xargs -P{_PARALLEL} -IPART curl -sSf --retry 9 -o /dev/null {url} "
            "-H 'Content-Type: application/x-ndjson' --data-binary @PART"
        )
        push = [sys.executable, "-m", "stream.cli", "push", url, str(file), "--quiet"]
        senders = {
            "`stream push`": [*push, f"--parallel={_PARALLEL}"],
            "`stream push --state`": [*push, f"--parallel={_PARALLEL}", "--state", "STATE"],
            "curl, a process for each batch": ["sh", "-c", curl],
        }
        found: dict[str, list[Cost]] = {name: [] for name in senders}
        for round in range(rounds):
            for name, command in senders.items():
                state = str(folder / f"state-{round}")
                cost = _cost([state if x == "STATE" else x for x in command])
                found[name].append(cost.of_million(records))
            if shutil.which("wrk"):
                found.setdefault("wrk", []).append(_wrk(folder, url, "".join(lines[:_BATCH])))
    print(f"\n| sender of {records:,} records | records/s, best | CPU s for a million |")
    print("|---|---|---|")
    for name, costs in found.items():
        rate = 1_000_000 / min(cost.seconds for cost in costs)
        print(f"| {name} | {rate:,.0f} | {min(cost.processor for cost in costs):.2f} |")


def _wrk(folder: Path, url: str, batch: str) -> Cost:
    """Return the cost of a million records by wrk."""
    script = write_script(folder / "batch.lua", "application/x-ndjson", batch)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    figure = load(url, _PARALLEL, _WRK_SECONDS, script, bound=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if figure.errors:
        raise RuntimeError(f"{figure.errors} answers to wrk weren't 2xx")
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    cost = Cost(float(_WRK_SECONDS), processor)
    return cost.of_million(figure.rate * _WRK_SECONDS * _BATCH)


def main() -> None:
    """Measure the command line and print the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.command_line")
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    _starts()
    with tempfile.TemporaryDirectory() as folder:
        _senders(Path(folder), options.records, options.rounds)


if __name__ == "__main__":
    main()
