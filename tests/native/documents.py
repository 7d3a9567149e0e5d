"""Random JSON texts, valid and invalid, and mappings for them."""

from __future__ import annotations

import json
from random import Random
from typing import Any

from stream.errors import UserError
from stream.mapping.columns import (
    BodyColumn,
    Column,
    DatetimeColumn,
    HeadersColumn,
    IpColumn,
    Mapping,
    PathColumn,
    Template,
    TemplateColumn,
)
from stream.mapping.typed import check_types

__all__ = ["columns", "document", "typed_columns", "typed_document"]

_KEYS = ["a", "b", "id", "0", "1", "00", "é", "a/b", 'q"', "", "x\\y", "\n"]
_PATHS = ["", "a", "b", "id", "a.b", "a[0]", "a[1].b", "0", "0.1", "a.0", "a.00", "é", "a/b", 'q"']
_NUMBERS = ["0", "-0", "1", "1.50", "1e5", "-1E+2", "1e400", "9" * 25, "01", "+1", "1.", ".5", "-"]
_TEXTS = ["", "x", 'say "hi"', "a\\b", "é€😀", "line\nline", "\t", "a,b", "x" * 40]
_SPELLINGS = [r'"\u00e9"', r'"\ud83d\ude00"', r'"\ud800"', r'"\/"', r'"\x"', '"\x01"', '"\\', "nul"]
_BLANKS = ["", "", "", " ", "\n", "\t ", "\r\n", "\x0b"]


def _text(random: Random, text: str) -> str:
    if random.random() < 0.15:
        return '"' + "".join(f"\\u{ord(c):04x}" for c in text if ord(c) < 0x10000) + '"'
    return json.dumps(text, ensure_ascii=random.random() < 0.2)


def _blank(random: Random) -> str:
    return random.choice(_BLANKS) if random.random() < 0.1 else ""


def _value(random: Random, depth: int) -> str:
    kind = random.random()
    if depth and kind < 0.35:
        members = []
        for _ in range(random.randrange(4)):
            key = _text(random, random.choice(_KEYS))
            between = f"{_blank(random)}:{_blank(random)}"
            members.append(f"{_blank(random)}{key}{between}{_value(random, depth - 1)}")
        return "{" + ",".join(members) + _blank(random) + "}"
    if depth and kind < 0.55:
        items = [_blank(random) + _value(random, depth - 1) for _ in range(random.randrange(4))]
        return "[" + ",".join(items) + _blank(random) + "]"
    if kind < 0.75:
        return random.choice(_NUMBERS[: 13 if random.random() < 0.1 else 8])
    if kind < 0.8:
        return random.choice(["true", "false", "null"])
    if kind < 0.83:
        return random.choice(_SPELLINGS)
    return _text(random, random.choice(_TEXTS))


def document(random: Random) -> bytes:
    """Return a text that is valid JSON most of the time."""
    text = _blank(random) + _value(random, 4) + _blank(random)
    body = bytearray(text.encode("utf-8", "surrogatepass"))
    if random.random() < 0.15:
        for _ in range(random.randrange(1, 4)):
            if not body:
                break
            place = random.randrange(len(body))
            choice = random.random()
            if choice < 0.4:
                body[place] = random.randrange(256)
            elif choice < 0.7:
                del body[place]
            else:
                body.insert(place, random.choice(b'{}[]",:\\ 0e-\xff\xc3'))
    return bytes(body)


def columns(random: Random) -> tuple[Column, ...]:
    """Return columns without a UUID, which is never the same twice."""
    found: list[Column] = []
    others: list[Column]
    for number in range(random.randrange(1, 6)):
        name = f"c{number}"
        kind: Any = random.random()
        if kind < 0.8:
            default = random.choice([None, None, "", 'de"fault', "é"])
            raw = random.random() < 0.5
            path = random.choice(_PATHS)
            found.append(PathColumn(name, path=path, raw_string=raw, default_value=default))
        else:
            others = [DatetimeColumn(name), IpColumn(name), HeadersColumn(name), BodyColumn(name)]
            found.append(others[random.randrange(len(others))])
    return tuple(found)


