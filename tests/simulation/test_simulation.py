"""A few seeds of the simulation; ``make simulate`` runs thousands."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.breaking import broken
from tests.simulation.variants import VARIANTS
from tests.simulation.world import simulate

_SEEDS = 18
_PARTS = 3
_ENOUGH_SEEDS = 200
_ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("part", range(_PARTS))
def test_no_fault_loses_or_duplicates_records(part: int) -> None:
    """A violation is shown with its seed; ``python -m tests.simulation --seed N`` replays it."""
    broken = {}
    acknowledged = faults = 0
    for seed in range(part, _SEEDS, _PARTS):
        result = simulate(seed)
        acknowledged += result.acknowledged
        faults += sum(result.faults.values())
        if result.violations:
            broken[seed] = result.violations
    assert broken == {}
    assert acknowledged > 100 * _SEEDS // _PARTS
    assert faults > _SEEDS // _PARTS


def test_without_faults() -> None:
    """Every record is acknowledged and is in one slice, and nothing is refused.

    The seed has a network that is fast enough for every lease.
    """
    result = simulate(2, faults=())
    assert result.violations == ()
    assert result.written == result.acknowledged == result.rows > 100
    assert result.slices > 3


def test_a_seed_is_deterministic() -> None:
    """A second run has the same events."""
    first, second, other = simulate(7), simulate(7), simulate(8)
    assert (first.trace, first.steps) == (second.trace, second.steps)
    assert first.trace != other.trace


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_a_seed_is_deterministic_in_another_process(hash_seed: str) -> None:
    """Memory addresses and the order of sets have no effect."""
    code = "from tests.simulation.world import simulate; print(simulate(7).trace)"
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(_ROOT)}
    told = subprocess.run(
        [sys.executable, "-c", code],
        cwd=_ROOT,
        env=environment,
        capture_output=True,
        check=True,
        text=True,
    )
    assert told.stdout.strip() == simulate(7).trace


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_faulty_variants_are_detected(name: str) -> None:
    """The simulation reports a violation for each variant."""
    variant = VARIANTS[name]
    with broken(variant.patches):
        for number in range(_ENOUGH_SEEDS):
            seed = variant.start + number
            result = simulate(seed, faults=variant.faults, all_kinds=True)
            if any(variant.symptom in violation for violation in result.violations):
                return
    pytest.fail(f"{_ENOUGH_SEEDS} seeds without a violation")
