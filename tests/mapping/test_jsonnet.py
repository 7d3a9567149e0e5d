"""Template columns."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.errors import UserError
from stream.mapping.functions import to_json
from stream.mapping.jsonnet import check_language, direct_cell
from stream.mapping.plan import PlannedTemplate, TemplatePlan
from stream.mapping.snippet import check_template
from stream.mapping.strftime import format_datetime
from stream.record.context import RecordContext
from stream.record.headers import RecordHeaders
from tests.templates.inprocess import evaluate

RECORD = RecordContext(
    1714557600123,
    "203.0.113.7",
    RecordHeaders(((b"content-type", b"application/json"), (b"x-foo", b"bar"))),
    b'{"a":{"b":[1,"x"]},"n":null,"f":42.1,"big":12345678901234567890}',
)


def _render(content: str, raw_string: bool = False, record: RecordContext = RECORD) -> str:
    direct = direct_cell(content, raw_string)
    if direct is not None:
        return direct(record).decode()
    plan = TemplatePlan((PlannedTemplate("t", content, raw_string),), 1_000_000)
    [result] = evaluate(plan, [record])
    if result.error is not None:
        raise result.error
    return result.cells[0].decode()


def _both_ways(content: str, raw_string: bool = False) -> str:
    """Return the result of a single call, which must equal that of the engine."""
    result = _render(content, raw_string)
    assert _render(f"local x = 1; {content}", raw_string) == result
    return result


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("Ip()", '"203.0.113.7"'),
        ("Now()", '"2024-05-01T10:00:00.123Z"'),
        (" Now( '%d.%m.%Y' ) ", '"01.05.2024"'),
        ("Header('x-foo')", '"bar"'),
        ("Header()", '{"Content-Type":"application/json","X-Foo":"bar"}'),
        ("Header('nope', 'd')", '"d"'),
        ("HeaderStr()", '"Content-Type: application/json\\nX-Foo: bar\\n"'),
        ("Body('a.b[1]')", '"x"'),
        ("Body('a')", '{"b":[1,"x"]}'),
        ("Body('n', 'd')", "null"),
        ("Body('f')", "42.100000000000001"),
        ("Body('big')", "12345678901234567168"),
        ('Body("nope", null)', "null"),
        ("Body(\"nope\", 'd')", '"d"'),
        ("Body('a[0]', false)", "false"),
    ],
)
def test_single_calls(content: str, expected: str) -> None:
    """Single calls return the same with and without the engine."""
    assert _both_ways(content) == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("Body('a').b[0] + 1", "2"),
        ("Body(default={x: 1}, path='nope')", '{"x":1}'),
        ("{b: 2, a:: 1, c: [true, null]}", '{"b":2,"c":[true,null]}'),
        ("std.md5(Body('a.b[1]'))", '"9dd4e461268c8034f5c8564e155c67a6"'),
        ("1/3", "0.33333333333333331"),
        (
            "[0.1, -0, 1e-7, 1e22]",
            "[0.10000000000000001,-0,9.9999999999999995e-08,1%s]" % ("0" * 22),
        ),
        ("1e100", f"{10.0**100:.0f}"),
        ("['' + 0.1, std.toString(0.1), '%s' % 0.1]", '["0.1","0.1","0.1"]'),
        ("'\\u007f<>&\\u2028'", '"\\u007f<>&\u2028"'),
        ("[x for x in Body('a.b')]", '[1,"x"]'),
        ("std.length(BodyStr())", "64"),
        ("Header(default='d', header='X-FOO')", '"bar"'),
        ("Header(default='d', header='nope')", '"d"'),
        ("Now(format='%H')", '"10"'),
        ("Body(path='a.b[0]')", "1"),
        ("local f(n, a) = if n == 0 then a else f(n - 1, a + n) tailstrict; f(9, 0)", "45"),
        ("'a tailstrict b'", '"a tailstrict b"'),
    ],
)
def test_other_expressions(content: str, expected: str) -> None:
    """Other expressions are evaluated; keys are sorted and hidden fields omitted."""
    assert _render(content) == expected


def test_raw_strings() -> None:
    """Only strings are printed without quotes."""
    assert _render("'a\"b'", True) == 'a"b'
    assert _both_ways("Body('a')", True) == '{"b":[1,"x"]}'
    assert _both_ways("Body('a.b[1]')", True) == "x"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("Body('nope')", 'path "nope" not found in the body'),
        ("1 + Body('nope')", 'path "nope" not found in the body'),
        ("Header('x-nope')", 'header "X-Nope" not found'),
        ("Header(1)", "parameter must be a string"),
        ("Body(1)", "first parameter must be a string"),
        ("Now('%Q')", 'datetime format "%Q" is invalid: unknown specifier "%Q"'),
        ("Now('%')", 'datetime format "%" is invalid: stray "%" at the end'),
        ("Unknown", "Unknown variable: Unknown"),
        ("error 'boom'", "boom"),
        ("local f(x) = f(x + 1) + 1; f(1)", "max stack frames exceeded."),
        ("import 'x'", "imports are not enabled"),
        ("importstr '/etc/passwd'", "imports are not enabled"),
        ("importbin '/etc/passwd'", "imports are not enabled"),
        ("Now(1)", "parameter must be a string"),
        ("local f(x) = f(x + 1) tailstrict; f(1)", "max stack frames exceeded."),
        ("1e999", "overflow"),
        (
            "Body('nope', function(x) x)",
            "the template uses a value where it can't be used",
        ),
        ("std.log2('a')", "expected a number"),
        ("std.log10(0)", "not a number"),
    ],
)
def test_errors_have_no_trace(content: str, message: str) -> None:
    """The error contains the cause, without a trace."""
    with pytest.raises(UserError) as caught:
        _render(content)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("[std.log2(8), std.log10(1000), std.hypot(3, 4), std.atan2(0, 1)]", "[3,3,5,0]"),
        ("std.rad2deg(std.deg2rad(180)) == 180 && std.pi > 3.14", "true"),
        ("[std.trim(' \\u00a0a b\\n'), std.escapeStringXml('<')]", '["a b","&lt;"]'),
        ("[std.isNull(null), std.isNull(1)]", "[true,false]"),
        ("std.flattenDeepArray([[1, [2]], 3])", "[1,2,3]"),
        ("std.sha256('a')[:8] + std.thisFile", '"ca978112template"'),
    ],
)
def test_the_standard_library(content: str, expected: str) -> None:
    """Functions that the engine lacks are available too."""
    assert _render(content) == expected


def test_traces_are_not_printed(capfd: pytest.CaptureFixture[str]) -> None:
    """A template can't write to the log of the service."""
    assert _render("std.trace('noise', 1)") == "1"
    assert capfd.readouterr() == ("", "")


