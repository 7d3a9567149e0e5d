"""Gobs encoded by Go (`gob/main.go` with Go's own library), and by this service."""

from __future__ import annotations

import base64
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.encryption.gob import (
    BOOL,
    BYTES,
    FLOAT,
    INT,
    STRING,
    TIME,
    UINT,
    GobError,
    ListOf,
    MapOf,
    Struct,
    StructType,
    decode_gob,
    encode_gob,
)

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
VALUES = {
    name: base64.b64decode(text)
    for name, text in (
        line.split() for line in (Path(__file__).parent / "gob/values.txt").read_text().splitlines()
    )
}


def test_values_of_every_kind() -> None:
    """The values are those of Go; zero values are absent, except in lists."""
    assert decode_gob(VALUES["odd"]) == Struct(
        "Odd",
        {
            "F": 1.5,
            "M": {"a": -300},
            "B": b"xyz",
            "A": [1, 0],
            "N": -1,
            "L": [Struct("Path", {"Key": "k"}), Struct("Path", {})],
            "U": 1 << 63,
            "T": True,
        },
    )


def test_nested_structs() -> None:
    """Nested structs are decoded, also as keys of maps, and times."""
    token = decode_gob(VALUES["token"])
    assert token.name == "Token"
    assert token.fields["Token"] == "123-1001-secret"
    assert token.fields["Created"] == AT and "Expires" not in token.fields
    assert token.fields["Creator"] == Struct("CreatorToken", {"ID": 7, "Description": "d"})
    bucket = Struct("", {"Stage": "in", "BucketName": "c-bucket"})
    assert token.fields["BucketPermissions"] == [(bucket, "write")]


@pytest.mark.parametrize("name", sorted(VALUES))
def test_truncated_gobs(name: str) -> None:
    """A truncated gob is refused with one kind of error, wherever it ends."""
    data = VALUES[name]
    for end in range(0, len(data), 3):
        with pytest.raises(GobError):
            decode_gob(data[:end])


@given(st.sampled_from(sorted(VALUES)), st.data())
def test_damaged_gobs(name: str, data: st.DataObject) -> None:
    """A damaged gob is decoded to another value or refused; no other error occurs."""
    damaged = bytearray(VALUES[name])
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with suppress(GobError):
        decode_gob(bytes(damaged))


@given(st.binary(max_size=64))
def test_any_bytes(data: bytes) -> None:
    """Any bytes are decoded or refused; no other error occurs."""
    with suppress(GobError):
        decode_gob(data)


_INNER = StructType("Inner", (("A", INT), ("B", STRING)))
_TYPE = StructType(
    "Outer",
    (
        ("Flag", BOOL),
        ("Number", INT),
        ("Count", UINT),
        ("Ratio", FLOAT),
        ("Data", BYTES),
        ("Text", STRING),
        ("At", TIME),
        ("Inner", _INNER),
        ("Texts", ListOf(STRING)),
        ("Inners", ListOf(_INNER)),
        ("Names", MapOf(STRING, INT)),
        ("Keyed", MapOf(_INNER, STRING)),
    ),
)
_numbers = st.integers(-(1 << 63), (1 << 63) - 1)
_texts = st.text(max_size=5)
_inners = st.fixed_dictionaries({"A": _numbers.filter(bool), "B": _texts.filter(bool)})
_values = st.fixed_dictionaries(
    {},
    optional={
        "Flag": st.just(True),
        "Number": _numbers.filter(bool),
        "Count": st.integers(1, (1 << 64) - 1),
        "Ratio": st.floats(allow_nan=False).filter(bool),
        "Data": st.binary(min_size=1),
        "Text": _texts.filter(bool),
        "At": st.datetimes(datetime(2, 1, 1), datetime(9000, 1, 1)).map(
            lambda moment: moment.replace(tzinfo=UTC)
        ),
        "Inner": _inners,
        "Texts": st.lists(_texts, max_size=3),
        "Inners": st.lists(_inners, max_size=3),
        "Names": st.dictionaries(_texts, _numbers, max_size=3),
        "Keyed": st.lists(st.tuples(_inners, _texts), min_size=1, max_size=3),
    },
)


def _plain(value: Any) -> Any:
    if isinstance(value, Struct):
        return {name: _plain(item) for name, item in value.fields.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, tuple):
        return tuple(_plain(item) for item in value)
    return value


@given(_values)
def test_encoded_values_are_decoded(value: dict[str, Any]) -> None:
    """All values are encoded and decoded, including empty lists and maps."""
    assert _plain(decode_gob(encode_gob(_TYPE, value))) == value


def test_recursive_types() -> None:
    """A type that contains itself is refused before it exhausts the stack."""
    data = bytearray(encode_gob(StructType("L", (("N", ListOf(STRING)),)), {"N": ["x"]}))
    described = decode_gob(bytes(data))
    assert described == Struct("L", {"N": ["x"]})
    # The items of the list are now lists of the same type.
    position = data.index(b"\x0c", 4)
    data[position : position + 1] = b"\xff\x84"
    data[0] += 2
    data[-5:] = bytes([1] * 64)
    with pytest.raises(GobError):
        decode_gob(bytes(data))
