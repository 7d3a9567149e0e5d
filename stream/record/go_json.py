"""JSON as Go programs encode it; used for values at paths into a body map.

Doubles are encoded differently from other encoders: integral ones have no fraction, and exponents
are used below 1e-6 and from 1e21.
"""

from __future__ import annotations

from typing import Any

import orjson

from stream.record.headers import html_safe

__all__ = ["dumps"]

_SMALLEST_PLAIN = 1e-6
_SMALLEST_EXPONENT = 1e21


def dumps(value: Any) -> str:
    """Return compact JSON that is safe for HTML; keys keep their order."""
    return html_safe(_print(value) if _has_double(value) else orjson.dumps(value).decode())


def _has_double(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_double, value.values()))
    if isinstance(value, list):
        return any(map(_has_double, value))
    return isinstance(value, float)


def _print(value: Any) -> str:
    if isinstance(value, dict):
        members = [f"{orjson.dumps(key).decode()}:{_print(item)}" for key, item in value.items()]
        return "{" + ",".join(members) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_print, value)) + "]"
    return _double(value) if isinstance(value, float) else orjson.dumps(value).decode()


def _double(number: float) -> str:
    text = repr(number)  # the shortest digits that parse to the same number
    if text in {"nan", "inf", "-inf"}:
        return "null"
    magnitude = abs(number)
    if magnitude and not _SMALLEST_PLAIN <= magnitude < _SMALLEST_EXPONENT:
        digits, exponent = text.split("e")
        sign = "-" if exponent[0] == "-" else "+"
        return f"{digits}e{sign}{exponent.lstrip('+-').lstrip('0')}"
    if "e" in text:
        return _without_exponent(text)
    return text.removesuffix(".0")


def _without_exponent(text: str) -> str:
    digits, exponent = text.split("e")
    sign = "-" if digits[0] == "-" else ""
    whole, _, fraction = digits.lstrip("-").partition(".")
    shift = int(exponent)
    if shift < 0:
        return f"{sign}0.{'0' * (-shift - 1)}{whole}{fraction}"
    return f"{sign}{whole}{fraction}{'0' * (shift - len(fraction))}"
