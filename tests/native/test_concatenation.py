"""Templates that concatenate strings give the same rows as the engine, or are left to it."""

from __future__ import annotations

from random import Random

import pytest

from stream import native
from stream.errors import UserError
from stream.mapping.columns import Mapping, Template, TemplateColumn
from stream.mapping.concatenation import TextPart, concatenated
from stream.mapping.native_plan import native_plan
from stream.mapping.render import compile_renderer, template_plan
from stream.record.context import RecordContext
from stream.record.headers import RecordHeaders
from stream.record.path import parse_path
from tests.effort import examples
from tests.native.documents import document
from tests.templates.inprocess import evaluate

LIMIT = 300
HEADERS = RecordHeaders(((b"Content-Type", b"application/json"),))


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("'a'", (TextPart(literal="a"),)),
        (
            " Body( \"user.name\" )\n+ '@'+Ip() ",
            (TextPart(steps=parse_path("user.name")), TextPart(literal="@"), TextPart()),
        ),
        ("Body('a', \"none\")", (TextPart(steps=parse_path("a"), default="none"),)),
    ],
)
def test_concatenations(content: str, parts: tuple[TextPart, ...]) -> None:
    """Literals, the address and strings of the body are concatenated, with any blanks between."""
    assert concatenated(content) == parts


@pytest.mark.parametrize(
    "content",
    [
        "",
        "+ 'a'",
        "'a' +",
        "'a' 'b'",
        "'a' - 'b'",
        "1 + 'a'",
        "'a\\n'",
        "@'a'",
        "'a' % 'b'",
        "Body()",
        "Body('')",
        "Body('a[0]')",
        "Body('a.1')",
        "Body('a', null)",
        "Body('a') + Header('b')",
        "Ip",
        "Ip('a')",
        "'a' // comment",
        "local a = 'b'; a",
        "std.length('a')",
    ],
)
def test_other_templates_are_left_to_the_engine(content: str) -> None:
    """Templates whose result might differ are left to the engine too."""
    assert concatenated(content) is None


_PARTS = [
    "'x'",
    "''",
    '"it\'s é"',
    "Ip()",
    "Body('a')",
    'Body("b")',
    "Body('a.b')",
    "Body('id', 'none')",
    "Body('é', \"\")",
    "Body('a/b')",
    "Body('x.y', 'q\"')",
]


def _mapping(random: Random) -> Mapping:
    parts = [random.choice(_PARTS) for _ in range(random.randrange(1, 5))]
    template = Template("jsonnet", random.choice(["+", " + ", "\n+ "]).join(parts))
    return Mapping((TemplateColumn("t", template=template, raw_string=random.random() < 0.5),))


@pytest.mark.skipif(not native.is_built, reason="the compiled code isn't built")
def test_rows_are_those_of_the_engine() -> None:
    """Any row that compiled code returns for random documents and templates is the engine's row."""
    taken = 0
    for seed in range(examples(60)):
        random = Random(seed)
        mapping = _mapping(random)
        compiled = native_plan(mapping, LIMIT)
        renderer = compile_renderer(mapping, LIMIT)
        assert compiled is not None
        assert renderer.native is not None
        plan = template_plan(mapping, LIMIT, lambda _: True)
        assert plan is not None
        records = [RecordContext(0, "1.2.3.4", HEADERS, _body(random)) for _ in range(20)]
        for record, evaluated in zip(records, evaluate(plan, records), strict=True):
            row = compiled.row(record.body, 0, b"1.2.3.4", b"")
            if row is None:
                continue
            taken += 1
            assert evaluated.error is None, (record.body, mapping)
            [cell] = evaluated.cells
            assert row == b'"%b"\n' % cell.replace(b'"', b'""'), (record.body, mapping)
            if renderer.plan is None:
                assert renderer.row(record) == row
    assert taken > 5 * examples(60)


def _body(random: Random) -> bytes:
    """Return a random document, or an object whose members are strings."""
    if random.random() < 0.4:
        return document(random)
    names = ["a", "b", "id", "é", "a/b", "c"]
    values = ['"x"', '"é€"', '"q\\"uote"', '"\\u0041"', '"\\u009f"', '"\x7f"', "1", "null"]
    values += ['{"b":"inner"}', '{"y":"z"}', "[1]"]
    members = [
        f'"{random.choice(names)}":{random.choice(values)}' for _ in range(random.randrange(6))
    ]
    return ("{" + ",".join(members) + "}").encode()


@pytest.mark.skipif(not native.is_built, reason="the compiled code isn't built")
@pytest.mark.parametrize(
    ("body", "row"),
    [
        (b'{"a":"x"}', b'"""x-1.2.3.4"""\n'),
        (b'{"a":"x","a":"y"}', None),
        (b'{"a":1}', None),
        (b'{"a":null}', None),
        (b"{}", None),
        (b'{"a":"q\\""}', None),
        (b'{"a":"\xc2\x9f"}', None),
    ],
    ids=["text", "twice", "number", "null", "missing", "quote", "control"],
)
def test_values_that_may_differ_are_left_to_the_engine(body: bytes, row: bytes | None) -> None:
    """Repeated keys, values that aren't strings, and escapes in JSON are left to the engine."""
    template = Template("jsonnet", "Body('a') + '-' + Ip()")
    mapping = Mapping((TemplateColumn("t", template=template),))
    renderer = compile_renderer(mapping, LIMIT)
    record = RecordContext(0, "1.2.3.4", HEADERS, body)
    assert renderer.plan is not None
    assert renderer.native_row(record) == row
    with pytest.raises((UserError, RuntimeError)):
        renderer.row(record)
