"""Random exports of logs in protobuf, valid and invalid, and mappings for them."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from random import Random

from stream.mapping.columns import (
    BodyColumn,
    Column,
    DatetimeColumn,
    HeadersColumn,
    IpColumn,
    PathColumn,
    Template,
    TemplateColumn,
)

__all__ = ["columns", "damaged", "export"]

_TEXTS = [
    "",
    "x",
    "INFO",
    "GET /api/orders/17?expand=items HTTP/1.1 answered",
    'say "hi" <b>&amp;</b>',
    "a\\b\x00\x1f\x7f\b\f\n\r\t",
    "\u2028\u2029\u2027\u20ac é 😀",
    "x" * 15 + "<",
    "x" * 16 + "\u2029",
    "long " * 60,
]
_KEYS = ["a", "b", "0", "1", "http.route", "é", 'q"', "<", "", "a/b"]
_NAMES = ["timestamp", "severity_text", "body", "flags", "trace_id", "span_id", "attributes"]
_PATHS = [
    *_NAMES,
    *("observed_timestamp", "severity_number", "resource", "scope", "scope.name", "scope.version"),
    *("", "body.a", "body[0]", "body[1].a", "body.0", "body.b[0].a", "missing", "body.a.b"),
    *(
        "attributes.a",
        "attributes.0",
        "attributes[0]",
        "attributes.a[1]",
        "attributes.q",
        "flags.x",
    ),
    *("attributes.é", 'attributes.q"', "attributes.a/b", "resource.a", "resource.b.a"),
]
_TEMPLATES = [
    "Body('severity_text') + '@' + Ip()",
    "'<' + Body('attributes.a', '-') + Body('body', \"?\")",
    "Body('body') + Body('scope.name')",
]
_DOUBLES = [
    *(0.0, -0.0, 1.0, -3.5, 0.1, 1e-6, 9.99e-7, 1e-7, -5e-324, 1e15, 1e16, 123456789012345680.0),
    *(1e20, 1e21, 1.7976931348623157e308, 3e22, float("inf"), float("-inf"), float("nan"), 2.0**63),
]
_INTEGERS = [0, 1, -1, 9, 200, 2**31, -(2**31), 2**53 + 1, 2**63 - 1, -(2**63)]
_NOON = 1_717_243_200 * 10**9
_TIMES = [0, 1, _NOON, _NOON + 50_000_000, _NOON + 123_456_789, 2**64 - 1, 951_782_400 * 10**9]

Odd = Callable[[], bool]


def _varint(number: int, random: Random | None = None) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    if random is not None and random.random() < 0.5:
        return bytes([*encoded, number | 0x80, *[0x80] * random.randrange(3), 0])
    return bytes([*encoded, number])


def _number(field: int, number: int) -> bytes:
    return _varint(field << 3) + _varint(number % 2**64)


def _fixed64(field: int, number: int) -> bytes:
    return _varint(field << 3 | 1) + struct.pack("<Q", number)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _fixed32(field: int, number: int) -> bytes:
    return _varint(field << 3 | 5) + struct.pack("<I", number)


def _other(random: Random) -> bytes:
    """Return an unknown field, a field of another type, a group, or nothing."""
    field = random.choice([1, 2, 3, 4, 5, 8, 12, 13, 100, 20_000])
    kind = random.randrange(8)
    if kind == 0:
        return _number(field, random.choice(_INTEGERS))
    if kind == 1:
        return _fixed64(field, random.randrange(2**64))
    if kind == 2:
        return _bytes(field, random.choice([b"", b"a", b"\xff", b"\x0a\x01a"]))
    if kind == 3:
        return _fixed32(field, random.randrange(2**32))
    if kind == 4:
        inner = _other(random) if random.random() < 0.5 else b""
        return _varint(field << 3 | 3) + inner + _varint(field << 3 | 4)
    if kind == 5:
        return _varint(field << 3, random) + _varint(random.choice([0, 1, 5]), random)
    if kind == 6:
        return _varint(field << 3 | random.choice([4, 6, 7]))
    return _varint(random.choice([2**29, 2**35, 1]) << 3) + b"\x00"


def _joined(random: Random, odd: Odd, parts: Sequence[bytes]) -> bytes:
    """Return a message with the fields *parts*; rarely reordered, repeated or with other fields."""
    if not odd():
        return b"".join(parts)
    mixed = list(parts)
    kind = random.randrange(4)
    if kind == 0:
        random.shuffle(mixed)
    elif kind == 1 and mixed:
        mixed.append(random.choice(mixed))
    else:
        mixed.insert(random.randrange(len(mixed) + 1), _other(random))
    return b"".join(mixed)


def _text(random: Random, odd: Odd) -> bytes:
    if odd():
        return random.choice([b"\xff", b"\xed\xa0\x80", b"\xe2\x80", b"a\xc3", b"\xf4\x90\x80\x80"])
    return random.choice(_TEXTS).encode()


def _value(random: Random, odd: Odd, depth: int) -> bytes:
    kind = random.randrange(12)
    if kind < 4 or (kind > 9 and not depth):
        return _joined(random, odd, [_bytes(1, _text(random, odd))])
    if kind == 4:
        return _joined(random, odd, [_number(2, random.choice([0, 1, 1, 2**63]))])
    if kind == 5:
        return _joined(random, odd, [_number(3, random.choice(_INTEGERS))])
    if kind in (6, 7):
        number = random.choice(_DOUBLES)
        if kind == 7:
            number = struct.unpack("<d", random.randbytes(8))[0]
        bits = struct.unpack("<Q", struct.pack("<d", number))[0]
        return _joined(random, odd, [_fixed64(4, bits)])
    if kind == 8:
        return _joined(random, odd, [_bytes(7, random.randbytes(random.randrange(8)))])
    if kind == 9:
        return b""
    if kind == 10:
        items = [_bytes(1, _value(random, odd, depth - 1)) for _ in range(random.randrange(4))]
        return _joined(random, odd, [_bytes(5, _joined(random, odd, items))])
    return _joined(random, odd, [_bytes(6, _pairs(random, odd, 1, depth - 1))])


def _pairs(random: Random, odd: Odd, field: int, depth: int) -> bytes:
    keys = random.sample(_KEYS, random.choice([0, 0, 1, 2, 3]))
    if odd():
        keys = random.choice([[f"k{i}" for i in range(40)], ["a", "a"], ["k"] * 20, keys])
    return b"".join(_bytes(field, _pair(random, odd, key, depth)) for key in keys)


def _pair(random: Random, odd: Odd, key: str, depth: int) -> bytes:
    name = _text(random, odd) if odd() else key.encode()
    return _joined(random, odd, [_bytes(1, name), _bytes(2, _value(random, odd, depth))])


def _record(random: Random, odd: Odd) -> bytes:
    parts = []
    if random.random() < 0.9:
        parts.append(_fixed64(1, random.choice(_TIMES)))
    if random.random() < 0.8:
        parts.append(_number(2, random.choice([9, 17, 2**31 - 1, 2**31, -1] if odd() else [0, 9])))
    if random.random() < 0.7:
        parts.append(_bytes(3, _text(random, odd)))
    if random.random() < 0.9:
        parts.append(_bytes(5, _value(random, odd, 3)))
    parts.append(_pairs(random, odd, 6, 2))
    if random.random() < 0.2:
        parts.append(_number(7, random.randrange(2**32)))
    if random.random() < 0.3:
        parts.append(_fixed32(8, random.randrange(2**32)))
    if random.random() < 0.6:
        parts.append(_bytes(9, random.randbytes(random.choice([0, 16, 16, 3]))))
        parts.append(_bytes(10, random.randbytes(random.choice([0, 8, 8, 3]))))
    if random.random() < 0.6:
        parts.append(_fixed64(11, random.choice([*_TIMES, random.randrange(2**64)])))
    if random.random() < 0.1:
        parts.append(_bytes(12, _text(random, odd)))
    return _joined(random, odd, parts)


def _scope(random: Random, odd: Odd) -> bytes:
    parts = []
    if random.random() < 0.8:
        named = [_bytes(1, _text(random, odd)), _bytes(2, _text(random, odd))]
        if random.random() < 0.2:
            named += [_pairs(random, odd, 3, 1), _number(4, 3)]
        parts.append(_bytes(1, _joined(random, odd, named)))
    count = random.choice([0, 1, 1, 2, 5])
    parts += [_bytes(2, _record(random, odd)) for _ in range(count)]
    if random.random() < 0.2:
        parts.append(_bytes(3, _text(random, odd)))
    return _joined(random, odd, parts)


def _resource(random: Random, odd: Odd) -> bytes:
    parts = []
    if random.random() < 0.8:
        described = [_pairs(random, odd, 1, 2)]
        if random.random() < 0.2:
            names = [_bytes(field, _text(random, odd)) for field in (1, 2, 3, 3, 4)]
            described += [_number(2, 7), _bytes(3, _joined(random, odd, names))]
        parts.append(_bytes(1, _joined(random, odd, described)))
    parts += [_bytes(2, _scope(random, odd)) for _ in range(random.choice([0, 1, 1, 1, 2]))]
    if random.random() < 0.2:
        parts.append(_bytes(3, _text(random, odd)))
    return _joined(random, odd, parts)


def export(random: Random) -> bytes:
    """Return an export that is normal, or unusual in some fields."""
    oddness = random.choice([0.0, 0.0, 0.003, 0.02])

    def odd() -> bool:
        return random.random() < oddness

    resources = [
        _bytes(1, _resource(random, odd)) for _ in range(random.choice([0, 1, 1, 1, 1, 2, 3]))
    ]
    return _joined(random, odd, resources)


def damaged(random: Random, body: bytes) -> bytes:
    """Return *body* with some bytes changed, removed, inserted or truncated."""
    changed = bytearray(body)
    for _ in range(random.randrange(1, 4)):
        if not changed:
            break
        place = random.randrange(len(changed))
        kind = random.randrange(5)
        if kind == 0:
            changed[place] = random.randrange(256)
        elif kind == 1:
            changed[place] ^= 1 << random.randrange(8)
        elif kind == 2:
            del changed[place : place + random.randrange(1, 4)]
        elif kind == 3:
            changed[place:place] = random.randbytes(random.randrange(1, 3))
        else:
            end = random.randrange(place, len(changed) + 1)
            changed[place:place] = changed[place:end][:200]
    return bytes(changed)


def columns(random: Random, *, templates: bool) -> tuple[Column, ...]:
    """Return columns without a UUID, which is never the same twice.

    :param templates: whether there are templates, which the engine renders slowly.
    """
    found: list[Column] = []
    for number in range(random.randrange(1, 6)):
        name = f"c{number}"
        kind = random.randrange(10)
        if kind < 6:
            default = random.choice([None, "", "none", 'a"b', "é"])
            raw = random.random() < 0.5
            path = random.choice(_PATHS)
            found.append(PathColumn(name, path=path, raw_string=raw, default_value=default))
        elif kind == 6:
            found.append(BodyColumn(name))
        elif kind == 7 and templates:
            template = Template("jsonnet", random.choice(_TEMPLATES))
            found.append(TemplateColumn(name, template=template, raw_string=random.random() < 0.7))
        else:
            others: list[Column] = [DatetimeColumn(name), IpColumn(name), HeadersColumn(name)]
            found.append(random.choice(others))
    return tuple(found)
