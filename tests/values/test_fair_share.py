"""Shares of a limited number of places."""

from __future__ import annotations

import pytest

from stream.values.fair_share import may_take

LIMIT = 60


@pytest.mark.parametrize("projects", [1, 2, 3, 5, 20])
def test_all_projects_get_the_same_and_leave_room(projects: int) -> None:
    """However many projects take all that they may, each gets a share and there is more room."""
    taken = [0] * projects
    while any(may_take(own, sum(taken), LIMIT) for own in taken):
        for index in range(projects):
            taken[index] += may_take(taken[index], sum(taken), LIMIT)
    assert max(taken) - min(taken) <= 1
    assert min(taken) >= LIMIT // (projects + 1) - 1
    assert may_take(0, sum(taken), LIMIT)


def test_the_limit() -> None:
    """Nothing is taken beyond the limit."""
    assert not may_take(0, LIMIT, LIMIT)
