"""Many clients change the same sinks through two API processes."""

from __future__ import annotations

from benchmarks.api_stress import stress
from tests.e2e.processes import Deployment


def test_parallel_changes_are_consistent(deployed: Deployment) -> None:
    """No acknowledged change is lost, and definitions, files, slices and tokens are consistent."""
    outcome = stress(deployed, clients=24, seconds=4)
    assert not outcome.unexpected
    assert outcome.is_consistent, outcome.invariants
    assert sum(outcome.tasks.values()) > 10
