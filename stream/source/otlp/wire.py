"""Parsing of the outermost structure of protobuf messages, without decoding their content. Pure."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

__all__ = ["Field", "fields", "length_delimited"]

_VARINT, _FIXED64, _LENGTH, _GROUP, _GROUP_END, _FIXED32 = range(6)
_MAX_VARINT_BYTES = 10
_MAX_GROUPS = 100
_MAX_GROUP_FIELDS = 1000
"""Maximum number of fields in all groups of a message; OTLP has no groups."""


@attrs.define(eq=False)  # created for each record; a frozen class would take three times as long
class Field:
    """A field of a protobuf message.

    :ivar number: number of the field.
    :ivar is_message: whether the value is delimited, that is, a message, text or bytes.
    :ivar tag: position of the field's first byte.
    :ivar start: position of the value.
    :ivar end: position after the value.
    """

    number: int
    is_message: bool
    tag: int
    start: int
    end: int


def fields(data: bytes, start: int = 0, end: int | None = None) -> Iterator[Field]:
    """Iterate over the fields between *start* and *end*.

    Raises ValueError if the message is damaged.
    """
    position = start
    end = len(data) if end is None else end
    group_fields = _MAX_GROUP_FIELDS
    while position < end:
        tag = position
        key, position = _varint(data, position, end)
        number, kind = key >> 3, key & 7
        value = position
        if kind == _LENGTH:
            size, value = _varint(data, position, end)
            position = value + size
        elif kind == _GROUP:
            position, group_fields = _group_end(data, position, end, group_fields)
        else:
            position = _after(data, kind, position, end)
        if position > end or not number:
            raise ValueError("the message is damaged")
        yield Field(number, kind == _LENGTH, tag, value, position)


def length_delimited(number: int, value: bytes) -> bytes:
    """Return an encoded field with *number* and *value*."""
    return _encoded(number << 3 | _LENGTH) + _encoded(len(value)) + value


def _varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    """Return the varint at *position*, and the position after it."""
    if position < end and data[position] < 0x80:
        return data[position], position + 1
    number = 0
    for shift in range(0, 7 * _MAX_VARINT_BYTES, 7):
        if position >= end:
            break
        byte = data[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position
    raise ValueError("the message is damaged")


def _encoded(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _after(data: bytes, kind: int, position: int, end: int) -> int:
    """Return the position after a value of *kind*, which isn't length-delimited."""
    if kind == _VARINT:
        return _varint(data, position, end)[1]
    if kind == _FIXED64:
        return position + 8
    if kind == _FIXED32:
        return position + 4
    if kind == _LENGTH:
        size, position = _varint(data, position, end)
        return position + size
    raise ValueError("the message is damaged")


def _group_end(data: bytes, position: int, end: int, max_fields: int) -> tuple[int, int]:
    """Return the position after a group, and *max_fields* without the fields in it."""
    depth = 1
    while depth:
        key, position = _varint(data, position, end)
        kind = key & 7
        if kind == _GROUP:
            depth += 1
        elif kind == _GROUP_END:
            depth -= 1
        else:
            position = _after(data, kind, position, end)
        if depth > _MAX_GROUPS or position > end:
            raise ValueError("the message is damaged")
        max_fields -= 1
        if max_fields < 0:
            raise ValueError(f"groups have more than {_MAX_GROUP_FIELDS} fields")
    return position, max_fields