def test_a_body_of_another_type() -> None:
    """The error of a template that needs a parsed body lists the possible types."""
    record = RecordContext(0, "", RecordHeaders(()), b"x")
    assert _render("BodyStr()", record=record) == '"x"'
    for content in ("Body()", "[Body('a')]"):
        with pytest.raises(UserError) as caught:
            _render(content, record=record)
        assert str(caught.value) == (
            'cannot parse request body:\n- unsupported content type "", supported types: '
            "application/json and application/x-www-form-urlencoded"
        )


def test_only_jsonnet() -> None:
    """Jsonnet is the only language."""
    with pytest.raises(
        UserError, match=r'^unsupported language "lua", only "jsonnet" is supported$'
    ):
        check_language("lua")


@pytest.mark.parametrize(
    "content",
    [
        "Body('a')",
        "local x = 1, y(a, b=2) = a + b; [x, y(a=1, b=2)]",
        "{local z = 1, x: z, y(q):: q, 'k': self.x, [Ip()]: $.x, a+: {}, assert self.x > 0}",
        "[i for i in std.range(1, 3) if i > 1]",
        "{[k]: 1 for k in ['a']}",
        "(function(x, y=2) x + y)(1)",
        "// Unknown\n# Unknown\n/* Unknown */ 'Unknown' + \"Unknown\"",
        "|||\n  Unknown\n||| + @'Unknown'",
        "error 'not run'",
        "Header().Unknown",
        "local a = 1; local b = a; a + b",
        "std.map(function(x) x, [1])",
        "'import x // [[['",
        "[" * 200 + "]" * 200,
    ],
)
def test_valid_templates(content: str) -> None:
    """Valid templates are parsed, not evaluated."""
    check_template(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("Invalid", "1:1-8 Unknown variable: Invalid"),
        ("1 +\n  foo", "2:3-6 Unknown variable: foo"),
        ("if false then foo else 1", "1:15-18 Unknown variable: foo"),
        ("{a: b}", "1:5-6 Unknown variable: b"),
        ("local f(x) = y; f(1)", "1:14-15 Unknown variable: y"),
        ("f(x=1)", "1:1-2 Unknown variable: f"),
        ("import 'x'", "1:1-7 imports are not enabled"),
        ("{a:\n importstr 'x'}", "2:2-11 imports are not enabled"),
        ("if false then importbin 'x' else 1", "1:15-24 imports are not enabled"),
    ],
)
def test_templates_that_always_fail(content: str, message: str) -> None:
    """The error has the position of the first fault."""
    with pytest.raises(UserError) as caught:
        check_template(content)
    assert str(caught.value) == message


