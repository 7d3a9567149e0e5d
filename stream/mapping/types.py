"""Types of columns, and validation of texts. Pure.

An invalid value is refused when the record is received, so that it can't make an import fail. Valid
values are written in one form that every typed target reads: numbers in decimal notation, times in
UTC, everything else unchanged.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation

import orjson

from stream import native
from stream.errors import UserError, shortened

__all__ = [
    "DATA_TYPES",
    "MAX_DECIMAL_DIGITS",
    "MAX_KEY_BYTES",
    "ValueMisfit",
    "check_data_type",
    "decimal_size",
    "fitting",
    "is_text",
]

DATA_TYPES = (
    "string",
    "boolean",
    "integer",
    "double",
    "decimal(p,s)",
    "timestamp",
    "date",
    "json",
    "uuid",
)
MAX_DECIMAL_DIGITS = 38
MAX_KEY_BYTES = 2400
"""Maximum total size of a primary key's texts, because databases limit an index entry."""

_DECIMAL = re.compile(r"decimal\((\d{1,3}),\s?(\d{1,3})\)")
_INTEGER = re.compile(r"[+-]?[0-9]{1,19}|[+-]?[0-9]{1,19}\.0+")
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,6})?")
_TIMESTAMP = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(?:[Zz]|([+-])(\d\d):?(\d\d))"
)
_EPOCH = re.compile(r"-?[0-9]{1,17}(\.[0-9]{1,9})?")
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_ESCAPED_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_NUMBERS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[^-0-9"]++|([-0-9][-+.0-9eE]*+)', re.DOTALL)
"""Numbers, and everything else as an empty text."""

_MAX_EXPONENT = 1000
_JSON_FAULTS = {
    1: "JSON",
    2: "JSON without the character NUL",
    3: f"JSON with numbers of at most {_MAX_EXPONENT} digits",
}
"""What a type requires, by the result of `native.json_fault`."""

_LARGE_NUMBER = re.compile(rb"[0-9]{300}|[eE][+-]?[0-9]{3}")
_SHOWN_BYTES = 1000
"""Bytes of a value that are more than a message shows."""

_BOOLEANS = {"true": b"true", "false": b"false", "1": b"true", "0": b"false"}
_EPOCH_START = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_SECONDS, _MAX_MILLISECONDS = 10**11, 10**14

Fitting = Callable[[bytes], bytes]
"""Converts a text to the form that targets read. Raises `ValueMisfit`."""


class ValueMisfit(UserError):
    """A value isn't valid for the type of its column.

    :param value: the received value, whose beginning is shown.
    :param wanted: what the type accepts, for people; for example ``an integer``.
    """

    name = "valueMisfit"

    def __init__(self, value: bytes, wanted: str) -> None:
        shown = shortened(value[:_SHOWN_BYTES].decode("utf-8", "replace"))
        super().__init__(f'the value "{shown}" is not {wanted}')
        self.unquoted = f"the value is not {wanted}"


def decimal_size(data_type: str) -> tuple[int, int] | None:
    """Return the total and fraction digits of a decimal type; ``None`` for any other type."""
    found = _DECIMAL.fullmatch(data_type)
    return (int(found[1]), int(found[2])) if found else None


def is_text(data_type: str) -> bool:
    """Return whether an empty text is a value of the type."""
    return data_type == "string"


def check_data_type(data_type: str) -> None:
    """Check that *data_type* is a type of columns. Raises UserError."""
    size = decimal_size(data_type)
    if size is not None:
        digits, behind = size
        if not 1 <= digits <= MAX_DECIMAL_DIGITS or behind > digits:
            raise UserError(
                f'the type "{data_type}" must have 1 to {MAX_DECIMAL_DIGITS} digits, and at most '
                "as many of them after the decimal point"
            )
    elif data_type not in _FITTING:
        raise UserError(
            f'unknown data type "{shortened(data_type)}", expected one of: {", ".join(DATA_TYPES)}'
        )


def fitting(data_type: str) -> Fitting:
    """Return the function that checks and converts texts to *data_type*, which must be valid."""
    size = decimal_size(data_type)
    return _decimal(*size) if size is not None else _FITTING[data_type]


def _text(value: bytes) -> str:
    """Return the text of a short value; empty for a value that is too long for the type."""
    return value.decode("ascii", "replace").strip(" ") if len(value) <= 1000 else ""


def _string(value: bytes) -> bytes:
    if b"\0" in value:
        raise ValueMisfit(value, "a text without the character NUL")
    try:
        value.decode()
    except UnicodeDecodeError:
        raise ValueMisfit(value, "text in UTF-8") from None
    return value


def _boolean(value: bytes) -> bytes:
    found = _BOOLEANS.get(_text(value).lower())
    if found is None:
        raise ValueMisfit(value, "true or false")
    return found


def _integer(value: bytes) -> bytes:
    text = _text(value)
    if _INTEGER.fullmatch(text):
        number = int(text.partition(".")[0])
        if -(2**63) <= number < 2**63:
            return b"%d" % number
    raise ValueMisfit(value, "an integer from -2^63 to 2^63-1")


def _double(value: bytes) -> bytes:
    text = _text(value)
    if _NUMBER.fullmatch(text):
        number = float(text)
        if math.isfinite(number):
            return repr(number).encode()
    raise ValueMisfit(value, "a finite number")


def _decimal(digits: int, behind: int) -> Fitting:
    wanted = f"a number with at most {digits - behind} digits before the point and {behind} after"

    def fit(value: bytes) -> bytes:
        text = _text(value)
        if not _NUMBER.fullmatch(text):
            raise ValueMisfit(value, wanted)
        try:
            number = Decimal(text)
        except InvalidOperation:
            raise ValueMisfit(value, wanted) from None
        if not number:
            return b"0"
        if number.adjusted() >= digits - behind:
            raise ValueMisfit(value, wanted)
        _, figures, exponent = number.as_tuple()
        assert isinstance(exponent, int)
        trailing = len(figures) - len("".join(map(str, figures)).rstrip("0"))
        if -(exponent + trailing) > behind:
            raise ValueMisfit(value, wanted)
        return format(number, "f").encode()

    return fit


def _timestamp(value: bytes) -> bytes:
    text = _text(value)
    try:
        moment = _moment(text)
    except (ValueError, OverflowError):
        moment = None
    if moment is None:
        raise ValueMisfit(value, "a time in RFC 3339 with its offset, or seconds since 1970")
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z").encode()


def _moment(text: str) -> datetime | None:
    found = _TIMESTAMP.fullmatch(text)
    if found is not None:
        year, month, day, hour, minute, second = (int(found[place]) for place in range(1, 7))
        microseconds = int((found[7] or "").ljust(6, "0")[:6])
        local = datetime(year, month, day, hour, minute, second, microseconds, tzinfo=UTC)
        if found[8] is None:
            return local
        hours, minutes = int(found[9]), int(found[10])
        if hours > 23 or minutes > 59:
            return None
        offset = timedelta(hours=hours, minutes=minutes)
        return local - offset if found[8] == "+" else local + offset
    if _EPOCH.fullmatch(text) is None:
        return None
    number = Decimal(text)
    size = abs(number)
    if size < _MAX_SECONDS:
        number *= 1_000_000
    elif size < _MAX_MILLISECONDS:
        number *= 1000
    return _EPOCH_START + timedelta(microseconds=int(number))


def _date(value: bytes) -> bytes:
    text = _text(value)
    try:
        if _DATE.fullmatch(text):
            return date.fromisoformat(text).isoformat().encode()
    except ValueError:
        pass
    raise ValueMisfit(value, "a date like 2026-11-28")


def _json(value: bytes) -> bytes:
    fault = native.json_fault(value) if native.is_built else None
    if fault is None:
        _check_json(value)
    elif fault:
        raise ValueMisfit(value, _JSON_FAULTS[fault])
    return value


def _check_json(value: bytes) -> None:
    """Check *value*, which compiled code doesn't accept. Raises ValueMisfit."""
    try:
        orjson.loads(value)  # it refuses unpaired surrogates
    except orjson.JSONDecodeError:
        raise ValueMisfit(value, "JSON") from None
    if b"\\u" in value and _ESCAPED_NUL.search(value):
        raise ValueMisfit(value, _JSON_FAULTS[2])
    if _LARGE_NUMBER.search(value):
        for number in _NUMBERS.findall(value):
            if _LARGE_NUMBER.search(number) and _is_too_large(number.decode()):
                raise ValueMisfit(value, _JSON_FAULTS[3])


def _is_too_large(number: str) -> bool:
    if len(number) > _MAX_EXPONENT:
        return True
    try:
        return abs(Decimal(number).adjusted()) > _MAX_EXPONENT
    except InvalidOperation:
        return True  # an exponent with many digits


def _uuid(value: bytes) -> bytes:
    text = _text(value)
    if _UUID.fullmatch(text) is None:
        raise ValueMisfit(value, "a UUID")
    return text.lower().encode()


_FITTING: dict[str, Fitting] = {
    "string": _string,
    "boolean": _boolean,
    "integer": _integer,
    "double": _double,
    "timestamp": _timestamp,
    "date": _date,
    "json": _json,
    "uuid": _uuid,
}
