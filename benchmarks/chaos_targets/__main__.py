"""``python -m benchmarks.chaos_targets``: see the package."""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

import benchmarks.chaos_targets
from benchmarks.chaos.killer import Plan
from benchmarks.chaos.stages import Settings
from benchmarks.chaos_targets.run import markdown, run
from tests.postgres import running_postgres

KINDS = ("kill -9", "kill -9", "kill -9", "SIGSTOP")
SPARED = frozenset({"etcd", "sandbox", "api", "http-source", "storage-writer", "storage-reader"})


def main() -> int:
    """Run the test and print the report; the exit code is 1 after a failure."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.chaos_targets", description=benchmarks.chaos_targets.__doc__
    )
    parser.add_argument("--seconds", type=float, default=600.0, help="of load and killing")
    parser.add_argument("--rate", type=float, default=300.0, help="records a second")
    parser.add_argument("--seed", type=int, default=random.randrange(10_000))
    parser.add_argument("--interval", type=float, default=6.0, help="seconds between two hits")
    parser.add_argument("--pause", type=float, default=20.0, help="seconds of a SIGSTOP")
    parser.add_argument("--patience", type=float, default=900.0, help="seconds for the imports")
    parser.add_argument(
        "--bad",
        type=int,
        default=0,
        help="one record of so many is rejected, and replayed; the API is killed, too",
    )
    parser.add_argument("--keep", action="store_true", help="logs and data in any case")
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="stream-chaos-"))
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - started:7.1f} {text}", file=sys.stderr, flush=True)

    say(f"seed {options.seed}, logs and data in {root}")
    spared = SPARED - {"api"} if options.bad else SPARED
    settings = Settings(
        root=root,
        seconds=options.seconds,
        rate=options.rate,
        seed=options.seed,
        plan=Plan(
            interval=options.interval, pause=options.pause, spared=spared, most=2, kinds=KINDS
        ),
        bad=options.bad,
        patience=options.patience,
        say=say,
    )
    with running_postgres() as server:
        report = run(settings, server)
    text = markdown(report)
    sys.stdout.write(text)
    if report.is_good and not options.keep:
        shutil.rmtree(root)
    else:
        (root / "report.md").write_text(text)
        say(f"logs and data are kept in {root}")
    return 0 if report.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
