"""Mappings as users send them and as they are stored."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from stream.errors import UserError
from stream.mapping.columns import (
    COLUMN_TYPES,
    Mapping,
    PathColumn,
    UuidColumn,
    mapping_from_plain,
    mapping_to_plain,
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


def test_stored_form_is_stable() -> None:
    """Members have their order, false and missing ones are left out, an empty default stays."""
    mapping = decode(Mapping, STORED)
    assert encode(mapping) == STORED
    assert mapping_from_plain(orjson.loads(STORED)) == mapping
    assert orjson.dumps(mapping_to_plain(mapping)) == STORED
    assert {column.type for column in mapping.columns} == set(COLUMN_TYPES)
    assert mapping.columns[0] == UuidColumn("id", primary_key=True)
    assert mapping.columns[6] == PathColumn("q", path="key")


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({}, '"columns" is a required field'),
        ({"columns": []}, '"columns" must contain at least 1 item'),
        ({"columns": [{"type": "uuid"}]}, '"columns[0].name" is a required field'),
        ({"columns": [{"type": "uuid", "name": ""}]}, '"columns[0].name" is a required field'),
        ({"columns": [{"type": "foo", "name": "a"}]}, 'invalid column type "foo"'),
        ({"columns": [{"type": "path", "name": "c"}]}, 'column "c" is missing path'),
        ({"columns": [{"type": "path", "name": "c", "path": ""}]}, 'column "c" is missing path'),
        ({"columns": [{"type": "template", "name": "c"}]}, 'column "c" is missing template'),
        ({"columns": [{"type": "ip", "name": "a"}] * 101}, '"columns" must contain at most 100'),
    ],
)
def test_invalid_mappings(plain: dict[str, Any], message: str) -> None:
    """The first thing that is wrong is named."""
    with pytest.raises(UserError) as caught:
        mapping_from_plain(plain)
    assert str(caught.value).startswith(message)
    assert caught.value.status == 400


def test_a_hundred_columns_are_allowed() -> None:
    """The limit is exact."""
    assert len(mapping_from_plain({"columns": [{"type": "ip", "name": "a"}] * 100}).columns) == 100
