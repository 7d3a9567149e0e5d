"""Suggestions for misspelled names of settings and other objects."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from stream.settings.declare import ENV_PREFIX, Leaf
from stream.settings.tree import LEAVES

__all__ = ["close", "closest", "nearest"]

_CLOSE = 0.7
_COMPARED_CHARACTERS = 100


def nearest(name: str) -> str:
    """Return the existing name that is most similar to *name*, in the same form.

    :param name: a key (``source.http.lisen``), an environment variable (``STREAM_NODEID``) or a
        flag (``--node_id``, with or without the dashes).
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
    """Return `nearest`, or a closer name of *others*; ``None`` if nothing is similar to *name*."""
    return closest(name, [nearest(name), *others])


def closest(name: str, others: Iterable[str]) -> str | None:
    """Return the name in *others* that is most similar to *name*; ``None`` if none is similar.

    :param name: a name of any length; only its beginning is compared.
    """
    wanted = name[:_COMPARED_CHARACTERS].lower()
    found = max(others, key=lambda known: _resemblance(wanted, known.lower()), default=None)
    if found is None or _resemblance(wanted, found.lower())[0] < _CLOSE:
        return None
    return found


def _resemblance(wanted: str, known: str) -> tuple[float, float]:
    # Imported here, because it is needed only after a mistake.
    import difflib

    # The last segment breaks ties: "listen" is more similar to "api.listen" than to "api.task".
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
