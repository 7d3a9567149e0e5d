"""Many clients change the same sinks through two API processes."""

from __future__ import annotations

from benchmarks.api_stress import stress
from tests.e2e.processes import Deployment


def test_parallel_changes_leave_everything_consistent(deployed: Deployment) -> None:
    """No acknowledged change is lost, and definitions, files, slices and tokens fit together."""
    outcome = stress(deployed, clients=24, seconds=4)
    assert not outcome.unexpected
    assert outcome.is_consistent, outcome.invariants
    assert sum(outcome.tasks.values()) > 10
