"""Log lines for a terminal: a time without a date, a message, color. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

__all__ = ["encodable", "terminal_lines", "visible"]

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_RESET, _DIM, _YELLOW, _RED = "\x1b[0m", "\x1b[2m", "\x1b[33m", "\x1b[31m"
_COLOURS = {"debug": _DIM, "warn": _YELLOW, "error": _RED}


def terminal_lines(line: Mapping[str, Any], *, has_colour: bool) -> str:
    """Return the text of *line* with a final newline; a traceback follows on separate lines.

    At level info only the message is shown. At other levels the component and the fields follow.
    The field ``suppressed`` is omitted if no line was suppressed.

    :param line: the members of a log line; its time is shown in the local time zone.
    """
    rest = dict(line)
    moment = datetime.fromisoformat(rest.pop("time")).astimezone()
    level, message = rest.pop("level"), visible(rest.pop("message"))
    stack = rest.pop("error.stack", "")
    component = rest.pop("component", "")
    if not rest.get("suppressed"):
        rest.pop("suppressed", None)

    def coloured(text: str, colour: str) -> str:
        return f"{colour}{text}{_RESET}" if has_colour and text else text

    parts = [coloured(f"{moment:%H:%M:%S}", _DIM)]
    if level == "info":
        parts.append(message)
    else:
        fields = [f"{name}={visible(str(value))}" for name, value in rest.items()]
        more = " ".join([f"[{component}]", *fields] if component else fields)
        parts += [coloured(f"{level.upper():<5} {message}", _COLOURS.get(level, ""))]
        parts += [coloured(more, _DIM)] if more else []
    text = " ".join(parts) + "\n"
    return text + "".join(f"    {visible(part)}\n" for part in stack.splitlines())


def encodable(text: str) -> str:
    """Return *text*, with the characters escaped that UTF-8 can't encode."""
    return text.encode("utf-8", "backslashreplace").decode()


def visible(text: str) -> str:
    """Return *text* on one line and without terminal control sequences."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), encodable(text))
