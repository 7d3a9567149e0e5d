"""Members of Jsonnet's ``std`` that templates may use and the engine lacks.

Their definitions are placed before a snippet that names them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from stream.errors import UserError

__all__ = ["STANDARD_CALLBACKS", "standard_extension"]

_WORD = re.compile(r"\w+")


def _calculated(function: Callable[..., float]) -> Callable[..., float]:
    def call(*arguments: Any) -> float:
        if not all(type(argument) in (int, float) for argument in arguments):
            raise UserError("expected a number")
        try:
            return function(*arguments)
        except (ValueError, OverflowError):
            raise UserError("not a number") from None

    return call


STANDARD_CALLBACKS: Mapping[str, tuple[tuple[str, ...], Callable[..., Any]]] = {
    "std.log2": (("x",), _calculated(math.log2)),
    "std.log10": (("x",), _calculated(math.log10)),
    "std.atan2": (("y", "x"), _calculated(math.atan2)),
    "std.hypot": (("a", "b"), _calculated(math.hypot)),
}
"""Native functions that the members call."""

_MEMBERS = {
    "isNull": "isNull(v):: v == null",
    "log2": "log2(x):: std.native('std.log2')(x)",
    "log10": "log10(x):: std.native('std.log10')(x)",
    "atan2": "atan2(y, x):: std.native('std.atan2')(y, x)",
    "hypot": "hypot(a, b):: std.native('std.hypot')(a, b)",
    "pi": f"pi:: {math.pi!r}",
    "deg2rad": f"deg2rad(x):: x * {math.pi!r} / 180",
    "rad2deg": f"rad2deg(x):: x * 180 / {math.pi!r}",
    "trim": r"trim(str):: std.stripChars(str, ' \t\n\f\r\u0085\u00a0')",
    "escapeStringXml": "escapeStringXml(str):: std.escapeStringXML(str)",
    "flattenDeepArray": (
        "flattenDeepArray(value):: if std.isArray(value)"
        " then [y for x in value for y in self.flattenDeepArray(x)] else [value]"
    ),
    "thisFile": "thisFile:: 'template'",
    # The engine's own implementation would write to standard error.
    "trace": "trace(str, rest):: rest",
}


def standard_extension(content: str) -> str:
    """Return the definitions to place before *content*; empty if it needs none."""
    names = set(_WORD.findall(content)) & set(_MEMBERS)
    if not names:
        return ""
    members = ", ".join(_MEMBERS[name] for name in sorted(names))
    # A local may refer to itself, so the engine's own ``std`` needs another name.
    return f"local engineStd = std; local std = engineStd + {{ {members} }};"
