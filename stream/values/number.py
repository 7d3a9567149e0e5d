"""Parses integers in untrusted text."""

from __future__ import annotations

__all__ = ["MAX_INT64", "MIN_INT64", "whole_number"]

MAX_INT64 = 2**63 - 1
MIN_INT64 = -(2**63)
_MAX_DIGITS = 19


def whole_number(
    text: str, *, least: int = 0, most: int = MAX_INT64, may_have_sign: bool = True
) -> int | None:
    """Return the decimal integer in *text*; ``None`` if it is invalid or out of range.

    Only ASCII digits are accepted, after a sign if it *may_have_sign*. The length is checked before
    the conversion, because Python's conversion takes superlinear time and refuses thousands of
    digits.
    """
    digits = text[1:] if may_have_sign and text[:1] in ("+", "-") else text
    if not (digits.isascii() and digits.isdigit()):
        return None
    digits = digits.lstrip("0") or "0"
    if len(digits) > _MAX_DIGITS:
        return None
    number = -int(digits) if text[0] == "-" else int(digits)
    return number if least <= number <= most else None
