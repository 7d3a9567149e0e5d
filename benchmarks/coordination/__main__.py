"""``python -m benchmarks.coordination NAME``: see the package."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import benchmarks.coordination
from benchmarks.coordination import coordinators, faults, latency, storm, triggers

__all__ = ["main"]

Say = Callable[[str], None]


def main() -> int:
    """Run the measurement and print the report; the exit code is 1 after a failure."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.coordination", description=benchmarks.coordination.__doc__
    )
    names = parser.add_subparsers(dest="name", required=True)
    many = names.add_parser("coordinators")
    many.add_argument("--seconds", type=float, default=180.0, help="of records and killing")
    many.add_argument("--sinks", type=int, default=300)
    many.add_argument("--every", type=float, default=20.0, help="seconds between two kills")
    many.add_argument("--pace", type=float, default=2.0, help="seconds between two records")
    many.set_defaults(do=_coordinators)
    way = names.add_parser("latency")
    way.add_argument("--seconds", type=float, default=180.0, help="of records")
    way.add_argument("--pace", type=float, default=0.05, help="seconds between two records")
    way.set_defaults(do=_latency)
    failing = names.add_parser("faults")
    failing.add_argument("--seconds", type=float, default=120.0, help="of each fault")
    failing.add_argument("--only", default="", help="part of the name of a case")
    failing.set_defaults(do=_faults)
    names.add_parser("triggers").set_defaults(do=_triggers)
    together = names.add_parser("storm")
    together.add_argument("--sinks", type=int, default=1000)
    together.set_defaults(do=_storm)
    for name in names.choices.values():
        name.add_argument("--keep", action="store_true", help="logs and data in any case")
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix=f"stream-{options.name}-"))
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - started:7.1f} {text}", file=sys.stderr, flush=True)

    say(f"logs and data in {root}")
    text, is_good = options.do(options, root, say)
    sys.stdout.write(text)
    if is_good and not options.keep:
        shutil.rmtree(root)
    else:
        (root / "report.md").write_text(text)
        say(f"logs and data are kept in {root}")
    return 0 if is_good else 1


def _coordinators(options: argparse.Namespace, root: Path, say: Say) -> tuple[str, bool]:
    report = coordinators.run(
        coordinators.Plan(
            root,
            sinks=options.sinks,
            seconds=options.seconds,
            every=options.every,
            pace=options.pace,
            say=say,
        )
    )
    return coordinators.markdown(report), report.is_good


def _latency(options: argparse.Namespace, root: Path, say: Say) -> tuple[str, bool]:
    return latency.measure(root, options.seconds, options.pace)


def _faults(options: argparse.Namespace, root: Path, say: Say) -> tuple[str, bool]:
    window = faults.Window(options.seconds)
    names = [name for name in faults.CASES if options.only in name]
    outcomes = faults.run(root, window, names)
    return faults.markdown(outcomes, window), all(outcome.is_good for outcome in outcomes)


def _triggers(options: argparse.Namespace, root: Path, say: Say) -> tuple[str, bool]:
    found = triggers.run(root)
    return triggers.markdown(found), all(case.is_good for case in found)


def _storm(options: argparse.Namespace, root: Path, say: Say) -> tuple[str, bool]:
    return storm.markdown(storm.measure(root, options.sinks)), True


if __name__ == "__main__":
    sys.exit(main())
