"""Mappings in requests and in storage."""

from __future__ import annotations

from typing import Any

import pytest

from stream.errors import UserError
from stream.mapping.columns import (
    COLUMN_TYPES,
    IpColumn,
    Mapping,
    PathColumn,
    UuidColumn,
    column_from_plain,
)
from stream.values.codec import decode, encode

STORED = (
    b'{"columns":[{"type":"uuid","name":"id","primaryKey":true},{"type":"datetime","name":"d"},'
    b'{"type":"ip","name":"i"},{"type":"body","name":"b"},{"type":"headers","name":"h"},'
    b'{"type":"path","name":"p","path":"key","rawString":true,"defaultValue":""},'
    b'{"type":"path","name":"q","path":"key"},'
    b'{"type":"template","name":"t","rawString":true,'
    b'"template":{"language":"jsonnet","content":"Body(\\"key\\")"}}]}'
)


def test_the_stored_form_is_stable() -> None:
    """Members keep their order, false and missing ones are omitted, and an empty default
    is kept.
    """
    mapping = decode(Mapping, STORED)
    assert encode(mapping) == STORED
    assert {column.type for column in mapping.columns} == set(COLUMN_TYPES)
    assert mapping.columns[0] == UuidColumn("id", primary_key=True)
    assert mapping.columns[6] == PathColumn("q", path="key")


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({"type": "foo", "name": "a"}, 'invalid column type "foo"'),
        ({"type": "path", "name": "c"}, 'column "c" is missing path'),
        ({"type": "path", "name": "c", "path": ""}, 'column "c" is missing path'),
        ({"type": "template", "name": "c"}, 'column "c" is missing template'),
    ],
)
def test_an_invalid_column_is_refused_with_the_reason(plain: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        Mapping((column_from_plain(plain),)).validate()
    assert str(caught.value).startswith(message)
    assert caught.value.status == 400


def test_a_mapping_has_one_to_a_hundred_columns() -> None:
    with pytest.raises(UserError, match='"columns" must contain at least 1 item'):
        Mapping(()).validate()
    Mapping((IpColumn("a"),) * 100).validate()
    with pytest.raises(UserError, match='"columns" must contain at most 100'):
        Mapping((IpColumn("a"),) * 101).validate()
