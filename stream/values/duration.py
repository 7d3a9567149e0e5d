"""Durations in Go's text form (``1m30s``, ``5ms``), as in settings and stored records."""

from __future__ import annotations

import re
from typing import Self

import attrs

__all__ = ["Duration"]

_UNITS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_NUMBER = re.compile(r"[0-9]+\.?[0-9]*|\.[0-9]+")
_UNIT = re.compile(r"[^.0-9]*")
_MAX_TEXT = 64


@attrs.frozen(order=True)
class Duration:
    """A duration, exact to the nanosecond."""

    nanoseconds: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse Go's text form, for example ``300ms``, ``-1.5h``, ``1h0m0s`` or ``0``.

        Raises ValueError: the text is invalid. The message has Go's wording, such as ``time:
        invalid duration "foo"``.
        """
        rest = text
        negative = False
        if rest[:1] in {"+", "-"}:
            negative = rest[0] == "-"
            rest = rest[1:]
        if rest == "0":
            return cls(0)
        if not rest or len(text) > _MAX_TEXT:
            raise ValueError(f'time: invalid duration "{text[:_MAX_TEXT]}"')
        total = 0
        position = 0
        while position < len(rest):
            number = _NUMBER.match(rest, position)
            if number is None:
                raise ValueError(f'time: invalid duration "{text}"')
            position = number.end()
            unit = _UNIT.match(rest, position)
            assert unit is not None
            if not unit[0]:
                raise ValueError(f'time: missing unit in duration "{text}"')
            if unit[0] not in _UNITS:
                raise ValueError(f'time: unknown unit "{unit[0]}" in duration "{text}"')
            position = unit.end()
            whole, _, fraction = number[0].partition(".")
            scale = _UNITS[unit[0]]
            total += int(whole or "0") * scale
            if fraction:
                total += int(fraction) * scale // 10 ** len(fraction)
        if total > 2**63 - 1:
            raise ValueError(f'time: invalid duration "{text}"')
        return cls(-total if negative else total)

    @classmethod
    def of_seconds(cls, seconds: float) -> Self:
        """Return the duration of *seconds*."""
        return cls(round(seconds * 1_000_000_000))

    @property
    def seconds(self) -> float:
        """The duration in seconds."""
        return self.nanoseconds / 1_000_000_000

    def __str__(self) -> str:
        ns = abs(self.nanoseconds)
        sign = "-" if self.nanoseconds < 0 else ""
        if ns == 0:
            return "0s"
        if ns < 1_000_000_000:
            for unit in ("ms", "µs", "ns"):
                if ns >= _UNITS[unit]:
                    return f"{sign}{_fraction(ns, _UNITS[unit])}{unit}"
        minutes, ns = divmod(ns, _UNITS["m"])
        hours, minutes = divmod(minutes, 60)
        seconds = f"{_fraction(ns, _UNITS['s'])}s"
        if hours:
            return f"{sign}{hours}h{minutes}m{seconds}"
        if minutes:
            return f"{sign}{minutes}m{seconds}"
        return f"{sign}{seconds}"


def _fraction(nanoseconds: int, unit: int) -> str:
    whole, rest = divmod(nanoseconds, unit)
    if not rest:
        return str(whole)
    digits = str(rest).rjust(len(str(unit)) - 1, "0").rstrip("0")
    return f"{whole}.{digits}"
