"""``python -m tests.fuzz documents``: JSON texts parsed by compiled code and by the Python code.

The compiled parser reads 16 or 64 bytes at a time. So most texts have long strings whose ends,
escapes, control characters and invalid UTF-8 are close to multiples of 16 bytes; texts start and
end at any distance from them. A row of the compiled code must be that of the Python code, and the
rows of lines must be those of their records.
"""

from __future__ import annotations

from collections import Counter
from random import Random
from unittest.mock import patch

from stream import native
from stream.errors import UserError
from stream.mapping.columns import BodyColumn, Mapping, PathColumn
from stream.mapping.native_plan import native_plan
from stream.mapping.render import Renderer, compile_renderer
from stream.record.context import RecordContext
from stream.record.elements import line_elements
from stream.record.headers import RecordHeaders
from tests.native.documents import columns, document

__all__ = ["search"]

HEADERS = RecordHeaders(((b"Content-Type", b"application/json"), (b"X-Quote", b'a"b')))
AT = 1_700_000_000_123
IP = '1.2.3.4"'
LIMIT = 2000
MAPPINGS = 50
LINES = 6
SHOWN = 5

_WIDTH = 16
_LENGTHS = (0, 1, 2, 3, 4, 5, 6, 8, 9, 12)
"""Lengths of strings, in multiples of `_WIDTH`."""
_SPECIAL = (
    *(b'"', b"\\", b'\\"', b"\\\\", b"\\n", b"\\/", b"\\x", b"\\u0041", b"\\u00e9", b"\\u12"),
    *(b"\\ud800", b"\\ud83d\\ude00", b"\x00", b"\x1f", b"\n", b"\t", b"\x7f", b" ", b"{", b"]"),
)
_UTF8 = ("\x80", "é", "\u07ff", "\u0800", "€", "\uffff", "😀", "\U0010ffff")
_WRONG = (
    *(b"\x80", b"\xbf", b"\xc3", b"\xff", b"\xc0\x80", b"\xc1\xbf", b"\xe2\x82", b"\xe0\x80\x80"),
    *(b"\xed\xa0\x80", b"\xf0\x9f\x98", b"\xf0\x80\x80\x80", b"\xf4\x90\x80\x80", b"\xf8\x88"),
)
_KEYS = (b"a", b"b", b"id", b"x", b"\xc3\xa9")


def _near(chance: Random, multiple: int) -> int:
    return max(0, multiple * _WIDTH + chance.randrange(-3, 4))


def _string(chance: Random) -> bytes:
    """Return a string with its quotes, valid or invalid."""
    text = bytearray(b"x" * _near(chance, chance.choice(_LENGTHS)))
    for _ in range(chance.choice((0, 0, 1, 1, 2, 3))):
        kind = chance.random()
        if kind < 0.4:
            piece = chance.choice(_UTF8).encode()
        elif kind < 0.9:
            piece = chance.choice(_SPECIAL[2:10] if chance.random() < 0.6 else _SPECIAL)
        else:
            piece = chance.choice(_WRONG)
        place = min(len(text), _near(chance, chance.randrange(len(text) // _WIDTH + 2)))
        if chance.random() < 0.5:
            text[place : place + len(piece)] = piece
        else:
            text[place:place] = piece
    return b'"%b"' % bytes(text)


def _text(chance: Random) -> bytes:
    """Return a text with such strings as keys and values."""
    members = []
    for _ in range(chance.randrange(1, 4)):
        key = b'"%b"' % chance.choice(_KEYS) if chance.random() < 0.9 else _string(chance)
        value = _string(chance)
        if chance.random() < 0.3:
            value = b"[1,%b,%b]" % (value, _string(chance))
        elif chance.random() < 0.2:
            value = b'{"b": %b}' % value
        members.append(key + b":" + value)
    text = b" " * chance.randrange(20) + b"{" + b",".join(members) + b"}"
    text += b" " * chance.choice((0, 0, 1, 15, 17))
    if chance.random() < 0.1:
        text = text[: chance.randrange(len(text) + 1)]
    return text


def _mappings(chance: Random) -> list[tuple[native.RowPlan, Renderer]]:
    found = []
    for number in range(MAPPINGS):
        mapping = Mapping(columns(chance))
        if number % 2:
            paths = (PathColumn("p", path="a", raw_string=number % 4 == 1, default_value=""),)
            mapping = Mapping((*paths, BodyColumn("b")))
        plan = native_plan(mapping, LIMIT)
        assert plan is not None
        with patch.object(native, "is_built", False):
            found.append((plan, compile_renderer(mapping, LIMIT)))
    return found


def _expected(renderer: Renderer, body: bytes) -> bytes | str:
    try:
        return renderer.row(RecordContext(AT, IP, HEADERS, body))
    except UserError as error:
        return f"{error.status} {error}"


def _row(plan: native.RowPlan, body: bytes) -> bytes | None:
    return plan.row(body, AT, IP.encode(), HEADERS.csv_cell)


def _lines_differ(plan: native.RowPlan, body: bytes) -> bool:
    """Return whether the rows of the lines of *body* differ from those of its records."""
    rows = [_row(plan, text) for _, text, _ in line_elements(body, 10 * LINES)]
    expected = None
    if None not in rows:
        ends = body.count(b"\n")
        expected = b"".join(row for row in rows if row is not None), len(rows), ends
    found = plan.lines(body, AT, IP.encode(), HEADERS.csv_cell, 10 * LINES, 10**9, 10**9)
    # Lines with a byte order mark or with other blanks are left to the Python code.
    return found is not None and found != expected


def search(inputs: int, seed: int) -> Counter[str]:
    """Return counts of what happened; those that begin with a capital letter are faults."""
    chance = Random(seed)
    counts: Counter[str] = Counter()
    mappings: list[tuple[native.RowPlan, Renderer]] = []
    last: list[bytes] = []
    for number in range(inputs):
        if not number % 100_000:
            mappings = _mappings(chance)
        plan, renderer = chance.choice(mappings)
        body = document(chance) if chance.random() < 0.2 else _text(chance)
        counts["inputs"] += 1
        row = _row(plan, body)
        if row is None:
            counts["left"] += 1
        else:
            counts["taken"] += 1
        expected = _expected(renderer, body)
        if row is not None and row != expected:
            _fault(counts, f"Differs: {row!r}, in Python {expected!r}", body)
        elif row is None and isinstance(expected, bytes):
            counts["left though valid"] += 1
        if row is not None or chance.random() < 0.05:
            last.append(body)
        if len(last) == LINES:
            lines = chance.choice((b"\n", b"\r\n", b"\n \n")).join(last)
            if _lines_differ(plan, lines):
                _fault(counts, "Lines differ", lines)
            last.clear()
    return counts


def _fault(counts: Counter[str], what: str, body: bytes) -> None:
    kind = what.partition(":")[0]
    counts[kind] += 1
    if counts[kind] <= SHOWN:
        print(what, body, sep="\n    ")
