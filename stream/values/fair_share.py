"""A share of a limited number of places for each project, which leaves room for others. Pure.

Note [Shares]: a project may have as many places as are free. So one project alone gets half of all,
two get a third each, and any number of projects leave room for the next one, without a fixed share.
"""

from __future__ import annotations

__all__ = ["may_take"]


def may_take(own: int, taken: int, limit: int) -> bool:
    """Return whether a project may take another place; see Note [Shares].

    :param own: places that the project has.
    :param taken: places that all projects have, including this one.
    :param limit: number of all places.
    """
    return own < limit - taken
