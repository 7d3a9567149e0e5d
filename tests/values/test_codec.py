"""JSON of attrs values."""

from __future__ import annotations

import enum
from datetime import UTC, datetime

import attrs
import orjson
import pytest

from stream.values.bytesize import ByteSize
from stream.values.codec import decode, encode, field
from stream.values.duration import Duration


class _Colour(enum.Enum):
    RED = "red"


@attrs.frozen
class _Key:
    project_id: int
    source_id: str


@attrs.frozen(kw_only=True)
class _Record:
    key: _Key = field(flatten=True)
    opened_at: datetime
    colour: _Colour
    wait: Duration
    limit: ByteSize
    note: str = field(default="", omit_empty=True)
    reason: str | None = None
    token: str | None = field(default=None, keep_none=True)
    last_at: datetime | None = field(default=None, empty_text=True)
    parts: tuple[_Key, ...] = ()
    share: float = field(default=0.0, omit_empty=True)


_RECORD = _Record(
    key=_Key(1, "s"),
    opened_at=datetime(2000, 1, 1, tzinfo=UTC),
    colour=_Colour.RED,
    wait=Duration.parse("90s"),
    limit=ByteSize(1536 * 1024),
    parts=(_Key(2, "t"),),
)


def test_the_json_of_a_value() -> None:
    """Members are in order and in camel case, keys are flattened, and unset members omitted."""
    assert encode(_RECORD) == (
        b'{"projectId":1,"sourceId":"s","openedAt":"2000-01-01T00:00:00.000Z","colour":"red",'
        b'"wait":"1m30s","limit":"1536KB","token":null,"lastAt":"",'
        b'"parts":[{"projectId":2,"sourceId":"t"}]}'
    )


@pytest.mark.parametrize("text", ["1.5", "15e-1", "1.5E+0", 1.5])
def test_a_number_in_another_form(text: str) -> None:
    plain = {**orjson.loads(encode(_RECORD)), "share": text}
    assert decode(_Record, orjson.dumps(plain)).share == 1.5


def test_round_trip() -> None:
    """Decoding an encoded value returns the same value."""
    assert decode(_Record, encode(_RECORD)) == _RECORD


def test_unknown_members_are_ignored() -> None:
    """A record of a newer release can be parsed."""
    assert decode(_Key, b'{"projectId":1,"sourceId":"s","new":true}') == _Key(1, "s")


@pytest.mark.parametrize("data", [b"{}", b"[]", b'{"projectId":"x","sourceId":"s"}', b"{"])
def test_invalid_records(data: bytes) -> None:
    """A damaged record is reported, and never parsed in part."""
    with pytest.raises(ValueError):
        decode(_Key, data)


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("colour", "blue"),
        ("colour", {}),
        ("wait", "soon"),
        ("wait", True),
        ("limit", -1),
        ("limit", 1.5),
        ("note", True),
        ("note", {}),
        ("parts", "text"),
        ("parts", {"a": 1}),
        ("parts", [None]),
        ("projectId", "1.5"),
        ("projectId", True),
        ("projectId", 1e300),
        ("openedAt", "2000-01-01"),
        ("openedAt", "0001-01-01T00:00:00+02:00"),
        ("openedAt", 7),
        ("share", "nan"),
        ("share", "inf"),
        ("share", "1_0"),
        ("share", " 1"),
        ("share", "1e400"),
        ("share", "١"),
        ("share", True),
    ],
)
def test_values_of_another_kind(member: str, value: object) -> None:
    """They are refused with one kind of error, and never converted."""
    plain = {**orjson.loads(encode(_RECORD)), member: value}
    with pytest.raises(ValueError):
        decode(_Record, orjson.dumps(plain))
