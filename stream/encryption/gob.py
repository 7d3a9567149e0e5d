"""Go's gob encoding, used by the original service inside its encrypted values. Pure.

A gob stream is a sequence of messages, each preceded by its length. A message with a negative type
number defines a type; the first message with a positive type number contains the value. A struct
contains the names of its fields; fields with a zero value are omitted.

Only plain data is supported: no interfaces, no complex numbers, no cycles.
"""

from __future__ import annotations

import struct as struct_
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs

__all__ = [
    "BOOL",
    "BYTES",
    "FLOAT",
    "INT",
    "STRING",
    "TIME",
    "UINT",
    "GobError",
    "ListOf",
    "MapOf",
    "Struct",
    "StructType",
    "decode_gob",
    "encode_gob",
]

_MAX_DEPTH = 32
_FIRST_ID = 65
_EPOCH = datetime(1, 1, 1, tzinfo=UTC)
_TIME = struct_.Struct(">Bqih")


class GobError(ValueError):
    """The bytes aren't valid gob, or use an unsupported feature."""


@attrs.frozen
class Struct:
    """The value of a Go struct.

    :ivar name: name of the struct's type.
    :ivar fields: values by their names in Go; fields with a zero value are absent.
    """

    name: str
    fields: Mapping[str, Any]


@attrs.frozen
class _Basic:
    """A type that gob knows without a definition."""

    id: int


BOOL, INT, UINT, FLOAT, BYTES, STRING = map(_Basic, range(1, 7))


@attrs.frozen
class _Marshalled:
    """A type that encodes itself, such as ``time.Time``.

    :ivar member: member of gob's type description; there are three such kinds, which are encoded
        alike.
    """

    name: str
    member: int = 5


TIME = _Marshalled("Time")


@attrs.frozen
class ListOf:
    """The type of a slice or an array."""

    item: Any


@attrs.frozen
class MapOf:
    """The type of a map."""

    key: Any
    item: Any


@attrs.frozen
class StructType:
    """The type of a struct.

    :ivar fields: names and types of the fields, in order.
    """

    name: str
    fields: tuple[tuple[str, Any], ...]


# Gob's descriptions of types, which are encoded as structs. In a description, other types are
# referred to by number.

_COMMON = StructType("CommonType", (("Name", STRING), ("Id", INT)))
_FIELD = StructType("fieldType", (("Name", STRING), ("Id", INT)))
_WIRE = StructType(
    "wireType",
    (
        (
            "ArrayT",
            StructType("arrayType", (("CommonType", _COMMON), ("Elem", INT), ("Len", INT))),
        ),
        ("SliceT", StructType("sliceType", (("CommonType", _COMMON), ("Elem", INT)))),
        ("StructT", StructType("structType", (("CommonType", _COMMON), ("Field", ListOf(_FIELD))))),
        ("MapT", StructType("mapType", (("CommonType", _COMMON), ("Key", INT), ("Elem", INT)))),
        ("GobEncoderT", StructType("gobEncoderType", (("CommonType", _COMMON),))),
        ("BinaryMarshalerT", StructType("gobEncoderType", (("CommonType", _COMMON),))),
        ("TextMarshalerT", StructType("gobEncoderType", (("CommonType", _COMMON),))),
    ),
)


def decode_gob(data: bytes) -> Any:
    """Decode the first value of a stream: a `Struct`, dict, list, str, number, bool or bytes.

    Bytes from a type that encodes itself are decoded as a time if they have its form. Raises
    GobError.
    """
    try:
        return _Decoder(data).value()
    except (IndexError, struct_.error, UnicodeDecodeError, OverflowError) as error:
        raise GobError(f"the gob is damaged: {error}") from None


