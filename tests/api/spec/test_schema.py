from __future__ import annotations

import contextlib
import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.api.http.body import BRACKETS_OF_MANY, MAX_DEPTH, MAX_VALUES, decode_json, read_body
from stream.api.spec import request_schemas as requests
from stream.api.spec.operations import OPERATIONS
from stream.api.spec.schema import DecodeError, Object, problems_error, quoted
from stream.errors import UserError, sentence
from tests.effort import examples

NINE = "123456789-" * 4 + "123456789"


def complaint(schema: Object, value: Any) -> tuple[str, str]:
    """Return the name and the message of the error."""
    problems = list(schema.check(schema.read(value, "body"), "body"))
    error = problems_error(problems)
    return error.name, sentence(error.message)


@pytest.mark.parametrize(
    ("body", "name", "message"),
    [
        ({}, "missingField", '"type" is missing from body; "name" is missing from body.'),
        (
            {"type": "foo", "name": "n"},
            "invalidEnumValue",
            'Value of body.type must be one of "http", "otlp" but got value "foo".',
        ),
        (
            {"type": "http", "name": "n", "sourceId": ""},
            "invalidLength",
            'Length of body.sourceId must be greater or equal than 1 but got value "" (len=0)',
        ),
        (
            {"type": "http", "name": "n", "sourceId": NINE},
            "invalidLength",
            f'Length of body.sourceId must be lesser or equal than 48 but got value "{NINE}"'
            " (len=49)",
        ),
        (
            {"type": "http", "name": "n" * 41, "description": "d" * 4097, "sourceId": ""},
            "invalidLength",
            'Length of body.sourceId must be greater or equal than 1 but got value "" (len=0); '
            f'length of body.name must be lesser or equal than 40 but got value "{"n" * 41}" '
            "(len=41); length of body.description must be lesser or equal than 4096 "
            f'but got value "{"d" * 100}…" (len=4097)',
        ),
    ],
)
def test_new_sources(body: Any, name: str, message: str) -> None:
    """All problems are reported in the order of the members, with the name of the first."""
    assert complaint(requests.CREATE_SOURCE, body) == (name, message)


def sink(**table: Any) -> dict[str, Any]:
    return {"type": "table", "name": "n", "table": {"type": "keboola", "tableId": "x"} | table}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            sink(mapping={"columns": [{"type": "foo", "name": "c"}]}),
            'Value of body.table.mapping.columns[0].type must be one of "uuid", "datetime", "ip", '
            '"body", "headers", "path", "template" but got value "foo".',
        ),
        (
            sink(mapping={"columns": []}),
            "Length of body.table.mapping.columns must be greater or equal than 1 but got value "
            "[] (len=0)",
        ),
        (
            sink(mapping={}),
            '"columns" is missing from body.table.mapping.',
        ),
        (
            {"type": "table", "name": "n", "allowedSignals": ["logs", "foo"]},
            "Value of body.allowedSignals[1] must be one of "
            '"logs", "metrics", "traces" but got value "foo".',
        ),
        (
            sink(mapping={"columns": [{"type": "template", "name": "c", "template": {}}]}),
            '"language" is missing from body.table.mapping.columns[0].template; '
            '"content" is missing from body.table.mapping.columns[0].template.',
        ),
        ({"type": "table", "name": "n", "table": {}}, None),
    ],
)
def test_new_sinks(body: Any, message: str | None) -> None:
    """Error paths lead into nested objects and arrays."""
    name, text = complaint(requests.CREATE_SINK, body)
    if message is None:
        assert name == "missingField"
        assert text == (
            '"type" is missing from body.table; "tableId" is missing from body.table; '
            '"mapping" is missing from body.table.'
        )
    else:
        assert text == message


def test_settings_patch() -> None:
    """Each item of a patch needs a key."""
    _, text = complaint(requests.SETTINGS_PATCH, {"settings": [{}, {"key": ""}]})
    assert text == (
        '"key" is missing from body.settings[0]; length of body.settings[1].key must be greater '
        'or equal than 1 but got value "" (len=0)'
    )


def test_members_match_without_case() -> None:
    """Names match without regard to case, exact ones first; `null` counts as absent."""
    read = requests.CREATE_SOURCE.read(
        {"NAME": "a", "name": "b", "Type": "http", "description": None, "unknown": 1}, "Body"
    )
    assert read == {"type": "http", "name": "b"}


def test_null_is_a_value_where_any_value_is_allowed() -> None:
    """A setting can be set to `null`, which differs from leaving the value out."""
    body = {"settings": [{"key": "a", "value": None}, {"key": "b"}]}
    assert requests.SETTINGS_PATCH.read(body, "Body") == body


