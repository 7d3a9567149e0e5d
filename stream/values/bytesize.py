"""Byte sizes with binary multiples (1 KB = 1024 B), as in settings and stored records."""

from __future__ import annotations

import re
from typing import Self

__all__ = ["ByteSize"]

_UNITS = {
    "": 1,
    "b": 1,
    "k": 1024,
    "m": 1024**2,
    "g": 1024**3,
    "t": 1024**4,
    "p": 1024**5,
    "e": 1024**6,
}
_FORM = re.compile(r"(\d+)\s*([kmgtpe]?)(b?)", re.IGNORECASE | re.ASCII)
_PRINTED = (
    (1024**6, "EB"),
    (1024**5, "PB"),
    (1024**4, "TB"),
    (1024**3, "GB"),
    (1024**2, "MB"),
    (1024, "KB"),
)


class ByteSize(int):
    """A number of bytes that is printed and parsed as ``1536KB``."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``123``, ``64kB`` or ``1MB``.

        Raises ValueError: with the reason.
        """
        match = _FORM.fullmatch(text.strip())
        if match is None or len(match[1]) > 20:
            raise ValueError("invalid syntax")
        size = int(match[1]) * _UNITS[match[2].lower()]
        if size >= 2**64:
            raise ValueError("value out of range")
        return cls(size)

    def __str__(self) -> str:
        """Return an integer with the largest exact unit: ``1MB``, ``1536KB``, ``2000B``."""
        for unit, name in _PRINTED:
            if self >= unit and self % unit == 0:
                return f"{int(self) // unit}{name}"
        return f"{int(self)}B"

    def human(self) -> str:
        """Return the size for messages: ``40 B``, or one decimal from 1 KB on (``1.5 MB``)."""
        for unit, name in _PRINTED:
            if self > unit:
                return f"{int(self) / unit:.1f} {name}"
        return f"{int(self)} B"
