"""Invalid paths are refused, and all others find the value that they name."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.errors import UserError
from stream.mapping.path_check import check_path
from stream.record.lookup import Paths


@pytest.mark.parametrize(
    ("path", "problem", "hint"),
    [
        ("", "it is empty", '"body"'),
        ("$", "JSONPath", "user.tags[0].name"),
        ("$.user.id", "JSONPath", '"user.id"'),
        ("$[0].id", "JSONPath", "user.tags[0].name"),
        ("$..id", "JSONPath", '"id"'),
        ("@.id", "JSONPath", '"id"'),
        ("a.*", "wildcard", "template"),
        ("*", "wildcard", "template"),
        ("a[*].b", "wildcard", "template"),
        ("a[-1]", "counted from the beginning", "user.tags[0].name"),
        ("a['b']", "only a number", '"a.b"'),
        ('["a"]', "only a number", '"a"'),
        ("['a.b']", "with a dot", "template"),
        ("a[1:2]", "only a number", "user.tags[0].name"),
        ("a[?(@.b==1)]", "only a number", "user.tags[0].name"),
        ("a[]", "only a number", "user.tags[0].name"),
        ("a[²]", "only a number", "user.tags[0].name"),
        ("a[9999999999999999999]", "too large", "user.tags[0].name"),
        ("a[", "not closed", "user.tags[0].name"),
        ("a[0", "not closed", "user.tags[0].name"),
        ("a]", 'a "]" without a "["', "user.tags[0].name"),
        ("a[0]b", "a dot is missing", "user.tags[0].name"),
        ("a[0]]", "without a", "user.tags[0].name"),
        ("a..b", "no key after the dot", "user.tags[0].name"),
        ("a.[0]", "no key after the dot", "user.tags[0].name"),
        (".a.b", "starts with a dot", '"a.b"'),
        ("a.", "ends with a dot", '"a"'),
        (".", "starts with a dot", "user.tags[0].name"),
        ("/a/0/b", "JSON pointer", '"a[0].b"'),
        ("#/a/b", "JSON pointer", '"a.b"'),
    ],
)
def test_invalid_paths(path: str, problem: str, hint: str) -> None:
    """The message names the fault, and the detail a valid form."""
    with pytest.raises(UserError) as caught:
        check_path(path)
    assert problem in caught.value.message
    assert hint in caught.value.detail


@pytest.mark.parametrize(
    "path",
    ["a", "user.tags[0].name", "[0]", "[0][1].a", "items.0.id", "$id", "a.$ref", "a b.c-d/e"],
)
def test_valid_paths(path: str) -> None:
    """Keys may contain any characters except the separators."""
    check_path(path)


STEPS = st.one_of(
    st.text(st.characters(exclude_characters=".[]", exclude_categories=["Cs"]), min_size=1),
    st.integers(0, 3),
)


@given(st.lists(STEPS, min_size=1, max_size=6))
def test_a_valid_path_finds_its_value(steps: list[str | int]) -> None:
    """A path made of keys and indexes is either refused or leads to the value."""
    path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
    path = path.removeprefix(".")
    try:
        check_path(path)
    except UserError:
        odd = {"*", "$", "@", "#"}
        assert odd & set(map(str, steps)) or path[0] == "/" or path.startswith("#/")
        return
    document: object = "found"
    for step in reversed(steps):
        filling = [None] * step if isinstance(step, int) else []
        document = [*filling, document] if isinstance(step, int) else {step: document}
    source = json.dumps(document).encode()
    assert Paths([path]).in_document(source).text(0, raw_string=True) == b"found"


@given(st.text(alphabet="ab.[]0*$@#/'\"-: ", max_size=1024))
def test_any_text_as_a_path(path: str) -> None:
    """Every text is accepted or refused, however deep the path is."""
    try:
        check_path(path)
    except UserError as error:
        assert error.detail
        assert len(error.message) < 400
