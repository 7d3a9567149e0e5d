"""The log of requests to etcd: methods and keys, never values."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["keys_of"]

MAX_KEYS = 20


def keys_of(body: Mapping[str, Any]) -> str:
    """Return the keys of a request, each once, with the operation, as in ``put a, range b…``.

    Values are omitted, because they may be tokens or encrypted.
    """
    named = list(dict.fromkeys(_named(body)))
    left_out = len(named) - MAX_KEYS
    more = f" and {left_out} more" if left_out > 0 else ""
    return ", ".join(named[:MAX_KEYS]) + more


def _named(body: Mapping[str, Any], what: str = "") -> Iterator[str]:
    key = body.get("key")
    if isinstance(key, str):
        to = "…" if body.get("range_end") else ""
        yield f"{what} {b64decode(key).decode(errors='replace')}{to}".strip()
    for name, member in body.items():
        for item in member if isinstance(member, list) else [member]:
            if isinstance(item, Mapping):
                yield from _named(item, name.removeprefix("request_"))
