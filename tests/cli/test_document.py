"""Files of sources and sinks: errors are found before anything is changed."""

from __future__ import annotations

import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.api.spec.openapi import openapi3
from stream.api.spec.operations import OPERATIONS
from stream.cli import document as documents
from stream.cli.document import Document, DocumentError, check, parse_document, schemas_of
from stream.cli.output import dump_yaml

_SCHEMAS = schemas_of(openapi3(list(OPERATIONS.values())))

_GOOD = """\
sources:
  - sourceId: shop
    type: http
    name: Shop
    settings:
      source.http.readTextAsJson: true
    sinks:
      - sinkId: orders
        type: table
        name: Orders
        disabled: false
        table:
          type: keboola
          tableId: in.c-shop.orders
          mapping:
            columns:
              - {type: uuid, name: id, primaryKey: true}
"""


def _parsed(text: str) -> Document:
    return parse_document("stream.yaml", textwrap.dedent(text))


def _faults(text: str) -> list[str]:
    try:
        check(_parsed(text), *_SCHEMAS)
    except DocumentError as error:
        return error.faults
    return []


def test_a_valid_file() -> None:
    """A valid file has the members of the API's requests and its own."""
    assert _faults(_GOOD) == []


@pytest.mark.parametrize(
    ("good", "bad", "fault"),
    [
        (
            "tableId:",
            "tabelId:",
            'stream.yaml:14: there is no member "tabelId" in sources[0].sinks[0].table; '
            'did you mean "tableId"?',
        ),
        (
            "primaryKey:",
            "primarykey:",
            'stream.yaml:17: there is no member "primarykey" in '
            'sources[0].sinks[0].table.mapping.columns[0]; did you mean "primaryKey"?',
        ),
        ("name: Shop", "name: 3", "stream.yaml:4: sources[0].name must be a string; put it"),
        ("    name: Shop\n", "", 'stream.yaml:2: sources[0] has no "name"'),
        ("type: http", "type: htp", 'sources[0].type can\'t be "htp"; did you mean "http"?'),
        ("type: uuid", "type: uid", 'did you mean "uuid"?'),
        ("    sinks:", "    type: otlp\n    sinks:", 'stream.yaml:7: "type" occurs twice'),
        ("sources:", "source:", 'the file has no "sources"'),
        ("disabled: false", "disabled: 0", "must be a boolean"),
        ("sources:", "sources: [", "stream.yaml:"),
        ("name: Shop", "name: !!python/object:os.system x", "stream.yaml:4: could not determine"),
        ("    settings:", "    <<: {a: b}\n    settings:", "a key must be a plain string"),
    ],
)
def test_faults(good: str, bad: str, fault: str) -> None:
    """Each fault is reported with its line and the most similar name."""
    assert good in _GOOD
    assert any(fault in found for found in _faults(_GOOD.replace(good, bad))), _faults(
        _GOOD.replace(good, bad)
    )


def test_all_faults_at_once() -> None:
    """All faults are reported together."""
    assert len(_faults(_GOOD.replace("tableId", "tabelId").replace("name: Shop", "label: x"))) == 3


def test_a_duplicate_id() -> None:
    """A duplicate id is refused: the second object would overwrite the first."""
    entry = _GOOD.removeprefix("sources:\n")
    assert _faults(_GOOD + entry) == ['stream.yaml:18: the source "shop" occurs twice']


def test_a_service_without_a_description() -> None:
    """Without a description the API finds the errors; members that the command needs are still
    checked.
    """
    assert schemas_of({}) == ({}, {})
    check(_parsed("sources: [{sourceId: a, anything: 1}]"), {}, {})
    with pytest.raises(DocumentError, match="sourceId"):
        check(_parsed("sources: [{}]"), {}, {})


def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nested aliases and nested brackets are refused early."""
    monkeypatch.setattr(documents, "MAX_NODES", 10_000)
    bomb = "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
    for one, two in zip("abcdef", "bcdefg", strict=True):
        bomb += f"{two}: &{two} [{', '.join([f'*{one}'] * 10)}]\n"
    for text in (bomb, "[" * 60 + "]" * 60, "[" * 100_000):
        with pytest.raises(DocumentError):
            parse_document("x", text)


def test_long_keys_do_not_make_long_paths() -> None:
    """The path of each value contains the keys around it, so long keys could exhaust the memory."""
    with pytest.raises(DocumentError, match="a key is too long"):
        parse_document("x", f"? {'k' * 201}\n: 1")
    nested = "".join(f"{'  ' * depth}{'k' * 200}:\n" for depth in range(40))
    with pytest.raises(DocumentError, match="too many values"):
        parse_document("x", f"{nested}{'  ' * 40}[{'x, ' * 10_000}]")


@pytest.mark.parametrize(
    "value",
    [
        *("9" * 5000, f"0x{'f' * 101}", "1:" * 100 + "1", "!!int x", "!!float x", "!!bool x"),
        *(".inf", "!!binary AAAA", "!!binary é"),
    ],
    ids=["decimal", "hex", "base-60", "int", "float", "bool", "infinite", "bytes", "base64"],
)
def test_values_that_json_lacks(value: str) -> None:
    """Values without a JSON form are reported with their line."""
    with pytest.raises(DocumentError, match=r"^x:2: "):
        parse_document("x", f"\na: {value}")


_PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=20)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(_PLAIN)
def test_an_export_can_be_parsed(value: object) -> None:
    """Any text in an export is parsed to the same text."""
    assert parse_document("x", dump_yaml(value)).value == value


@given(st.text(max_size=50))
def test_any_text(text: str) -> None:
    """Any text is parsed as a document or raises a DocumentError."""
    try:
        check(parse_document("x", text), *_SCHEMAS)
    except DocumentError as error:
        assert all(fault.startswith("x:") for fault in error.faults)
