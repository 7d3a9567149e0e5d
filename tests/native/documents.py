"""Random JSON texts, valid and invalid, and mappings for them."""

from __future__ import annotations

import json
from random import Random
from typing import Any

from stream.mapping.columns import (
    BodyColumn,
    Column,
    DatetimeColumn,
    HeadersColumn,
    IpColumn,
    PathColumn,
)

__all__ = ["columns", "document"]

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
