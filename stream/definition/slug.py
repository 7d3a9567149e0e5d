"""Ids of sources and sinks, made from what the user wrote."""

from __future__ import annotations

import re
import unicodedata

__all__ = ["slug"]

_CAPITALS = re.compile(r"[A-Z]+")
_FOREIGN = re.compile(r"[^a-zA-Z0-9\u00e1-\u017e\u00c1-\u017d]+")


def slug(text: str) -> str:
    """*text* in lower-case words joined by dashes, without accents; may be empty.

    >>> slug("My Source"), slug("CamelCase"), slug("!!!!~~~~weird|||id##")
    ('my-source', 'camel-case', 'weird-id')
    """
    text = _CAPITALS.sub(lambda match: "-" + match[0], text)
    text = _FOREIGN.sub("-", text)
    decomposed = unicodedata.normalize("NFD", text)
    plain = "".join(char for char in decomposed if unicodedata.category(char) != "Mn")
    return unicodedata.normalize("NFC", plain).strip("-").lower()