@pytest.mark.parametrize(
    ("data", "name", "text"),
    [
        (b"", "missingPayload", "missing required payload"),
        (b" \n", "missingPayload", "missing required payload"),
        (b'{"name":', "decodePayload", "unexpected EOF"),
        (b'{"name": "', "decodePayload", "unexpected EOF"),
        (b"x", "decodePayload", "invalid character 'x'"),
        (b'{"name": NaN}', "decodePayload", "invalid character 'N'"),
        (b"[" * 100_000, "decodePayload", ""),
        (b'{"name": ' + b"1" * 5000 + b"}", "decodePayload", ""),
        (b'{"name": 1}', "decodePayload", "body.name must be a string but got a number"),
        (b'{"name": false}', "decodePayload", "body.name must be a string but got false"),
        (b"[]", "decodePayload", "body must be an object but got an array"),
    ],
)
def test_invalid_bodies(data: bytes, name: str, text: str) -> None:
    """A body that isn't JSON or has wrong types is refused with the reason."""
    with pytest.raises(UserError) as caught:
        read_body(requests.CREATE_SOURCE, data, "")
    assert (caught.value.name, caught.value.status) == (name, 400)
    assert caught.value.message.startswith(text)


def test_content_types() -> None:
    """JSON with or without parameters or no content type is accepted; other types are refused."""
    body = b'{"type":"http","name":"n"} rest'
    for content_type in ("", "application/json; charset=utf-8", "application/vnd.api+json"):
        assert read_body(requests.CREATE_SOURCE, body, content_type).value["name"] == "n"
    with pytest.raises(UserError, match="unsupported media type application/xml") as caught:
        read_body(requests.CREATE_SOURCE, body, "application/xml")
    assert caught.value.name == "unsupportedMediaType"


@pytest.mark.parametrize("content_type", ["text/plain", "TEXT/PLAIN; charset=utf-8", "text/html"])
def test_a_text_is_no_object(content_type: str) -> None:
    """Text instead of an object is refused, whatever it contains."""
    essence = content_type.partition(";")[0].lower()
    with pytest.raises(UserError, match=f"can't decode {essence} to an object") as caught:
        read_body(requests.CREATE_SINK, b'{"type":"table","name":"n"}', content_type)
    assert (caught.value.name, caught.value.status) == ("decodePayload", 400)


@pytest.mark.parametrize(
    ("text", "place", "reason"),
    [
        ('{"a": NaN}', "line 1 column 7", "NaN is not JSON"),
        ('{"a":\n [-Infinity]}', "line 2 column 3", "-Infinity is not JSON"),
        ('{"a": 01}', "line 1 column 8", "numbers can't have leading zeros"),
        ('{"a": -00.5}', "line 1 column 9", "numbers can't have leading zeros"),
        ('{"a":\n "x\x01y"}', "line 2 column 4", "control characters must be escaped"),
        ('{"a": "x\ty"}', "line 1 column 9", "control characters must be escaped"),
        ('{"a": 0x1}', "line 1 column 8", "a comma, or the end of the object or array"),
        ('["NaN", 10, 0.5, 100, nan]', "line 1 column 23", "a value is expected"),
    ],
)
def test_lenient_json_is_refused(text: str, place: str, reason: str) -> None:
    """Extensions of JSON that other parsers accept are refused, with position and reason."""
    with pytest.raises(DecodeError) as caught:
        decode_json(text)
    assert place in caught.value.message and reason in caught.value.message


def test_a_lone_surrogate_is_replaced() -> None:
    """A lone surrogate can't be stored, so a replacement character takes its place."""
    assert decode_json(r'{"a": ["\ud83d", "\ud83d\ude00"]}') == {"a": ["\ufffd", "😀"]}


@given(st.text())
def test_any_text_is_decoded_or_refused(text: str) -> None:
    """The decoder fails in no other way, whatever the text."""
    with contextlib.suppress(DecodeError):
        decode_json(text)


def test_strings_are_shown_as_literals() -> None:
    """Control characters and quotes in a quoted string are escaped."""
    assert quoted('a"b\\c\n\x01é\u200b') == '"a\\"b\\\\c\\n\\x01é\\u200b"'


