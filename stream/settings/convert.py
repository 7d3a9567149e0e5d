"""Conversion of values from files, environment variables and flags to typed values.

The conversion is lenient. If needed, text is converted to a number or a boolean, and vice versa.
Empty text is the empty value of the type.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from typing import Any

from stream.settings.connections import Connections
from stream.values.bytesize import ByteSize
from stream.values.duration import Duration

__all__ = ["convert"]

_INTEGER = re.compile(r"[+-]?[0-9]{1,20}")
_TRUE = frozenset({"1", "t", "true", "y", "yes", "on"})
_FALSE = frozenset({"", "0", "f", "false", "n", "no", "off"})


def convert(kind: type, raw: object) -> Any:
    """Convert *raw* (text, number, boolean, list or mapping) to a value of *kind*; see `Leaf.type`.

    Raises ValueError: the message never contains *raw*, which may be secret.
    """
    if kind is tuple:
        return _list(raw)
    if kind is Connections:
        return Connections.parse(raw)
    if isinstance(raw, dict):
        raise ValueError(f"expected {_NAMES[kind]}, found a section")
    if isinstance(raw, list | tuple):
        raise ValueError(f"expected {_NAMES[kind]}, found a list")
    return _CONVERTERS[kind](_text(raw))


def _text(raw: object) -> str:
    if isinstance(raw, bool):
        return "true" if raw else "false"
    if isinstance(raw, float) and raw.is_integer():
        return str(int(raw))
    return str(raw)


def _list(raw: object) -> tuple[str, ...]:
    if isinstance(raw, dict):
        raise ValueError("expected a list, found a section")
    if isinstance(raw, list | tuple):
        if any(isinstance(item, list | tuple | dict) for item in raw):
            raise ValueError("expected a list of strings")
        return tuple(_text(item) for item in raw)
    text = _text(raw).strip()
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _bool(text: str) -> bool:
    lowered = text.strip().lower()
    if lowered in _TRUE:
        return True
    if lowered in _FALSE:
        return False
    raise ValueError("expected true or false")


def _int(text: str) -> int:
    stripped = text.strip()
    if not stripped:
        return 0
    if not _INTEGER.fullmatch(stripped):
        raise ValueError("expected an integer")
    number = int(stripped)
    if not -(2**63) <= number < 2**63:
        raise ValueError("value out of range")
    return number


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("expected base64") from None


def _duration(text: str) -> Duration:
    return Duration.parse(text.strip()) if text.strip() else Duration(0)


def _size(text: str) -> ByteSize:
    return ByteSize.parse(text) if text.strip() else ByteSize(0)


_CONVERTERS: dict[type, Callable[[str], Any]] = {
    str: str,
    bool: _bool,
    int: _int,
    bytes: _bytes,
    Duration: _duration,
    ByteSize: _size,
}
_NAMES = {
    str: "a text",
    bool: "true or false",
    int: "an integer",
    bytes: "base64",
    Duration: "a duration",
    ByteSize: "a size",
}
