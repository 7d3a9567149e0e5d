"""``python -m tests.simulation``: runs many seeds, or one with a full trace.

The seeds are shared among processes. A line every few seconds says how far they are; each
violation is printed when it is found. ``--variants`` runs the deliberate faults of
`tests.simulation.variants` instead, and prints how many seeds each of them needs to be detected.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from contextlib import suppress
from functools import partial

from tests.simulation.report import Detection, Progress, Totals
from tests.simulation.seeds import detects, ignore_logs, results
from tests.simulation.variants import VARIANTS
from tests.simulation.world import FAULTS, simulate

_HASH_SEED = "PYTHONHASHSEED"


def main() -> int:
    """Run the seeds. Returns 1 if one has a violation, or if a variant isn't detected."""
    options = _options()
    if os.environ.get(_HASH_SEED) != "0":
        # The order of sets must be the same in each process.
        os.environ[_HASH_SEED] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "tests.simulation", *sys.argv[1:]])
    ignore_logs()
    if options.seed is not None:
        return _show(options)
    return _variants(options) if options.variants else _many(options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--trace", action="store_true", help="print all its events")
    parser.add_argument("--seeds", type=int, default=1000, help="how many")
    parser.add_argument("--start", type=int, default=0, help="the first one")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--every", type=float, default=10.0, help="seconds between two reports")
    parser.add_argument("--all", action="store_true", help="every kind of fault in each seed")
    parser.add_argument("--faults", type=lambda text: tuple(text.split(",")), default=tuple(FAULTS))
    parser.add_argument("--variants", action="store_true", help="run the deliberate faults")
    return parser.parse_args()


def _show(options: argparse.Namespace) -> int:
    result = simulate(
        options.seed,
        faults=options.faults,
        all_kinds=options.all,
        watcher=print if options.trace else None,
    )
    print(result)
    return bool(result.violations)


def _many(options: argparse.Namespace) -> int:
    seeds = range(options.start, options.start + options.seeds)
    run = partial(simulate, faults=options.faults, all_kinds=options.all)
    progress = Progress(options.seeds, options.every, time.monotonic())
    totals = Totals()
    with suppress(KeyboardInterrupt), results(run, seeds, options.jobs) as ended:
        for result in ended:
            totals.add(result)
            if result.violations:
                print(f"seed {result.seed}:", *result.violations[:5], sep="\n  ", flush=True)
            line = progress.line(totals, time.monotonic())
            if line:
                print(line, flush=True)
    print(totals.summary(progress.elapsed(time.monotonic())))
    return bool(totals.failed) or totals.seeds < options.seeds


def _variants(options: argparse.Namespace) -> int:
    """Run seeds with each variant until one detects it."""
    found: list[Detection] = []
    seeds = range(options.start, options.start + options.seeds)
    with suppress(KeyboardInterrupt):
        for name in VARIANTS:
            started, needed = time.monotonic(), None
            run = partial(detects, name)
            with results(run, seeds, options.jobs, are_sorted=True) as ended:
                for number, is_detected in enumerate(ended, 1):
                    if is_detected:
                        needed = number
                        break
            found.append(Detection(name, options.seeds, needed))
            print(f"{found[-1]} in {time.monotonic() - started:.0f} s", flush=True)
    return len(found) < len(VARIANTS) or any(each.needed is None for each in found)


if __name__ == "__main__":
    sys.exit(main())
