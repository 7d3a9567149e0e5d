"""Bad clients in small numbers: the good one goes on, and memory stays."""

from __future__ import annotations

from benchmarks.abuse import SCENARIOS, run


def test_a_good_client_is_served_beside_bad_ones() -> None:
    """Each of its records is answered with 200, whatever the others do."""
    rows = run(scale=100)
    assert [row.name for row in rows[1:-1]] == list(SCENARIOS)
    outcomes = {row.name: row.outcome for row in rows}
    assert outcomes["announced body, 1 GiB"] == "413"
    assert outcomes["gzip bomb, 1 GiB"].endswith("5 × 415")  # a hundredth is allowed, but no type
    for row in rows:
        assert row.rate > 0
        assert row.failures == 0, row
        assert row.memory[1] - row.memory[0] < 200, row
