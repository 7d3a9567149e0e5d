"""``python -m tests.fuzz templates``: templates rendered by compiled code and by the engine.

The engine evaluates each pair of a template and a record that compiled code renders, and both
results must be equal. Templates are random combinations of expressions. Templates that can't be
compiled, and records that are left to the engine, don't count as pairs.
"""

from __future__ import annotations

import json
from collections import Counter
from random import Random

from stream.mapping.columns import Mapping, Template, TemplateColumn
from stream.mapping.concatenation import concatenated
from stream.mapping.functions import NO_DEFAULT
from stream.mapping.native_plan import native_plan
from stream.mapping.render import compile_renderer, template_plan
from stream.record.context import RecordContext
from stream.record.headers import RecordHeaders
from tests.native.documents import document
from tests.templates.inprocess import evaluate

__all__ = ["mapping", "search", "text_document"]

LIMIT = 300
HEADERS = RecordHeaders(((b"Content-Type", b"application/json"),))
IPS = ("1.2.3.4", "2001:db8::1", "")
RECORDS = 4000
TEMPLATES = 40
"""The number of records and of templates in a round, in which each is combined with each."""
CHECKED_BY_PYTHON = 20
"""The number of records of a template without the engine that the Python code also renders."""
SHOWN = 5

_BLANKS = ("", "", "", " ", "\n", "\t", "\r\n", "  ")
_TEXTS = (
    *("x", "", "it's", 'say "hi"', "é€😀", "\u2028", "\u0085", "\x7f", "%s %(a)s", "a+b", "// no"),
    *("/* no", "# no", "|||", "Ip()", "Body('a')", "null", "1e5", "\ufeff", "e\u0301", "\ufffd"),
    *("<&>", "a\u0000b", "\\n", "\u00a0", NO_DEFAULT),
)
_PATHS = (
    *("a", "b", "id", "é", "a/b", "c", "x.y", "a.b", "a.b.c", 'q"', "it's", "", "a.", ".a", "a..b"),
    *("a[0]", "0", "a.1", "a[", "[a]", "a b", "constructor", "__proto__", "\u2028", "$", "*", "00"),
)
_NAMES = ("a", "b", "id", "é", "a/b", "c", "x.y", "x", "a b", "constructor", "00")
_VALUES = (
    *('"x"', '""', '"é€"', '"q\\"uote"', '"\\u0041"', '"\\u009f"', '"\x7f"', '"\u0085"', '"\\n"'),
    *('"\\/"', '"\\\\"', '"\u2028"', '"\\ud83d\\ude00"', '"😀"', '"\\ud800"', '"null"', '"1"'),
    *('"\\u0000"', '"\ufeff"', '"\ufffd"', '"a, b"', '"' + "y" * 70 + '"', "1", "1.50", "null"),
    *("true", '{"b":"inner"}', '{"b":{"c":"in"}}', '{"y":"z"}', '{"b":1}', "[1]", '["s"]', "{}"),
)
_STRINGS = 22
"""The number of strings in `_VALUES`."""


def _literal(chance: Random, text: str) -> str:
    quote = chance.choice("'\"")
    return quote + text + quote


def _part(chance: Random) -> str:
    kind = chance.random()
    if kind < 0.3:
        return _literal(chance, chance.choice(_TEXTS))
    if kind < 0.4:
        return "Ip()" if chance.random() < 0.8 else "Ip ( )"
    usual = chance.random() < 0.8
    arguments = [_literal(chance, chance.choice(_PATHS[:6] if usual else _PATHS))]
    if chance.random() < 0.6:
        arguments.append(_literal(chance, chance.choice(_TEXTS)))
    blank = chance.choice(_BLANKS)
    return f"Body{chance.choice(_BLANKS)}({blank}{f'{blank},{blank}'.join(arguments)})"


def mapping(chance: Random) -> Mapping:
    """Return a mapping with one template that concatenates strings."""
    while True:
        parts = [_part(chance) for _ in range(chance.randrange(1, 5))]
        plus = f"{chance.choice(_BLANKS)}+{chance.choice(_BLANKS)}"
        content = chance.choice(_BLANKS) + plus.join(parts) + chance.choice(_BLANKS)
        if concatenated(content) is not None:
            template = Template("jsonnet", content)
            return Mapping(
                (TemplateColumn("t", template=template, raw_string=chance.random() < 0.5),)
            )


def text_document(chance: Random) -> bytes:
    """Return a random text, most of the time an object whose members are strings."""
    if chance.random() < 0.1:
        return document(chance)
    names = list(_NAMES)
    chance.shuffle(names)
    members = []
    for name in names[: chance.randrange(len(names))]:
        value = chance.choice(_VALUES[:_STRINGS] if chance.random() < 0.9 else _VALUES)
        members.append(f"{json.dumps(name, ensure_ascii=False)}:{value}")
        if chance.random() < 0.02:
            members.append(f'"{name}":"again"')
    return ("{" + ",".join(members) + "}").encode()


def search(pairs: int, seed: int) -> Counter[str]:
    """Return counts of the outcomes; those that begin with a capital letter are faults.

    :param pairs: number of compared pairs, rounded up.
    """
    chance = Random(seed)
    counts: Counter[str] = Counter()
    records = min(RECORDS, max(20, pairs // TEMPLATES))
    while counts["pairs"] < pairs:
        ip = chance.choice(IPS)
        found = [RecordContext(0, ip, HEADERS, text_document(chance)) for _ in range(records)]
        for _ in range(TEMPLATES):
            _compare(mapping(chance), found, counts)
    return counts


def _compare(mapping: Mapping, records: list[RecordContext], counts: Counter[str]) -> None:
    compiled = native_plan(mapping, LIMIT)
    plan = template_plan(mapping, LIMIT, lambda _: True)
    assert compiled is not None and plan is not None
    ip = records[0].client_ip.encode()
    rows = compiled.rows([record.body for record in records], 0, ip, b"")
    taken = [(record, row) for record, row in zip(records, rows, strict=True) if row is not None]
    counts["templates"] += 1
    counts["pairs"] += len(taken)
    counts["left to the engine"] += len(records) - len(taken)
    results = evaluate(plan, [record for record, _ in taken])
    for (record, row), result in zip(taken, results, strict=True):
        expected = None
        if result.error is None:
            expected = b'"%b"\n' % result.cells[0].replace(b'"', b'""')
        if row != expected:
            _fault(counts, mapping, record.body, row, expected, result.error)
    renderer = compile_renderer(mapping, LIMIT)
    if renderer.plan is None:
        for record, row in taken[:CHECKED_BY_PYTHON]:
            if (expected := renderer.row(record)) != row:
                _fault(counts, mapping, record.body, row, expected)


def _fault(counts: Counter[str], *what: object) -> None:
    counts["Differs"] += 1
    if counts["Differs"] <= SHOWN:
        print("Differs:", *what, sep="\n    ")
