"""Random histories keep the rules; and they would find out if the service didn't.

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
async def test_the_rules_hold_after_every_step_of_any_history(
    etcd: EtcdClient, etcd_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After every step of any history the rules hold, and in the end everything is imported."""
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
async def test_a_service_broken_on_purpose_is_found_out(
    etcd: EtcdClient, etcd_url: str, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A service that is broken on purpose breaks a rule in one of the histories."""
    variant = VARIANTS[name]
    # A race may end differently when it is run again, and then it is called flaky.
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