class _Decoder:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self._end = 0
        self._types: dict[int, Struct] = {}

    def value(self) -> Any:
        while self._at < len(self._data):
            self._end = len(self._data)
            length = self._uint()
            self._end = self._at + length
            if not length or self._end > len(self._data):
                raise GobError("the gob is truncated")
            number = self._int()
            if number >= 0:
                return self._top(number)
            self._types[-number] = self._known(_WIRE, 0)
            self._at = self._end
        raise GobError("the gob has no value")

    def _top(self, number: int) -> Any:
        described = self._types.get(number)
        if described is None or "StructT" not in described.fields:
            self._uint()  # a zero precedes a value that isn't a struct
        return self._of(number, 0)

    # Decoding by the number of a type in the stream.

    def _of(self, number: int, depth: int) -> Any:
        if depth > _MAX_DEPTH:
            raise GobError("the gob is nested too deeply")
        if number in _READERS:
            return _READERS[number](self)
        described = self._types.get(number)
        if described is None:
            raise GobError(f"the type {number} is not defined")
        ((kind, body),) = described.fields.items() or ((None, None),)
        if kind is None or not isinstance(body, Struct):
            raise GobError(f"the type {number} has no definition")
        common = body.fields.get("CommonType", Struct("", {})).fields
        if kind == "StructT":
            return self._struct(str(common.get("Name", "")), body, depth)
        if kind in ("SliceT", "ArrayT"):
            item = body.fields.get("Elem", 0)
            return [self._of(item, depth + 1) for _ in range(self._count())]
        if kind == "MapT":
            key, item = body.fields.get("Key", 0), body.fields.get("Elem", 0)
            pairs = [
                (self._of(key, depth + 1), self._of(item, depth + 1)) for _ in range(self._count())
            ]
            return pairs if any(isinstance(name, Struct) for name, _ in pairs) else dict(pairs)
        return _time_or_bytes(self._bytes())

    def _struct(self, name: str, described: Struct, depth: int) -> Struct:
        fields = [
            (str(one.fields.get("Name", "")), int(one.fields.get("Id", 0)))
            for one in described.fields.get("Field", [])
        ]
        found: dict[str, Any] = {}
        index = -1
        while delta := self._uint():
            index += delta
            if index >= len(fields):
                raise GobError(f"the struct {name} has no field {index}")
            field, number = fields[index]
            found[field] = self._of(number, depth + 1)
        return Struct(name, found)

    # Decoding by a known type, used for gob's own descriptions.

    def _known(self, type: Any, depth: int) -> Any:
        if isinstance(type, _Basic):
            return _READERS[type.id](self)
        if isinstance(type, ListOf):
            return [self._known(type.item, depth + 1) for _ in range(self._count())]
        found: dict[str, Any] = {}
        index = -1
        while delta := self._uint():
            index += delta
            if index >= len(type.fields):
                raise GobError("the gob describes a type of unknown kind")
            name, member = type.fields[index]
            found[name] = self._known(member, depth + 1)
        return Struct(type.name, found)

    # Basic values.

    def _take(self, count: int) -> bytes:
        if count > self._end - self._at:
            raise GobError("the gob is truncated")
        start, self._at = self._at, self._at + count
        return self._data[start : self._at]

    def _uint(self) -> int:
        first = self._take(1)[0]
        return first if first < 0x80 else int.from_bytes(self._take(0x100 - first), "big")

    def _int(self) -> int:
        number = self._uint()
        return ~(number >> 1) if number & 1 else number >> 1

    def _count(self) -> int:
        count = self._uint()
        if count > self._end - self._at:  # each item is at least one byte long
            raise GobError("the gob is truncated")
        return count

    def _bool(self) -> bool:
        return bool(self._uint())

    def _float(self) -> float:
        (number,) = struct_.unpack("<d", self._uint().to_bytes(8, "big"))
        return float(number)

    def _bytes(self) -> bytes:
        return self._take(self._uint())

    def _text(self) -> str:
        return self._bytes().decode()


_READERS: dict[int, Callable[[_Decoder], Any]] = {
    BOOL.id: _Decoder._bool,
    INT.id: _Decoder._int,
    UINT.id: _Decoder._uint,
    FLOAT.id: _Decoder._float,
    BYTES.id: _Decoder._bytes,
    STRING.id: _Decoder._text,
}


