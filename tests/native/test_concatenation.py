"""Templates that concatenate strings give the same rows as the engine, or are left to it."""

from __future__ import annotations

import pytest

from stream import native
from stream.errors import UserError
from stream.mapping.columns import Mapping, Template, TemplateColumn
from stream.mapping.concatenation import TextPart, concatenated
from stream.mapping.functions import NO_DEFAULT
from stream.mapping.render import compile_renderer
from stream.record.context import RecordContext
from stream.record.headers import RecordHeaders
from stream.record.path import parse_path
from tests.effort import examples
from tests.fuzz import templates

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
        f"Body('a', '{NO_DEFAULT}')",
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


@pytest.mark.skipif(not native.is_built, reason="the compiled code isn't built")
def test_rows_are_those_of_the_engine() -> None:
    """Any row that compiled code returns for random documents and templates is the engine's row."""
    counts = templates.search(examples(4000), seed=examples(1))
    assert not counts["Differs"]
    assert counts["pairs"] > counts["left to the engine"] / 4
    assert counts["templates"] >= 40


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
