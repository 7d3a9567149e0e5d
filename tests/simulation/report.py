"""What the runner of many seeds prints: how far it is, and what it found."""

from __future__ import annotations

from collections import Counter

import attrs

from tests.simulation.world import Result

__all__ = ["Detection", "Progress", "Totals"]

_MINUTE_SECONDS = 60.0


@attrs.define
class Totals:
    """The sums over all seeds that have run."""

    seeds: int = 0
    failed: int = 0
    steps: int = 0
    written: int = 0
    acknowledged: int = 0
    rows: int = 0
    slices: int = 0
    faults: Counter[str] = attrs.Factory(Counter)
    logged: Counter[str] = attrs.Factory(Counter)

    def add(self, result: Result) -> None:
        """Add the result of one seed."""
        self.seeds += 1
        self.failed += bool(result.violations)
        self.steps += result.steps
        self.written += result.written
        self.acknowledged += result.acknowledged
        self.rows += result.rows
        self.slices += result.slices
        self.faults += result.faults
        self.logged += result.logged

    def summary(self, seconds: float) -> str:
        """Return the report of the whole run."""
        lines = [
            f"{self.seeds:,} seeds in {seconds:.0f} s: {self.failed} failed; {self.steps:,} "
            f"events, {self.written:,} records, {self.acknowledged:,} acknowledged, "
            f"{self.rows:,} rows in {self.slices:,} slices; "
            f"faults {self.faults.total():,}: {dict(sorted(self.faults.items()))}"
        ]
        lines += [f"{count:6} times logged: {text}" for text, count in self.logged.most_common()]
        return "\n".join(lines)


class Progress:
    """Decides when a line about the progress is due.

    :param seeds: number of seeds to run.
    :param every: seconds between two lines.
    :param started: time of the start in seconds.
    """

    def __init__(self, seeds: int, every: float, started: float) -> None:
        self._seeds = seeds
        self._every = every
        self._started = started
        self._told = started

    def elapsed(self, now: float) -> float:
        """Return the seconds since the start."""
        return now - self._started

    def line(self, totals: Totals, now: float) -> str:
        """Return a line if one is due, else an empty text."""
        if now - self._told < self._every or not totals.seeds:
            return ""
        self._told = now
        seconds = self.elapsed(now)
        left = seconds / totals.seeds * (self._seeds - totals.seeds)
        return (
            f"{totals.seeds:,} of {self._seeds:,} seeds in {seconds:.0f} s, "
            f"about {left / _MINUTE_SECONDS:.0f} min left: {totals.failed} failed, "
            f"{totals.acknowledged:,} records acknowledged, {totals.faults.total():,} faults"
        )


@attrs.frozen
class Detection:
    """How many seeds it takes to detect a deliberate fault.

    :ivar seeds: maximum number of seeds.
    :ivar needed: number of seeds up to the first one that reports the symptom; ``None`` if none
        does.
    """

    variant: str
    seeds: int
    needed: int | None

    def __str__(self) -> str:
        if self.needed is None:
            return f"{self.variant}: not detected by {self.seeds} seeds"
        return f"{self.variant}: detected by seed number {self.needed}"
