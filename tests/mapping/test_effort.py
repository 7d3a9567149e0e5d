"""Records that take long are those for which a mapping does much work with the body."""

from __future__ import annotations

import json

import pytest

from stream import native
from stream.mapping.columns import Column, Mapping, PathColumn, Template, TemplateColumn
from stream.mapping.effort import (
    CHARACTERS_PER_VALUE,
    MAX_PRINTED,
    PARSED_BYTES,
    SEARCHED_BYTES,
    Effort,
    paths_of,
)
from stream.record.context import RecordContext
from stream.record.headers import RecordHeaders
from stream.record.large import LARGE_BYTES

FORM = b"application/x-www-form-urlencoded"


def _effort(*columns: Column) -> Effort:
    mapping = Mapping(columns)
    return Effort(mapping, paths_of(mapping))


def _takes_long(effort: Effort, body: bytes, kind: bytes = b"application/json") -> bool:
    headers = RecordHeaders([(b"Content-Type", kind)])
    return effort.takes_long(RecordContext(1, "192.0.2.1", headers, body))


def _templates(*contents: str) -> tuple[Column, ...]:
    return tuple(
        TemplateColumn(f"c{number}", template=Template("jsonnet", content))
        for number, content in enumerate(contents)
    )


@pytest.mark.skipif(not native.is_built, reason="the compiled code isn't built")
def test_compiled_code_finds_paths_in_any_body() -> None:
    """Only a body that is large for any mapping takes long."""
    effort = _effort(*(PathColumn(f"c{number}", path=f"k{number}") for number in range(100)))
    assert effort.free_bytes == LARGE_BYTES
    assert not _takes_long(effort, b" " * LARGE_BYTES)
    assert _takes_long(effort, b" " * (LARGE_BYTES + 1))


@pytest.mark.parametrize("is_ambiguous", [True, False])
def test_python_code_searches_small_bodies(
    is_ambiguous: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It searches for the paths that compiled code leaves to it."""
    if not is_ambiguous:
        monkeypatch.setattr(native, "is_built", False)
    effort = _effort(PathColumn("a", path="0"), PathColumn("b", path="00" if is_ambiguous else "1"))
    assert effort.free_bytes == SEARCHED_BYTES
    assert not _takes_long(effort, b" " * SEARCHED_BYTES)
    assert _takes_long(effort, b" " * (SEARCHED_BYTES + 1))
    assert not _takes_long(effort, b"a" * (SEARCHED_BYTES + 1), FORM)


def test_templates_that_print_small_values() -> None:
    """The size of the body doesn't matter as long as it is parsed quickly."""
    effort = _effort(*_templates(*["Body('a', null)"] * 100, "Now()"))
    assert effort.free_bytes == 2 * MAX_PRINTED // 100
    body = json.dumps({"a": 1, "b": "x" * (PARSED_BYTES - 100)}).encode()
    assert not _takes_long(effort, body)
    assert _takes_long(effort, body + b" " * PARSED_BYTES)
    assert not _takes_long(effort, b"invalid" * 1000)
    assert not _takes_long(effort, b"[]" + b" " * 1000)


@pytest.mark.parametrize(
    ("value", "number"),
    [
        ([0] * 1000, 1000),
        ({str(key): 0 for key in range(500)}, 1000),
        ("x" * 100 * CHARACTERS_PER_VALUE, 100),
    ],
    ids=["array", "object", "text"],
)
def test_templates_that_print_large_values(value: object, number: int) -> None:
    """The values that all templates print are counted together."""
    body = json.dumps({"a": value}).encode()
    assert len(body) <= PARSED_BYTES
    few, many = MAX_PRINTED // number - 1, MAX_PRINTED // number + 1
    assert len(body) > _effort(*_templates(*["Body('a')"] * many)).free_bytes
    assert not _takes_long(_effort(*_templates(*["Body('a')"] * few)), body)
    assert _takes_long(_effort(*_templates(*["Body('a')"] * many)), body)
    assert not _takes_long(_effort(*_templates(*["Body('b', 'c')"] * many)), body)


def test_templates_that_need_the_engine_anyway() -> None:
    """The engine evaluates them, so they take no time here."""
    effort = _effort(*_templates("Body('a') + 1", "Header('X')", "std.length(Body())"))
    assert effort.free_bytes == LARGE_BYTES


def test_templates_that_print_large_values_of_otlp_records() -> None:
    """Only the values that are printed count, because the record is parsed already."""
    flat = {"attributes": [0] * 1000, "body": "x" * PARSED_BYTES}
    body = json.dumps(flat).encode()
    record = RecordContext(1, "", RecordHeaders(()), body, "traces", flat)
    assert not _effort(*_templates(*["Body('attributes')"] * 3)).takes_long(record)
    assert _effort(*_templates(*["Body('attributes')"] * 5)).takes_long(record)


@pytest.mark.parametrize("content", ["Body()", "BodyStr()"])
def test_templates_that_print_the_body(content: str) -> None:
    """They print all values of the body."""
    body = json.dumps({"a": [0] * 1500}).encode()
    assert not _takes_long(_effort(*_templates(*[content] * 2)), body)
    assert _takes_long(_effort(*_templates(*[content] * 3)), body)
