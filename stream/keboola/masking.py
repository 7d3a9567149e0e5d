"""Texts and bodies of the Storage API without what must not be seen in a log. Pure.

Which member holds a secret is told by its name; the secrets found so, and those the caller knows,
are masked wherever else they stand, since an API may quote them in any text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

__all__ = ["MASK", "hide_secrets", "masked"]

MASK = "***"
_SECRET_NAME = re.compile(
    r"(?i)token|secret|passw|credential|signature|authorization|access_?key|private_?key"
    r"|connection_?string"
)
_TOKEN_FORM = re.compile(r"\b\d+-\d+-[0-9A-Za-z_-]{16,}")
_SIGNATURE = re.compile(r"(?i)\b(sig|signature|x-amz-(?:signature|security-token))=[^&;\s\"')]+")
_SHORTEST = 6
"""A shorter text opens nothing, and looking for it elsewhere would only spoil other words."""


def hide_secrets(text: str, known: Iterable[str]) -> str:
    """*text* without the *known* secrets, and without what has the form of a token or signature."""
    for secret in sorted(known, key=len, reverse=True):
        if len(secret) >= _SHORTEST:
            text = text.replace(secret, MASK)
    return _SIGNATURE.sub(rf"\1={MASK}", _TOKEN_FORM.sub(MASK, text))


def masked(value: Any, known: Iterable[str]) -> Any:
    """Decoded JSON with every secret in it masked; numbers and booleans stay."""
    return _masked(value, {*known, *_secrets(value, False)}, False)


def _secrets(value: Any, is_secret: bool) -> Iterator[str]:
    """The texts that stand under a secret's name."""
    if isinstance(value, Mapping):
        for name, member in value.items():
            yield from _secrets(member, is_secret or _is_secret(name))
    elif isinstance(value, list):
        for item in value:
            yield from _secrets(item, is_secret)
    elif is_secret and isinstance(value, str):
        yield value


def _masked(value: Any, known: set[str], is_secret: bool) -> Any:
    if isinstance(value, Mapping):
        return {
            hide_secrets(str(name), known): _masked(member, known, is_secret or _is_secret(name))
            for name, member in value.items()
        }
    if isinstance(value, list):
        return [_masked(item, known, is_secret) for item in value]
    if isinstance(value, str):
        return MASK if is_secret else hide_secrets(value, known)
    return value


def _is_secret(name: object) -> bool:
    return _SECRET_NAME.search(str(name)) is not None
