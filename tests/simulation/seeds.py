"""Running many seeds in several processes."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from typing import TypeVar

from twisted.logger import globalLogBeginner

from tests.breaking import broken
from tests.simulation.variants import VARIANTS
from tests.simulation.world import simulate

__all__ = ["detects", "ignore_logs", "results"]

T = TypeVar("T")


@contextmanager
def results(
    run: Callable[[int], T], seeds: Iterable[int], jobs: int, *, are_sorted: bool = False
) -> Iterator[Iterator[T]]:
    """Run *seeds* in *jobs* processes, and yield the results as they are ready.

    :param are_sorted: whether the results are in the order of the seeds.
    """
    if jobs == 1:
        yield map(run, seeds)
        return
    # A new interpreter for each: a fork would share the state of the reactor.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, _begin_child) as pool:
        running = [pool.submit(run, seed) for seed in seeds]
        try:
            yield (each.result() for each in (running if are_sorted else as_completed(running)))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _begin_child() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends the others
    ignore_logs()


def ignore_logs() -> None:
    """Discard the log of this process."""
    globalLogBeginner.beginLoggingTo([], redirectStandardIO=False, discardBuffer=True)


def detects(name: str, seed: int) -> bool:
    """Return whether *seed* detects the variant with this name."""
    variant = VARIANTS[name]
    with broken(variant.patches):
        result = simulate(seed, faults=variant.faults, all_kinds=True)
    return any(variant.symptom in violation for violation in result.violations)
