from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.api import requests
from stream.api.body import decode_json, read_body
from stream.api.operations import OPERATIONS
from stream.api.schema import DecodeError, Object, problems_error, quoted
from stream.errors import UserError, sentence

NINE = "123456789-" * 4 + "123456789"


def complaint(schema: Object, value: Any) -> tuple[str, str]:
    """The name and the sentence of the error."""
    problems = list(schema.check(schema.read(value, schema.name), "body"))
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
            f'but got value "{"d" * 4097}" (len=4097)',
        ),
    ],
)
def test_new_sources(body: Any, name: str, message: str) -> None:
    """All problems are told in the order of the members, under the name of the first."""
    assert complaint(requests.CREATE_SOURCE, body) == (name, message)


def sink(**table: Any) -> dict[str, Any]:
    return {"type": "table", "name": "n", "table": {"type": "keboola", "tableId": "x"} | table}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            sink(mapping={"columns": [{"type": "foo", "name": "c"}]}),
            'Value of body.table.mapping.columns[0].type must be one of "uuid", "datetime", "ip", '
            '"body.table.mapping.columns[0]", "headers", "path", "template" but got value "foo".',
        ),
        (
            sink(mapping={"columns": []}),
            "Length of body.table.mapping.columns must be greater or equal than 1 but got value "
            "[]*server.TableColumnRequestBody{} (len=0)",
        ),
        (
            sink(mapping={}),
            '"columns" is missing from body.table.mapping; length of body.table.mapping.columns '
            "must be greater or equal than 1 but got value "
            "[]*server.TableColumnRequestBody(nil) (len=0)",
        ),
        (
            {"type": "table", "name": "n", "allowedSignals": ["logs", "foo"]},
            "Value of body.allowedSignals[1].allowedSignals[*] must be one of "
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
    """Paths lead into nested objects and arrays."""
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


def test_members_are_found_whatever_their_case() -> None:
    """Names match without regard to case, exact ones first; null counts as absent."""
    read = requests.CREATE_SOURCE.read(
        {"NAME": "a", "name": "b", "Type": "http", "description": None, "unknown": 1}, "Body"
    )
    assert read == {"type": "http", "name": "b"}


def test_null_is_a_value_where_any_value_is_allowed() -> None:
    """A setting can be set to null, which isn't the same as leaving the value out."""
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
        (
            b'{"name": 1}',
            "decodePayload",
            "json: cannot unmarshal number into Go struct field CreateSourceRequestBody.name "
            "of type string",
        ),
        (
            b"[]",
            "decodePayload",
            "json: cannot unmarshal array into Go value of type server.CreateSourceRequestBody",
        ),
    ],
)
def test_bodies_that_can_not_be_read(data: bytes, name: str, text: str) -> None:
    """A body that isn't JSON, or of the wrong types, is refused with the reason."""
    with pytest.raises(UserError) as caught:
        read_body(requests.CREATE_SOURCE, data, "")
    assert (caught.value.name, caught.value.status) == (name, 400)
    assert caught.value.message.startswith(text)


def test_content_types() -> None:
    """JSON may be called so with parameters or not at all; anything else is refused."""
    body = b'{"type":"http","name":"n"} rest'
    for content_type in ("", "application/json; charset=utf-8", "application/vnd.api+json"):
        assert read_body(requests.CREATE_SOURCE, body, content_type)["name"] == "n"
    with pytest.raises(UserError, match="unsupported media type text/plain") as caught:
        read_body(requests.CREATE_SOURCE, body, "text/plain")
    assert caught.value.name == "unsupportedMediaType"


def test_half_an_emoji_is_replaced() -> None:
    """A lone surrogate in a string can't be stored, so it becomes a replacement character."""
    assert decode_json(r'{"a": ["\ud83d", "\ud83d\ude00"]}') == {"a": ["\ufffd", "😀"]}


@given(st.text())
def test_any_text_is_either_a_document_or_refused(text: str) -> None:
    """No text makes the decoder fail in another way."""
    with contextlib.suppress(DecodeError):
        decode_json(text)


def test_quoted() -> None:
    """Strings are shown as literals."""
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
def test_parameters(
    operation: str, path: dict[str, str], query: dict[str, str], message: str
) -> None:
    """Parameters are read and checked; a text that isn't a number counts as 0."""
    given_path = {"branchId": "1", "sourceId": "s", "sinkId": "k"} | path
    _, problems = OPERATIONS[operation].read_parameters(given_path, query)
    assert sentence(problems_error(problems).message) == message


def test_defaults_of_parameters() -> None:
    """What isn't given has its default, and booleans have many spellings."""
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
