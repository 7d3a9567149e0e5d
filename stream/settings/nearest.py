"""The setting that somebody probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable

from stream.settings.declare import ENV_PREFIX, Leaf
from stream.settings.tree import LEAVES

__all__ = ["close", "nearest"]

_CLOSE = 0.7


def nearest(name: str) -> str:
    """The existing name that resembles *name* most, in the same form.

    :param name: a key (``source.http.lisen``), a variable (``STREAM_NODEID``) or a flag
        (``--node_id``, or without the dashes).
    """
    spell: Callable[[Leaf], str]
    if name.startswith(ENV_PREFIX):
        spell = _env
    elif name.startswith("--"):
        spell = _dashed_flag
    elif "-" in name and "." not in name:
        spell = _flag
    else:
        spell = _key
    wanted = name.lower()
    return max(map(spell, LEAVES), key=lambda known: _resemblance(wanted, known.lower()))


def close(name: str, others: Iterable[str] = ()) -> str | None:
    """`nearest`, or one of *others* that is nearer, unless nothing resembles *name*."""
    wanted = name.lower()
    found = max([nearest(name), *others], key=lambda known: _resemblance(wanted, known.lower()))
    return found if _resemblance(name.lower(), found.lower())[0] >= _CLOSE else None


def _resemblance(wanted: str, known: str) -> tuple[float, float]:
    # The last segment breaks ties: "listen" resembles "api.listen" more than "api.task".
    last_wanted, last_known = wanted.rpartition(".")[2], known.rpartition(".")[2]
    return (
        difflib.SequenceMatcher(None, wanted, known, autojunk=False).ratio(),
        difflib.SequenceMatcher(None, last_wanted, last_known, autojunk=False).ratio(),
    )


def _key(leaf: Leaf) -> str:
    return leaf.key


def _env(leaf: Leaf) -> str:
    return leaf.env


def _flag(leaf: Leaf) -> str:
    return leaf.flag


def _dashed_flag(leaf: Leaf) -> str:
    return f"--{leaf.flag}"
