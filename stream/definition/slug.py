"""Ids of sources and sinks, made from names."""

from __future__ import annotations

import hashlib
import re
import unicodedata

__all__ = ["MAX_ID_LENGTH", "made_id", "slug"]

MAX_ID_LENGTH = 48
"""Maximum length of the id of a source or sink, in characters."""
_HASH_DIGITS = 12

_CAPITALS = re.compile(r"[A-Z]+")
_FOREIGN = re.compile(r"[^a-zA-Z0-9\u00e1-\u017e\u00c1-\u017d]+")


def slug(text: str) -> str:
    """Return the words of *text* in lower case, without accents, joined by dashes; may be empty.

    >>> slug("My Source"), slug("CamelCase"), slug("!!!!~~~~weird|||id##")
    ('my-source', 'camel-case', 'weird-id')
    """
    text = _CAPITALS.sub(lambda match: "-" + match[0], text)
    text = _FOREIGN.sub("-", text)
    decomposed = unicodedata.normalize("NFD", text)
    plain = "".join(char for char in decomposed if unicodedata.category(char) != "Mn")
    return unicodedata.normalize("NFC", plain).strip("-").lower()


def made_id(name: str, of: str) -> str:
    """Return the id for this *name*, which is never empty and never too long.

    If no character of the name is allowed in an id (Chinese, Cyrillic, an emoji), the id contains a
    number derived from the name.

    :param of: the kind of object, which is the prefix of such an id, for example ``source``.

    >>> made_id("My Source", "source"), made_id("日本", "source")
    ('my-source', 'source-6b5a3d2c9a10')
    """
    made = slug(name)[:MAX_ID_LENGTH].strip("-")
    if made:
        return made
    return f"{of}-{hashlib.sha256(name.encode()).hexdigest()[:_HASH_DIGITS]}"