@pytest.mark.parametrize("content", ["{a:1", "", "1 1", "local x = 1", "1)", "{a:1}}"])
def test_syntax_errors(content: str) -> None:
    """Syntax errors have a position and no trace."""
    with pytest.raises(UserError, match=r"^\d+:\d+ (expected|found) ") as caught:
        check_template(content)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[" * 24, '1:25 expected "]" to close the "[" at 1:24'),
        ("{a:[1}", '1:6 expected "]" to close the "[" at 1:4, found "}"'),
        ("1\n)", '2:1 found ")", but no bracket is open'),
        ("[" * 201 + "]" * 201, "1:201 brackets are nested deeper than 200 levels"),
    ],
)
def test_nested_brackets_are_checked_first(content: str, message: str) -> None:
    """The engine would parse deep brackets for hours; stored mappings are checked too."""
    with pytest.raises(UserError) as caught:
        check_template(content)
    assert str(caught.value) == message
    with pytest.raises(UserError) as caught:
        _render(content)
    assert str(caught.value) == message


SURROGATES = RecordContext(
    0,
    "",
    RecordHeaders(((b"content-type", b"application/json"),)),
    b'{"v":{"k\\ud83d":"x\\ude00y"},"big":1%b,"s":"\\ud83d\\ude00"}' % (b"0" * 400),
)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("Body('v')", '{"k\ufffd":"x\ufffdy"}'),
        ("Body('s')", '"\U0001f600"'),
        ("Body('\ud83d', 'no')", '"no"'),
    ],
)
def test_a_lone_surrogate_is_one_replacement_character(content: str, expected: str) -> None:
    """Keys and values are treated alike, with and without the engine."""
    assert _render(content, record=SURROGATES) == expected
    assert _render(f"local x = 1; {content}", record=SURROGATES) == expected


def test_numbers_beyond_doubles() -> None:
    """Numbers that a double can't represent affect only templates that use them."""
    for content in ("Body('big')", "Body()", "[Body('big')]"):
        with pytest.raises(UserError) as caught:
            _render(content, record=SURROGATES)
        assert str(caught.value) == "the body has a number that is too large for templates"


def test_numbers_are_doubles() -> None:
    """Integral numbers are printed with all digits, others with seventeen significant ones."""
    assert to_json([1, -0.0, 1e21, 0.1, 1e-7, True]) == (
        "[1,-0,1000000000000000000000,0.10000000000000001,9.9999999999999995e-08,true]"
    )


@given(st.text() | st.text(st.characters(max_codepoint=0xFF)))
def test_escapes_of_texts(text: str) -> None:
    """Texts have the escapes of Jsonnet, alone and in an object of texts."""
    short = {8: "\\b", 9: "\\t", 10: "\\n", 12: "\\f", 13: "\\r", 34: '\\"', 92: "\\\\"}
    escaped = {code: f"\\u{code:04x}" for code in (*range(32), *range(0x7F, 0xA0))} | short
    expected = f'"{text.translate(escaped)}"'
    assert to_json(text) == expected
    assert to_json({"b": text, "a": ""}) == f'{{"a":"","b":{expected}}}'
    assert to_json({"b": text, "a": None}) == f'{{"a":null,"b":{expected}}}'


def test_datetime_formats() -> None:
    """Names are in English, and the 12-hour clock starts at 12."""
    at = 1714557600123
    assert format_datetime(at, "%A %a %B %b %C %D %d %e|%F %H %I %j %k %l %M %m") == (
        "Wednesday Wed May May 20 05/01/24 01  1|2024-05-01 10 10 122 10 10 00 05"
    )
    assert format_datetime(at, "%p %R %r %S %T %U %u %V %v %W %w %Y %y %Z %z %h %% %f%n%t") == (
        "AM 10:00 10:00:00 AM 00 10:00:00 17 3 18  1-May-2024 18 3 2024 24 UTC +0000 May % 123\n\t"
    )
    assert format_datetime(at, "%c|%x|%X") == "Wed May  1 10:00:00 2024|05/01/24|10:00:00"
    assert (
        format_datetime(1704067200000, "%I %l %p %U %W %V %u %w %j") == "12 12 AM 00 01 01 1 1 001"
    )
