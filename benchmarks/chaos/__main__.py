"""``python -m benchmarks.chaos``: see the package."""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

import benchmarks.chaos
from benchmarks.chaos.killer import Plan
from benchmarks.chaos.report import markdown
from benchmarks.chaos.run import Settings, run


def main() -> int:
    """Run the test and print the report; the exit code is 1 after a failure."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.chaos", description=benchmarks.chaos.__doc__
    )
    parser.add_argument("--seconds", type=float, default=600.0, help="of load and killing")
    parser.add_argument("--rate", type=float, default=500.0, help="records a second")
    parser.add_argument("--retry", action="store_true", help="failed records are sent again")
    parser.add_argument("--seed", type=int, default=random.randrange(10_000))
    parser.add_argument("--interval", type=float, default=4.0, help="seconds between two hits")
    parser.add_argument("--pause", type=float, default=20.0, help="seconds of a SIGSTOP")
    parser.add_argument("--changes", type=float, default=15.0, help="seconds between two changes")
    parser.add_argument("--patience", type=float, default=900.0, help="seconds for the imports")
    parser.add_argument(
        "--client", action="store_true", help="producers are those of stream.client"
    )
    parser.add_argument(
        "--bad",
        type=int,
        default=0,
        help="with --client: one record of so many is rejected, and replayed",
    )
    parser.add_argument("--spare", default="", help="components that are left alone")
    parser.add_argument("--keep", action="store_true", help="logs and data in any case")
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="stream-chaos-"))
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - started:7.1f} {text}", file=sys.stderr, flush=True)

    say(f"seed {options.seed}, logs and data in {root}")
    spared = frozenset(filter(None, options.spare.split(",")))
    report = run(
        Settings(
            root=root,
            seconds=options.seconds,
            rate=options.rate,
            seed=options.seed,
            plan=Plan(interval=options.interval, pause=options.pause, spared=spared),
            retry=options.retry,
            patience=options.patience,
            changes=options.changes,
            with_client=options.client,
            bad=options.bad if options.client else 0,
            say=say,
        )
    )
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
