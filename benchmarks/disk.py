"""The duration of a sync of the disk, as a lower bound of the latency of records."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.markdown import share

__all__ = ["beside", "cell", "idle", "paced"]

PROBE_BYTES = 16 * 1024
"""Bytes written before each sync, as in a group of a few hundred records."""

LONE_BYTES = 100
"""Bytes written before a sync that is compared with a lone record: as many as its group."""

REST_SECONDS = 0.01
"""The pause between syncs during other work: short enough to find the slowest, at a low load."""


def _sync_ms(descriptor: int, size: int = PROBE_BYTES) -> float:
    os.write(descriptor, b"x" * size)
    start = time.perf_counter()
    os.fdatasync(descriptor)
    return 1000 * (time.perf_counter() - start)


def idle(folder: Path, count: int = 300) -> list[float]:
    """Return the durations of *count* syncs in a row in *folder*, milliseconds."""
    with (folder / "sync-probe").open("wb", buffering=0) as file:
        return [_sync_ms(file.fileno()) for _ in range(count)]


def paced(folder: Path, rate: float, seconds: float) -> list[float]:
    """Return the durations of *rate* syncs a second in *folder*, milliseconds."""
    durations: list[float] = []
    with (folder / "sync-probe").open("wb", buffering=0) as file:
        due = time.perf_counter()
        for _ in range(max(1, round(rate * seconds))):
            time.sleep(max(0.0, due - time.perf_counter()))
            durations.append(_sync_ms(file.fileno(), LONE_BYTES))
            due += 1 / rate
    return durations


@contextmanager
def beside(folder: Path) -> Iterator[list[float]]:
    """Sync a file in *folder* at intervals while something else is measured.

    The value is the growing list of durations in milliseconds.
    """
    found: list[float] = []
    ended = threading.Event()

    def probe() -> None:
        with (folder / "sync-probe").open("wb", buffering=0) as file:
            while not ended.wait(REST_SECONDS):
                found.append(_sync_ms(file.fileno()))

    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()


def cell(durations: list[float]) -> str:
    """Return the median and the 99th percentile of *durations*."""
    return f"{share(durations, 0.5):.2f} ({share(durations, 0.99):.2f})"
