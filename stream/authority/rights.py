"""The rights of a token. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Literal, get_args

from stream.errors import UserError, shortened

__all__ = ["BOOTSTRAP", "RIGHTS", "Right", "includes", "read_rights"]

Right = Literal["read", "write", "tail", "admin", "bootstrap"]

BOOTSTRAP: Right = "bootstrap"
"""The right of the bootstrap token; no other token gets it."""

RIGHTS: tuple[Right, ...] = tuple(right for right in get_args(Right) if right != BOOTSTRAP)
"""The rights that a token may have.

- ``read``: definitions, statistics, tasks; no record.
- ``write``: changes of sources and sinks, and ``read``.
- ``tail``: records as they arrive.
- ``admin``: the project's tokens and branches, and all other rights.
"""

_INCLUDED: Mapping[Right, frozenset[Right]] = {
    "read": frozenset({"read"}),
    "write": frozenset({"read", "write"}),
    "tail": frozenset({"tail"}),
    "admin": frozenset(RIGHTS),
    BOOTSTRAP: frozenset({"admin"}),
}

_PREFIX = "sources:"
"""Allowed prefix of a right: ``sources:write``."""


def includes(rights: Collection[Right], needed: Right) -> bool:
    """Return whether a token with *rights* has the right *needed*."""
    return any(needed in _INCLUDED[right] for right in rights)


def read_rights(names: Iterable[str]) -> tuple[Right, ...]:
    """Return the rights with these *names*, each once, in the order of `RIGHTS`.

    Raises UserError: a name is unknown, or there are no names.
    """
    given = {name.strip().removeprefix(_PREFIX) for name in names}
    for name in sorted(given.difference(RIGHTS)):
        raise UserError(
            f'unknown right "{shortened(name)}", expected one of {", ".join(RIGHTS)}',
            param="body.rights",
        )
    if not given:
        raise UserError(
            f"a token needs at least one of the rights {', '.join(RIGHTS)}", param="body.rights"
        )
    return tuple(right for right in RIGHTS if right in given)
