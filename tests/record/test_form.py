"""Forms with nested keys."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, unquote_plus, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.record import form as form_module
from stream.record.errors import InvalidForm, UnsupportedCharset
from stream.record.form import MAX_ARRAY_ITEMS, MAX_FIELDS, MAX_KEY_DEPTH, parse_form


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("", {}),
        ("a=1&&b=2&", {"a": "1", "b": "2"}),
        ("a&b=", {"a": "", "b": ""}),
        ("a=1&b=2&a=3", {"a": "3", "b": "2"}),
        ("a+b=c%20d%3D=", {"a b": "c d=="}),
        ("a[b]=1&a[c][d]=2", {"a": {"b": "1", "c": {"d": "2"}}}),
        ("a[0]=x&a[2]=y", {"a": ["x", None, "y"]}),
        ("a[]=x&a[]=y&b[c][]=z", {"a": ["x", "y"], "b": {"c": ["z"]}}),
        ("a[0][b]=1&a[0][c]=2", {"a": [{"b": "1", "c": "2"}]}),
        ("a.b=1", {"a.b": "1"}),
        ("%61%5Bb%5D=1", {"a": {"b": "1"}}),
        ("n=J%C3%A1n", {"n": "Ján"}),
        ("a=1;2&b=3", {"a": "1;2", "b": "3"}),
        ("b=3&a;=;", {"b": "3", "a;": ";"}),
        (";", {";": ""}),
        ("=x&a=1", {"": "x", "a": "1"}),
        ("=", {"": ""}),
        ("[a]=x&[]=y&[=z", {"[a]": "x", "[]": "y", "[": "z"}),
        (
            "a=20%-off&b=%&c=%4&d=%zz&%=e",
            {"a": "20%-off", "b": "%", "c": "%4", "d": "%zz", "%": "e"},
        ),
        ("a=%u00e9&b=%%41", {"a": "%u00e9", "b": "%A"}),
    ],
)
def test_keys_with_brackets(form: str, expected: dict[str, Any]) -> None:
    """Keys with brackets make objects and arrays, and values are strings."""
    parsed = parse_form(form.encode())
    assert parsed == expected
    assert list(parsed) == list(expected)


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        ("a[b]c=1", 'Unable to parse key "a[b]c"'),
        ("a[][b]=1", 'Unable to parse key "a[][b]"'),
        ("a[b=1", 'Unable to parse key "a[b"'),
        ("a=1&a[]=2", "invalid square brackets in query"),
        ("a=1&a[b]=2", 'path "a": expected object found "string"'),
        ("a[b]=1&a[0]=2", 'path "a": expected array found "object"'),
        ("a[-1]=x", 'path "a[-1]": array key can\'t be negative'),
        (f"a[{MAX_ARRAY_ITEMS}]=x", "array index"),
        ("a[1000000000]=x", "array index"),
        ("&".join(f"a{i}[9999]=x" for i in range(11)), "more than 100000 array items"),
        ("a" + "[b]" * 101 + "=1", "a key has more than 100 brackets"),
    ],
)
def test_invalid_forms(form: str, reason: str) -> None:
    """The error names the fault."""
    with pytest.raises(InvalidForm) as caught:
        parse_form(form.encode())
    assert str(caught.value).startswith(f"invalid form data: {reason}")


@pytest.mark.parametrize(
    ("form", "declared", "expected"),
    [
        (b"a=Z%FCrich", "windows-1252", "Zürich"),
        (b"a=Z\xfcrich", "iso-8859-1", "Zürich"),
        (b"a=%80%81", "latin1", "€\x81"),
        (b"a=%EA%CC", "KOI8-R", "Йл"),
        (b"a=%8C%8E+%E5", "Shift_JIS", "月 �"),
        (b"a=%C3%BC", "utf8", "ü"),
        (b"a=%C3%BC", "", "ü"),
        (b"a=%FC", "", "�"),
        (b"charset=windows-1252&a=Z%FCrich", "", "Zürich"),
        (b"a=Z%FCrich&_charset_=ISO-8859-1", "", "Zürich"),
        (b"charset=gb2312&a=%B1%B1", "", "北"),
        (b"_charset_=koi8-r&charset=latin1&a=%EA", "", "Й"),
        (b"_charset_=koi8-r&a=%FC", "latin1", "ü"),
        (b"charset=latin1&a=%C3%BC", "", "ü"),
        (b"charset=of+my+guitar&a=%C3%BC", "", "ü"),
    ],
)
def test_charsets(form: bytes, declared: str, expected: str) -> None:
    """Text has the charset of the content type, of a field, or UTF-8; ordinary fields have no
    effect.
    """
    assert parse_form(form, declared)["a"] == expected


@pytest.mark.parametrize(
    ("form", "declared"),
    [
        (b"a=1", "klingon"),
        (b"a=1", "utf-16"),
        (b"_charset_=klingon&a=1", ""),
        (b"charset=klingon&a=%FC", ""),
        (b"a=1", "x" * 1000),
    ],
)
def test_an_unknown_charset_is_refused(form: bytes, declared: str) -> None:
    """The error names the charset."""
    with pytest.raises(UnsupportedCharset, match=declared or "klingon") as caught:
        parse_form(form, declared)
    assert caught.value.status == 415


@given(st.sampled_from(["windows-1252", "windows-1251", "koi8-r", "iso-8859-15"]), st.binary())
def test_every_byte_of_a_single_byte_charset(label: str, value: bytes) -> None:
    """Each byte is one character, escaped or not."""
    escaped = b"".join(b"%%%02x" % byte for byte in value)
    assert len(parse_form(b"a=" + escaped, label)["a"]) == len(value)


@given(st.lists(st.tuples(st.text(), st.text()), max_size=5))
def test_forms_of_browsers(fields: list[tuple[str, str]]) -> None:
    """Any names without brackets and any values are parsed to the same text."""
    fields = [
        (
            name.replace("[", "(").encode("utf-8", "ignore").decode(),
            value.encode("utf-8", "ignore").decode(),
        )
        for name, value in fields
        if name not in ("charset", "_charset_")
    ]
    assert parse_form(urlencode(fields).encode()) == dict(fields)


@given(st.lists(st.binary(max_size=8).filter(lambda part: not {*b"&[%"} & {*part}), max_size=5))
def test_other_parsers_agree(parts: list[bytes]) -> None:
    """Python's own parser of queries returns the same for the common part of the standard."""
    body = b"&".join(part.replace(b"charset", b"") for part in parts)
    theirs = parse_qsl(body.decode("latin-1"), keep_blank_values=True, encoding="latin-1")
    assert parse_form(body) == {
        name.encode("latin-1").decode("utf-8", "replace"): value.encode("latin-1").decode(
            "utf-8", "replace"
        )
        for name, value in theirs
    }


