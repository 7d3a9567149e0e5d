"""C-like date formats, with English names in every locale."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from stream.errors import UserError

__all__ = ["format_datetime"]

_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July",
    "August", "September", "October", "November", "December",
)  # fmt: skip

_SPECIFIERS: dict[str, Callable[[datetime], str]] = {
    "A": lambda t: _DAYS[t.weekday()],
    "a": lambda t: _DAYS[t.weekday()][:3],
    "B": lambda t: _MONTHS[t.month - 1],
    "b": lambda t: _MONTHS[t.month - 1][:3],
    "C": lambda t: f"{t.year // 100:02d}",
    "c": lambda t: _all(t, "%a %b %e %H:%M:%S %Y"),
    "D": lambda t: _all(t, "%m/%d/%y"),
    "d": lambda t: f"{t.day:02d}",
    "e": lambda t: f"{t.day:2d}",
    "F": lambda t: _all(t, "%Y-%m-%d"),
    "f": lambda t: f"{t.microsecond // 1000:03d}",
    "H": lambda t: f"{t.hour:02d}",
    "I": lambda t: f"{(t.hour - 1) % 12 + 1:02d}",
    "j": lambda t: f"{t.timetuple().tm_yday:03d}",
    "k": lambda t: f"{t.hour:2d}",
    "l": lambda t: f"{(t.hour - 1) % 12 + 1:2d}",
    "M": lambda t: f"{t.minute:02d}",
    "m": lambda t: f"{t.month:02d}",
    "n": lambda _: "\n",
    "p": lambda t: "AM" if t.hour < 12 else "PM",
    "R": lambda t: _all(t, "%H:%M"),
    "r": lambda t: _all(t, "%I:%M:%S %p"),
    "S": lambda t: f"{t.second:02d}",
    "T": lambda t: _all(t, "%H:%M:%S"),
    "t": lambda _: "\t",
    "U": lambda t: t.strftime("%U"),
    "u": lambda t: str(t.isoweekday()),
    "V": lambda t: f"{t.isocalendar().week:02d}",
    "v": lambda t: _all(t, "%e-%b-%Y"),
    "W": lambda t: t.strftime("%W"),
    "w": lambda t: str(t.isoweekday() % 7),
    "X": lambda t: _all(t, "%H:%M:%S"),
    "x": lambda t: _all(t, "%m/%d/%y"),
    "Y": lambda t: f"{t.year:04d}",
    "y": lambda t: f"{t.year % 100:02d}",
    "Z": lambda _: "UTC",
    "z": lambda _: "+0000",
    "h": lambda t: _MONTHS[t.month - 1][:3],
    "%": lambda _: "%",
}


def _all(moment: datetime, pattern: str) -> str:
    parts = []
    position = 0
    while (mark := pattern.find("%", position)) >= 0:
        parts.append(pattern[position:mark])
        specifier = pattern[mark + 1 : mark + 2]
        if specifier not in _SPECIFIERS or not specifier:
            reason = f'unknown specifier "%{specifier}"' if specifier else 'stray "%" at the end'
            raise UserError(f'datetime format "{pattern}" is invalid: {reason}')
        parts.append(_SPECIFIERS[specifier](moment))
        position = mark + 2
    parts.append(pattern[position:])
    return "".join(parts)


def format_datetime(timestamp_ms: int, pattern: str) -> str:
    """Format the UTC time by *pattern*; ``%f`` is milliseconds.

    Raises UserError: a specifier is unknown.
    """
    seconds, milliseconds = divmod(timestamp_ms, 1000)
    moment = datetime.fromtimestamp(seconds, UTC).replace(microsecond=milliseconds * 1000)
    return _all(moment, pattern)
