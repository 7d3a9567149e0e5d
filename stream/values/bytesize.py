"""Byte sizes with binary multiples (1 KB = 1024 B), the form of settings and stored records."""

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
    """A number of bytes that prints and parses as ``1536KB``."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``123``, ``64kB``, ``1MB``. Raises ValueError with the reason."""
        match = _FORM.fullmatch(text.strip())
        if match is None or len(match[1]) > 20:
            raise ValueError("invalid syntax")
        size = int(match[1]) * _UNITS[match[2].lower()]
        if size >= 2**64:
            raise ValueError("value out of range")
        return cls(size)

    def __str__(self) -> str:
        """An integer with the largest unit that divides exactly: ``1MB``, ``1536KB``, ``2000B``."""
        for unit, name in _PRINTED:
            if self >= unit and self % unit == 0:
                return f"{int(self) // unit}{name}"
        return f"{int(self)}B"

    def human(self) -> str:
        """One decimal and a blank above 1 KB (``1.5 MB``), else ``40 B``: for row-limit texts."""
        for unit, name in _PRINTED:
            if self > unit:
                return f"{int(self) / unit:.1f} {name}"
        return f"{int(self)} B"