def test_fields_are_counted_before_they_are_parsed() -> None:
    """The limit itself is allowed, and empty fields count."""
    assert len(parse_form(b"&".join(b"k%d=" % i for i in range(MAX_FIELDS)))) == MAX_FIELDS
    for form in (b"&" * MAX_FIELDS, b"&".join([b"a=1"] * (MAX_FIELDS + 1))):
        with pytest.raises(InvalidForm, match=f"more than {MAX_FIELDS} fields") as caught:
            parse_form(form)
        assert caught.value.status == 413
    with pytest.raises(InvalidForm, match="brackets") as caught:
        parse_form(b"&".join([b"a" + b"[b]" * MAX_KEY_DEPTH] * 1001))
    assert caught.value.status == 413


def test_the_largest_index() -> None:
    """The limit is exact."""
    assert len(parse_form(b"a[%d]=x" % (MAX_ARRAY_ITEMS - 1))["a"]) == MAX_ARRAY_ITEMS


@given(st.lists(st.text(st.sampled_from("ab[]0-1=&;%+."), max_size=12)) | st.lists(st.binary()))
def test_any_input_is_parsed_or_refused(parts: list[str] | list[bytes]) -> None:
    """No input breaks the parser."""
    body = b"&".join(part.encode() if isinstance(part, str) else part for part in parts)
    try:
        parse_form(body)
    except (InvalidForm, UnsupportedCharset):
        return


@given(
    st.lists(st.sampled_from(["%", "%4", "%41", "%c3%a9", "%zz", "+", "a", "é"]), max_size=40),
    st.integers(4, 12),
)
def test_long_fields_are_unescaped_in_pieces(parts: list[str], size: int) -> None:
    """No piece ends within an escape, so the text is that of a field in one piece."""
    body = b"name=" + "".join(parts).encode()
    whole = parse_form(body)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(form_module, "BYTES_AT_ONCE", size)
        assert parse_form(body) == whole
    assert whole["name"] == unquote_plus("".join(parts), errors="replace")