def _time_or_bytes(data: bytes) -> Any:
    """Return the time that Go's ``time.Time`` decodes from these bytes, or the bytes."""
    if len(data) < _TIME.size or data[0] not in (1, 2):
        return data
    _, seconds, nanoseconds, _ = _TIME.unpack(data[: _TIME.size])
    return _EPOCH + timedelta(seconds=seconds, microseconds=nanoseconds // 1000)


def encode_gob(type: StructType, value: Mapping[str, Any]) -> bytes:
    """Encode *value*, a Go struct as a mapping from field names, as a stream.

    Fields that are absent or ``None`` are omitted. A map with structs as keys is a list of pairs.
    """
    encoder = _Encoder()
    number = encoder.define(type)
    body = _int_bytes(number) + _value_bytes(type, value)
    return b"".join(encoder.definitions) + _message(body)


class _Encoder:
    def __init__(self) -> None:
        self._numbers: dict[Any, int] = {}
        self.definitions: list[bytes] = []

    def define(self, type: Any) -> int:
        """Return the number of a type; define the type on first use."""
        if isinstance(type, _Basic):
            return type.id
        known = self._numbers.get(type)
        if known is not None:
            return known
        number = self._numbers[type] = _FIRST_ID + len(self._numbers)
        name = getattr(type, "name", "")
        common = {"Name": name, "Id": number}
        if isinstance(type, StructType):
            described: tuple[str, Mapping[str, Any]] = (
                "StructT",
                {
                    "CommonType": common,
                    "Field": [
                        {"Name": field, "Id": self.define(member)} for field, member in type.fields
                    ],
                },
            )
        elif isinstance(type, ListOf):
            described = "SliceT", {"CommonType": common, "Elem": self.define(type.item)}
        elif isinstance(type, MapOf):
            described = (
                "MapT",
                {
                    "CommonType": common,
                    "Key": self.define(type.key),
                    "Elem": self.define(type.item),
                },
            )
        else:
            described = _WIRE.fields[type.member - 1][0], {"CommonType": common}
        body = _int_bytes(-number) + _value_bytes(_WIRE, dict([described]))
        self.definitions.append(_message(body))
        return number


def _message(body: bytes) -> bytes:
    return _uint_bytes(len(body)) + body


def _uint_bytes(number: int) -> bytes:
    if number < 0x80:
        return bytes([number])
    data = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return bytes([0x100 - len(data)]) + data


def _int_bytes(number: int) -> bytes:
    return _uint_bytes((~number << 1) | 1 if number < 0 else number << 1)


def _value_bytes(type: Any, value: Any) -> bytes:
    if isinstance(type, StructType):
        return _struct_bytes(type, value)
    if isinstance(type, ListOf):
        return _uint_bytes(len(value)) + b"".join(_value_bytes(type.item, item) for item in value)
    if isinstance(type, MapOf):
        pairs: Sequence[tuple[Any, Any]] = list(
            value.items() if isinstance(value, Mapping) else value
        )
        return _uint_bytes(len(pairs)) + b"".join(
            _value_bytes(type.key, key) + _value_bytes(type.item, item) for key, item in pairs
        )
    if isinstance(type, _Marshalled):
        data = _time_bytes(value)
        return _uint_bytes(len(data)) + data
    return _WRITERS[type.id](value)


def _struct_bytes(type: StructType, value: Mapping[str, Any]) -> bytes:
    parts = []
    last = -1
    for index, (name, member) in enumerate(type.fields):
        item = value.get(name)
        # A zero value is omitted, because it is the reader's default.
        if item is None or (isinstance(member, _Basic) and not item):
            continue
        parts.append(_uint_bytes(index - last) + _value_bytes(member, item))
        last = index
    return b"".join(parts) + b"\0"


def _time_bytes(moment: datetime) -> bytes:
    since = moment.astimezone(UTC) - _EPOCH
    return _TIME.pack(1, since.days * 86_400 + since.seconds, since.microseconds * 1000, -1)


def _counted(data: bytes) -> bytes:
    return _uint_bytes(len(data)) + data


_WRITERS: dict[int, Callable[[Any], bytes]] = {
    BOOL.id: lambda value: _uint_bytes(int(value)),
    INT.id: _int_bytes,
    UINT.id: _uint_bytes,
    FLOAT.id: lambda value: _uint_bytes(int.from_bytes(struct_.pack("<d", value), "big")),
    BYTES.id: _counted,
    STRING.id: lambda value: _counted(value.encode()),
}
