"""``python -m tests.simulation``: runs many seeds, or one with a full trace."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter

from twisted.logger import globalLogBeginner

from tests.simulation.world import FAULTS, simulate

_HASH_SEED = "PYTHONHASHSEED"


def main() -> int:
    """Run the seeds. Returns 1 if one has a violation."""
    options = _options()
    if os.environ.get(_HASH_SEED) != "0":
        # The order of sets must be the same in each process.
        os.environ[_HASH_SEED] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "tests.simulation", *sys.argv[1:]])
    globalLogBeginner.beginLoggingTo([], redirectStandardIO=False, discardBuffer=True)
    if options.seed is not None:
        return _show(options)
    return _many(options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--trace", action="store_true", help="print all its events")
    parser.add_argument("--seeds", type=int, default=1000, help="how many")
    parser.add_argument("--start", type=int, default=0, help="the first one")
    parser.add_argument("--all", action="store_true", help="every kind of fault in each seed")
    parser.add_argument("--faults", type=lambda text: tuple(text.split(",")), default=tuple(FAULTS))
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
    started = time.monotonic()
    failed = steps = written = acknowledged = rows = slices = 0
    struck: Counter[str] = Counter()
    logged: Counter[str] = Counter()
    for seed in range(options.start, options.start + options.seeds):
        result = simulate(seed, faults=options.faults, all_kinds=options.all)
        steps += result.steps
        written += result.written
        acknowledged += result.acknowledged
        rows += result.rows
        slices += result.slices
        struck += result.faults
        logged += result.logged
        if result.violations:
            failed += 1
            print(f"seed {seed}:", *result.violations[:5], sep="\n  ", flush=True)
    seconds = time.monotonic() - started
    print(
        f"{options.seeds} seeds in {seconds:.0f} s: {failed} failed; {steps} events, "
        f"{written} records, {acknowledged} acknowledged, {rows} rows in {slices} slices; "
        f"faults {sum(struck.values())}: {dict(sorted(struck.items()))}"
    )
    for text, count in logged.most_common():
        print(f"{count:6} times logged: {text}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