@pytest.mark.parametrize(
    ("operation", "path", "query", "message"),
    [
        (
            "SourceVersionDetail",
            {"versionNumber": "2dsad5"},
            {},
            'Invalid value "2dsad5" for "versionNumber", must be a integer; '
            "versionNumber must be greater or equal than 1 but got value 0.",
        ),
        (
            "ListSources",
            {},
            {"limit": "x"},
            'Invalid value "x" for "limit", must be a integer; '
            "limit must be greater or equal than 1 but got value 0.",
        ),
        (
            "ListSources",
            {},
            {"limit": "101"},
            "Limit must be lesser or equal than 100 but got value 101.",
        ),
        (
            "ListSources",
            {},
            {"limit": "99999999999999999999"},
            'Invalid value "99999999999999999999" for "limit", must be a integer; '
            "limit must be lesser or equal than 100 but got value 9223372036854775807.",
        ),
        (
            "DeleteSource",
            {},
            {"cascade": "maybe"},
            'Invalid value "maybe" for "cascade", must be a boolean.',
        ),
        (
            "TestSource",
            {},
            {"signal": "smoke"},
            'Value of signal must be one of "logs", "metrics", "traces" but got value "smoke".',
        ),
    ],
)
def test_parameters_are_read_and_checked(
    operation: str, path: dict[str, str], query: dict[str, str], message: str
) -> None:
    """Parameters are parsed and checked; text instead of a number counts as 0."""
    given_path = {"branchId": "1", "sourceId": "s", "sinkId": "k"} | path
    _, problems = OPERATIONS[operation].read_parameters(given_path, query)
    assert sentence(problems_error(problems).message) == message


def test_defaults_of_parameters() -> None:
    """Missing parameters have their defaults, and booleans have several spellings."""
    listing = OPERATIONS["ListSources"]
    assert listing.read_parameters({"branchId": "1"}, {}) == (
        {"branchId": "1", "afterId": "", "limit": 100},
        [],
    )
    delete = OPERATIONS["DeleteSource"]
    for text, value in (("1", True), ("t", True), ("FALSE", False), ("", False)):
        values, problems = delete.read_parameters(
            {"branchId": "1", "sourceId": "s"}, {"cascade": text}
        )
        assert (values["cascade"], problems) == (value, [])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ('{"a": NaN}', "invalid character 'N' at line 1 column 7: NaN is not JSON"),
        ('{"NaN": -Infinity}', "invalid character '-' at line 1 column 9: -Infinity is not JSON"),
        (
            '{"a": 01}',
            "invalid character '1' at line 1 column 8: numbers can't have leading zeros",
        ),
        (
            '{"a":\n "b\tc"}',
            "invalid character U+0009 at line 2 column 4: control characters must be escaped",
        ),
        ("{\n'a': 1}", "invalid character ''' at line 2 column 1: the name of a member"),
        ('{"a": 1,}', "invalid character '"),
        (
            '{"a": "\\x"}',
            "invalid character '\\' at line 1 column 8: the escape sequence is invalid",
        ),
        ('{"1e400": 1e400}', "a number is too large at line 1 column 11"),
        ('{"a": ' + "1" * 5000 + "}", "a number is too large at line 1 column 7"),
        ("[" * 101, "exceeded max depth at line 1 column 101: at most 100 levels are allowed"),
        ('["[{", ' + "[" * 100, "exceeded max depth at line 1 column 107"),
        ('\n{"a"', "unexpected EOF at line 2 column 5"),
    ],
)
def test_the_position_of_invalid_json(data: str, message: str) -> None:
    """The message contains the line and column, without terms of a programming language."""
    with pytest.raises(DecodeError) as caught:
        decode_json(data)
    assert caught.value.message.startswith(message)
    assert not re.search(r"sys\.|int string|Expecting|Exceeds", caught.value.message)


