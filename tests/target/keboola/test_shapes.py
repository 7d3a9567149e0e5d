"""Shapes contain no values, and differences from the documented ones are found."""

from __future__ import annotations

from typing import Any

import pytest

from tests.target.keboola.shapes import Documented, Seen, problems_of, shape_of

HEADERS = {"User-Agent", "Accept", "X-StorageApi-Token"}
DOCUMENTED = Documented(
    request={"": "object", "a": "string"},
    reply={"": "object", "id": "integer", "in?": "object", "in?.x": "string", "l": "list"},
)


def test_a_shape_has_names_and_types() -> None:
    """A shape contains no values, and no ids used as names."""
    value = {"token": "s3cret", "bucketPermissions": {"in.c-b": "write"}, "l": [1, None], "e": []}
    assert shape_of(value) == {
        "": {"object"},
        "token": {"string"},
        "bucketPermissions": {"object"},
        "bucketPermissions.*": {"string"},
        "l": {"list"},
        "l[]": {"integer", "null"},
        "e": {"list"},
    }


@pytest.mark.parametrize(
    ("request_", "reply", "found"),
    [
        ({"a": "x"}, {"id": 1, "l": []}, 0),
        ({"a": "x"}, {"id": 1, "l": [], "in": {"x": ""}, "more": 1}, 0),
        ({"a": 1}, {"id": 1, "l": []}, 1),
        ({"a": "x", "b": 1}, {"id": 1, "l": []}, 1),
        ({"a": "x"}, {"id": "1", "l": []}, 1),
        ({"a": "x"}, {"l": {}}, 2),
        ({"a": "x"}, {"id": 1, "l": [], "in": {}}, 1),
        ({}, [], 4),
    ],
)
def test_an_answer_may_have_additional_members(request_: Any, reply: Any, found: int) -> None:
    """A request must be as documented; an answer may have more members but not fewer."""
    seen = Seen(HEADERS, set(), shape_of(request_), {200: shape_of(reply)})
    problems = problems_of(DOCUMENTED, seen)
    assert len(problems) == found, problems
