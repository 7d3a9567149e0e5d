"""Random histories keep the invariants, and detect deliberate faults of the service.

``make model`` runs more and longer histories than the ordinary test run; see docs/architecture.md.
"""

from __future__ import annotations

import os
import sys

import pytest
import pytest_twisted
from hypothesis.errors import Flaky

from stream.etcd import EtcdClient
from tests.breaking import broken
from tests.storage.histories.histories import Histories, run_histories
from tests.storage.histories.variants import VARIANTS

HISTORIES = int(os.environ.get("MODEL_HISTORIES", "6"))
STEPS = int(os.environ.get("MODEL_STEPS", "40"))
HISTORIES_OF_VARIANTS = 60


@pytest_twisted.ensureDeferred
async def test_the_invariants_of_any_history(
    etcd: EtcdClient, etcd_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The invariants hold after every step of any history, and in the end everything is
    imported.
    """
    figures = await run_histories(
        etcd,
        etcd_url,
        monkeypatch,
        histories=HISTORIES,
        steps=STEPS,
        derandomize="MODEL_HISTORIES" not in os.environ,
    )
    sys.stdout.write(f"{dict(figures)}\n")


@pytest.mark.parametrize("name", sorted(VARIANTS))
@pytest_twisted.ensureDeferred
async def test_a_deliberate_fault_is_detected(
    etcd: EtcdClient, etcd_url: str, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A deliberate fault violates an invariant in one of the histories."""
    variant = VARIANTS[name]
    # A repeated race may have another result, which Hypothesis calls flaky.
    with broken(variant.patches), pytest.raises((AssertionError, Flaky)):
        await run_histories(
            etcd,
            etcd_url,
            monkeypatch,
            histories=HISTORIES_OF_VARIANTS,
            steps=STEPS,
            derandomize=True,
            shrink=False,
        )
    assert any(variant.symptom in text for text in Histories.found)