_TYPES = ["string", "boolean", "integer", "double", "decimal(5,2)", "decimal(3,3)", "decimal(38,0)"]
_TYPES += ["timestamp", "date", "json", "uuid"]
_MEMBERS = ["a", "b", "c"]
_VALUES = [
    *("0", "1", "-1", "-0", "00", "+7", "123456789012345678", "9223372036854775807", "9" * 19),
    *("0.5", "-12.50", "100.00", "0.00", "999.99", "1000", "1.005", ".5", "5.", "1e5", "1E-7"),
    *("1e16", "9999999999999998", "0.0001", "0.00001", "-0.0", "1e400", "123.456e-2", "1" * 61),
    *("true", "false", "True", "null", "", " ", " 1 ", "NaN", "Infinity", "0x1", "1_000"),
    *("1970-01-01", "2024-02-29", "2023-02-29", "1900-02-29", "2000-02-29", "0000-01-01"),
    *("9999-12-31", "2024-13-01", "2024-00-10", "2024-1-1", "2024-04-31", "20240101"),
    *("2024-02-29T23:59:59Z", "2024-02-29 23:59:59.5Z", "2024-02-29T23:59:59.123456789Z"),
    *(
        "2024-02-29T24:00:00Z",
        "2024-02-29T23:59:60Z",
        "2024-02-29t23:59:59z",
        "0001-01-01T00:00:00Z",
    ),
    *(
        "2024-02-29T23:59:59+01:00",
        "2024-02-29T23:59:59",
        "2024-02-29T23:59:59.Z",
        "1969-12-31T23:59:59.999999Z",
    ),
    *("99999999999", "100000000000", "99999999999999", "100000000000000", "99999999999999999"),
    *("01890a5d-ac96-774b-bcce-b302099a8057", "01890A5D-AC96-774B-BCCE-B302099A8057"),
    *(
        "01890a5dac96774bbcceb302099a8057",
        "01890a5d-ac96-774b-bcce-b302099a805",
        "x",
        "é",
        'say "hi"',
    ),
    *(
        "\x00",
        "e123",
        "1e12",
        "1e123",
        "1e+123",
        "E-999",
        "\\u0000",
        "9" * 300,
        "x" * 900,
        "\ud800",
    ),
]


def typed_document(random: Random) -> bytes:
    """Return an object whose members are values of many types, valid and invalid."""
    members = []
    for key in _MEMBERS:
        choice = random.random()
        text = random.choice(_VALUES)
        if choice < 0.1:
            continue
        if choice < 0.5:
            spelling = json.dumps(text, ensure_ascii=random.random() < 0.7)
        elif choice < 0.8:
            spelling = text
        elif choice < 0.9:
            spelling = _value(random, 2)
        else:
            key_of_member = random.choice(["k", "e12", "\\u0041"])
            spelling = "{" + f'"{key_of_member}" : [ {text or 1} ]' + "}"
        members.append(f'"{key}":{_blank(random)}{spelling}')
    return ("{" + ",".join(members) + "}").encode("utf-8", "surrogatepass")


def typed_columns(random: Random) -> tuple[Column, ...]:
    """Return columns with types that `check_types` accepts, without a UUID."""
    found: list[Column] = []
    while len(found) < random.randrange(1, 6):
        type_ = random.choice(_TYPES)
        more: Any = {"data_type": type_, "nullable": random.random() < 0.4}
        more["primary_key"] = random.random() < 0.2
        name, kind = f"c{len(found)}", random.random()
        column: Column
        if kind < 0.75:
            default = random.choice(_VALUES[:-1]) if random.random() < 0.3 else None
            raw = random.random() < 0.6
            path = random.choice(["a", "b", "c", "a.k", "b[0]", ""])
            column = PathColumn(name, path=path, raw_string=raw, default_value=default, **more)
        elif kind < 0.85:
            content = random.choice(["Body('a')", "'' + Body('a', '')", "Body('b') + '-' + Ip()"])
            template = Template("jsonnet", content)
            column = TemplateColumn(name, template=template, raw_string=kind < 0.8, **more)
        else:
            kinds: Any = [DatetimeColumn, IpColumn, HeadersColumn, BodyColumn]
            column = random.choice(kinds)(name, **more)
        try:
            check_types(Mapping((column,)))
        except UserError:
            continue
        found.append(column)
    return tuple(found)
