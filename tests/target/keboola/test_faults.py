"""The life of a sink with each fault of the sandbox: each record is exactly one row.

A few faults are always tested, and all with ``STREAM_FAULTS=all`` (``make faults``), which prints a
table.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest
import pytest_twisted

from benchmarks.markdown import table
from stream.etcd import EtcdClient
from tests.sandbox.test_faults import ROUTES as SANDBOX_ROUTES
from tests.target.keboola.bridge import running_bridge
from tests.target.keboola.faults import CASES, ROUTES, ROWS, SHORT, Outcome, live

ALL = os.environ.get("STREAM_FAULTS") == "all"
_HEAD = (
    *("fault", "step", "attempts", "the route's answers", "uploads of 2 slices"),
    *("import jobs", "rows of 3", "duplicates", "orphaned tokens and files"),
    *("events of slices, of files", "errors shown to the owner"),
)


@pytest.fixture(scope="module")
def report() -> Iterator[dict[str, Outcome]]:
    """Print the outcome of each case at the end."""
    outcomes: dict[str, Outcome] = {}
    yield outcomes
    print("\n\n" + table(_HEAD, [_row(name, outcome) for name, outcome in outcomes.items()]))


def _row(name: str, outcome: Outcome) -> tuple[object, ...]:
    return (
        name,
        CASES[name].step.rstrip("_").replace("_", " "),
        outcome.attempts,
        ", ".join(map(str, outcome.answers)),
        outcome.uploads,
        ", ".join(f"{count} {status}" for status, count in sorted(outcome.jobs.items())),
        len(outcome.rows),
        sum(outcome.rows.values()) - len(outcome.rows),
        ", ".join(map(str, outcome.left)),
        ", ".join(map(str, outcome.events)),
        "; ".join(problem.partition(", method")[0] for problem in outcome.problems),
    )


@pytest.mark.parametrize("name", CASES if ALL else SHORT)
@pytest_twisted.ensureDeferred
async def test_each_record_is_one_row_after_a_fault(
    etcd: EtcdClient, tmp_path: Path, name: str, report: dict[str, Outcome]
) -> None:
    """The life of a sink continues after the fault, and each record is exactly one row."""
    case = CASES[name]
    async with running_bridge(etcd, tmp_path) as bridge:
        outcome = await live(bridge, tmp_path, case)
    report[name] = outcome
    assert outcome.rows == Counter(chain(*ROWS))
    assert tuple(outcome.answers[: len(case.answers)]) == case.answers
    assert outcome.attempts == case.attempts
    assert outcome.uploads == case.uploads
    assert outcome.jobs == Counter(dict(case.jobs))
    assert outcome.left == case.left
    assert outcome.events == case.events


def test_each_route_has_cases() -> None:
    """Each route that the service calls has faults."""
    calls = ROUTES.keys() & SANDBOX_ROUTES.keys()
    assert SANDBOX_ROUTES.keys() - calls == {"previewTable", "listFiles", "getFile", "listEvents"}
    for route in ROUTES:
        assert any(name.startswith(f"503 twice: {route}") for name in CASES), route
