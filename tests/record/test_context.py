"""Records: headers, and bodies that are parsed once."""

from __future__ import annotations

import pytest

from stream.errors import UserError
from stream.record.context import RecordContext, datetime_text
from stream.record.errors import InvalidForm, InvalidJson, UnsupportedMediaType
from stream.record.headers import BodyKind, RecordHeaders


def _record(body: bytes, content_type: str | None = "application/json") -> RecordContext:
    raw = () if content_type is None else ((b"content-type", content_type.encode()),)
    return RecordContext(1714557600123, "203.0.113.7", RecordHeaders(raw), body)


def test_headers_are_canonical_and_sorted() -> None:
    """Names have one spelling, the first of repeated headers counts, and cookies are joined."""
    headers = RecordHeaders(
        (
            (b"x-b", b"1"),
            (b"X-B", b"2"),
            (b"cookie", b"a=b;c=d"),
            (b"Cookie", b"e=f"),
            (b"accept", b"*/*"),
            (b"connection", b"keep-alive"),
            (b"user-agent", b""),
            (b"x-empty", b""),
            (b"x-a-B-c", b"<\xff>"),
        )
    )
    assert list(headers.map.items()) == [
        ("Accept", "*/*"),
        ("Cookie", "a=b; c=d; e=f"),
        ("X-A-B-C", "<�>"),
        ("X-B", "1"),
        ("X-Empty", ""),
    ]
    assert headers.text.splitlines()[0] == "Accept: */*"
    assert headers.json.startswith('{"Accept":"*/*",') and '"\\u003c�\\u003e"' in headers.json
    assert headers.csv_cell == headers.json.encode().replace(b'"', b'""')


@pytest.mark.parametrize(
    ("content_type", "kind"),
    [
        ("application/json", BodyKind.JSON),
        ("Application/JSON; charset=utf-8", BodyKind.JSON),
        ("application/vnd.api+json", BodyKind.JSON),
        ("application/vnd.my_api.v1+json; charset=utf-8", BodyKind.JSON),
        ("model/gltf+json", BodyKind.JSON),
        ("application/+json", BodyKind.OTHER),
        ("application/json-seq", BodyKind.OTHER),
        ("text/json", BodyKind.JSON),
        ("application/x-json", BodyKind.JSON),
        ("application/csp-report", BodyKind.JSON),
        ("application/reports+json", BodyKind.JSON),
        ("application/x-amz-json-1.1", BodyKind.JSON),
        ("application/cloudevents-batch+json; charset=utf-8", BodyKind.JSON),
        ("text/plain", BodyKind.OTHER),
        ("application/jsonp", BodyKind.OTHER),
        ("application/x-www-form-urlencoded; charset=UTF-8", BodyKind.FORM),
        ("", BodyKind.OTHER),
    ],
)
def test_content_types(content_type: str, kind: BodyKind) -> None:
    """Parameters, suffixes and case of the content type are handled."""
    assert _record(b"", content_type).headers.kind is kind


def test_a_body_is_parsed_once() -> None:
    """A second call returns the same value or raises the same error."""
    record = _record(b'{"a":[1]}')
    assert record.json is record.json and record.body_map is record.json
    broken = _record(b"{")
    errors = []
    for _ in range(2):
        with pytest.raises(InvalidJson) as caught:
            _ = broken.json
        errors.append(caught.value)
    assert errors[0] is errors[1]


def test_bodies_that_are_not_objects() -> None:
    """The error names the object that templates need and the actual type."""
    assert _record(b"null").body_map is None
    for body, content_type, status, text in [
        (b"[1]", "application/json", 400, "invalid JSON: the body must be an object"),
        (b"{", "application/json", 400, "cannot parse request body"),
        (b"a", "text/plain", 415, 'unsupported content type "text/plain"'),
        (b"a", None, 415, 'unsupported content type ""'),
        (b"a[b=1", "application/x-www-form-urlencoded", 400, "invalid form data: Unable to"),
        (b"null", "application/json", 400, "cannot parse request body"),
    ]:
        with pytest.raises(UserError, match=text) as caught:
            _record(body, content_type).template_body()
        assert caught.value.status == status
    with pytest.raises(UnsupportedMediaType):
        _ = _record(b"", None).body_map
    with pytest.raises(InvalidForm):
        _ = _record(b"a[b=1", "application/x-www-form-urlencoded").body_map


def test_datetime_has_milliseconds() -> None:
    """Times have exactly three digits, also for a clock that goes backwards."""
    assert datetime_text(1714557600123) == b"2024-05-01T10:00:00.123Z"
    assert datetime_text(1714557600005) == b"2024-05-01T10:00:00.005Z"
    assert datetime_text(1714557599999) == b"2024-05-01T09:59:59.999Z"