@pytest.mark.parametrize(
    "text", ["[]" * (MAX_VALUES // 2), "[" * 100 + "]" * 100, '"' + "[" * 1000 + '"']
)
def test_depth_is_not_length(text: str) -> None:
    """Many brackets are valid unless they are nested too deep."""
    decode_json(text)


@pytest.mark.parametrize("text", ["[" + "0," * MAX_VALUES + "0]", "[" + "[]," * MAX_VALUES])
def test_values_are_counted_before_they_are_parsed(text: str) -> None:
    """Too many values are refused, even in text that isn't JSON."""
    with pytest.raises(UserError, match=f"more than {MAX_VALUES} values") as caught:
        decode_json(text)
    assert (caught.value.status, caught.value.name) == (413, "payloadTooLarge")
    decode_json("[" + "0," * (MAX_VALUES - 2) + "0]")


@pytest.mark.parametrize(("pairs", "message"), [(449, "max depth"), (450, "more than")])
def test_the_levels_of_a_body_with_many_values_are_checked_at_its_beginning(
    pairs: int, message: str
) -> None:
    """A body with too many values is refused in any case; its levels are the better reason."""
    assert BRACKETS_OF_MANY == 1000
    body = "[" + "[]," * pairs + "[" * MAX_DEPTH  # the last of these is too deep
    with pytest.raises(UserError, match=message):
        decode_json(body + "0," * MAX_VALUES)


@given(st.text('[]{}",\\:1 ', max_size=400))
def test_the_depth_of_nested_brackets(text: str) -> None:
    """Brackets in strings or after the first error don't count."""
    try:
        decode_json("[" * 99 + text)
    except DecodeError as error:
        if "max depth" in error.message:
            assert text.count("[") + text.count("{") > 1


def test_a_byte_order_mark_is_skipped() -> None:
    """A byte order mark in front of a body is skipped."""
    body = b'\xef\xbb\xbf{"type":"http","name":"n"}'
    assert read_body(requests.CREATE_SOURCE, body, "").value == {"type": "http", "name": "n"}


def test_compressed_bodies_are_refused() -> None:
    """The error names compression instead of invalid JSON."""
    with pytest.raises(UserError, match='content encoding "gzip"') as caught:
        read_body(requests.CREATE_SOURCE, b"\x1f\x8b", "", "gzip")
    assert caught.value.status == 415


@pytest.mark.parametrize(
    ("body", "param", "text"),
    [
        ({"nmae": "x"}, "body.nmae", 'member "nmae" of body is not known: did you mean "name"?'),
        (
            {"qqq": 1},
            "body.qqq",
            'member "qqq" of body is not known: known are sinkId, type, name, description, '
            "allowedSignals, table",
        ),
        (
            {"TABLE": 5, "table": {"tableID": "x", "mappings": 1}},
            "body.table.mappings",
            'member "mappings" of body.table is not known: did you mean "mapping"?',
        ),
        (
            {"table": {"mapping": {"columns": [{"Path": "a"}, {"primary_key": 1}]}}},
            "body.table.mapping.columns[1].primary_key",
            'did you mean "primaryKey"?',
        ),
    ],
)
def test_unknown_members(body: Any, param: str, text: str) -> None:
    """Unknown members are found at any depth, with the most similar known name."""
    [fault] = requests.CREATE_SINK.unknown(body, "body")
    assert (fault.name, fault.param) == ("unknownMember", param)
    assert text in fault.message


def test_at_most_twenty_problems_are_listed() -> None:
    """The first twenty problems are listed, and the others are counted."""
    columns = [{"type": "x" * 1000, "name": "c"} for _ in range(100)]
    read = requests.CREATE_SINK.read(sink(mapping={"columns": columns}), "body")
    error = problems_error(list(requests.CREATE_SINK.check(read, "body")))
    assert error.message.count("must be one of") == 20
    assert error.message.endswith("; and 80 more problems")
    assert len(error.message) < 8000
    assert [fault.param for fault in error.faults[:2]] == [
        "body.table.mapping.columns[0].type",
        "body.table.mapping.columns[1].type",
    ]
    assert len(error.faults) == 20


def test_items_are_counted_before_they_are_parsed() -> None:
    """An array with too many items is refused before its items are parsed."""
    body = sink(mapping={"columns": [5] * 100_000})
    with pytest.raises(UserError) as caught:
        requests.CREATE_SINK.read(body, "body")
    assert caught.value.message == (
        "length of body.table.mapping.columns must be lesser or equal than 100 "
        "but got value […] (len=100000)"
    )


NAMES = st.sampled_from(
    (
        *("type", "NAME", "name", "table", "tableId", "mapping", "columns", "template"),
        *("language", "content", "path", "primaryKey", "settings", "key", "value"),
        *("allowedSignals", "sinkId"),
    )
)
SCALARS = st.sampled_from(
    (None, True, 0, -1.5, 10**30, 1e300, "", "x" * 200, "\ud800", "table", "keboola", "in.c-a.b")
)
ALMOST = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=5),
    max_leaves=15,
)


@settings(max_examples=examples(30), deadline=None)
@given(
    st.sampled_from(
        [
            requests.CREATE_SOURCE,
            requests.UPDATE_SOURCE,
            requests.CREATE_SINK,
            requests.UPDATE_SINK,
            requests.SETTINGS_PATCH,
        ]
    ),
    ALMOST,
)
def test_any_json_is_parsed_or_refused(schema: Object, value: Any) -> None:
    """Any body results in a checked value or in an answer of bounded size."""
    try:
        read = read_body(schema, json.dumps(value).encode(), "")
    except UserError as error:
        assert error.status == 400
        assert len(error.message) < 10_000
    else:
        assert len(read.unknown) <= 20
