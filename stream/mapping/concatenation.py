"""Templates that only concatenate strings, such as ``Body('user.name') + '@' + Ip()``. Pure.

If all parts are strings, Python and Jsonnet return the same text, so the engine isn't needed.
"""

from __future__ import annotations

import re

import attrs

from stream.mapping.functions import NO_DEFAULT
from stream.record.path import PathStep, parse_path

__all__ = ["TextPart", "concatenated"]

_LITERAL = r"'[^'\\\x00-\x1f]*'|\"[^\"\\\x00-\x1f]*\""
_PART = re.compile(
    rf"[ \t\r\n]*(?:(?P<literal>{_LITERAL})|(?P<ip>Ip[ \t\r\n]*\([ \t\r\n]*\))"
    rf"|Body[ \t\r\n]*\([ \t\r\n]*(?P<path>{_LITERAL})[ \t\r\n]*"
    rf"(?:,[ \t\r\n]*(?P<default>{_LITERAL})[ \t\r\n]*)?\))[ \t\r\n]*(?P<more>\+|\Z)"
)


@attrs.frozen
class TextPart:
    """One part of the text: a literal, the sender's address, or a string from the body.

    :ivar literal: text of a literal; ``None`` for other parts.
    :ivar steps: path to a string in the body; ``None`` for other parts.
    :ivar default: text used if the path has no value; ``None`` if a missing value is an error.
    """

    literal: str | None = None
    steps: tuple[PathStep, ...] | None = None
    default: str | None = None


def concatenated(content: str) -> tuple[TextPart, ...] | None:
    """Return the parts of the template *content*; ``None`` if it does anything else.

    ``None`` also means that the engine must evaluate the template, because it uses the whole body
    or a step that could be the index of an array.
    """
    parts = []
    at = 0
    while True:
        match = _PART.match(content, at)
        if match is None:
            return None
        if match["literal"] is not None:
            parts.append(TextPart(literal=match["literal"][1:-1]))
        elif match["ip"] is not None:
            parts.append(TextPart())
        else:
            steps = parse_path(match["path"][1:-1])
            if not steps or any(step.as_index is not None for step in steps):
                return None
            default = match["default"]
            if default is not None and default[1:-1] == NO_DEFAULT:
                return None  # the engine treats it as no default
            parts.append(TextPart(steps=steps, default=None if default is None else default[1:-1]))
        at = match.end()
        if not match["more"]:
            return tuple(parts)
