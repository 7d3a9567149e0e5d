"""Headers of a record in the forms for columns and templates, each created on first use.

Records whose request heads are identical share one value, so derived forms are computed once per
client rather than once per record.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

import orjson

from stream.record.charset import charset_parameter
from stream.record.quoting import Quoted, quoted

__all__ = ["BodyKind", "RecordHeaders", "canonical_name", "html_safe"]

_TOKEN = r"[a-z0-9!#$%&'*+.^_`|~-]+"
_JSON_TYPE = re.compile(
    rf"(?:application|text)/(?:x-)?json|application/(?:csp-report|x-amz-json-1\.[01])"
    rf"|{_TOKEN}/{_TOKEN}\+json"
)
_BATCH_TYPE = "application/cloudevents-batch+json"
_LINES_TYPE = re.compile(r"application/(?:x-)?(?:ndjson|jsonl|jsonlines|json-lines)")
_FORM_TYPE = "application/x-www-form-urlencoded"
_AUTHORIZATION = b"authorization"
_CONTENT_TYPE_LENGTH = len("content-type")
_FIELD_MEMORY = 144
"""Bytes of memory for a name and a value: two objects of 33 bytes, a tuple, and references."""
_OMITTED_WHEN_EMPTY = frozenset({"Host", "Content-Type", "User-Agent"})
_UNSAFE = re.compile("[<>&\u2028\u2029]")


class BodyKind(enum.Enum):
    """How the body is parsed."""

    JSON = "json"
    JSON_LINES = "jsonLines"
    """A batch; each line is a separate JSON document."""
    FORM = "form"
    OTHER = "other"


def canonical_name(name: str) -> str:
    """Return ``x-foo-BAR`` as ``X-Foo-Bar``."""
    return "-".join([part.capitalize() for part in name.split("-")])


_MAX_REMEMBERED_BYTES = 128


@lru_cache(maxsize=1024)
def _remembered_name(name: bytes) -> str:
    return canonical_name(name.decode("utf-8", "replace"))


def _canonical(name: bytes) -> str:
    if len(name) <= _MAX_REMEMBERED_BYTES:
        return _remembered_name(name)
    return canonical_name(name.decode("utf-8", "replace"))


def html_safe(text: str) -> str:
    """Return JSON *text* with ``<``, ``>``, ``&``, U+2028 and U+2029 escaped."""
    if _UNSAFE.search(text) is None:
        return text
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _read_type(given: bytes) -> tuple[str, BodyKind, bool, bool, str]:
    text = given.decode("utf-8", "replace")
    essence = text.partition(";")[0].strip().lower()
    kind = BodyKind.OTHER
    if _JSON_TYPE.fullmatch(essence):
        kind = BodyKind.JSON
    elif essence.startswith(_FORM_TYPE):
        kind = BodyKind.FORM
    elif _LINES_TYPE.fullmatch(essence):
        kind = BodyKind.JSON_LINES
    is_batch = kind is BodyKind.JSON_LINES or essence == _BATCH_TYPE
    return text, kind, is_batch, essence == "text/plain", charset_parameter(text)


_remembered_type = lru_cache(maxsize=256)(_read_type)


class RecordHeaders:
    """The headers of a record in the forms that mappings read.

    :ivar raw: names and values as received, in that order.
    :ivar content_type: the ``Content-Type`` as received; empty if there is none.
    :ivar kind: kind of the body according to its content type, ignoring parameters and case.
    :ivar is_batch: whether the content type declares a batch.
    :ivar is_text: whether the content type declares plain text.
    :ivar charset: the label that the content type declares; empty for UTF-8.

    :param raw: names and values as received.
    """

    __slots__ = (
        "_cell",
        "_map",
        "_of_json",
        "_text",
        "_without_secret",
        "charset",
        "content_type",
        "is_batch",
        "is_text",
        "kind",
        "raw",
    )

    def __init__(self, raw: Sequence[tuple[bytes, bytes]]) -> None:
        self.raw = raw
        self._map: dict[str, str] | None = None
        self._text: str | None = None
        self._cell: Quoted | None = None
        self._of_json: RecordHeaders | None = None
        self._without_secret: RecordHeaders | None = None
        given = b""
        for name, value in raw:
            if len(name) == _CONTENT_TYPE_LENGTH and name.lower() == b"content-type":
                given = value
                break
        self.content_type, self.kind, self.is_batch, self.is_text, self.charset = (
            _remembered_type(given) if len(given) <= _MAX_REMEMBERED_BYTES else _read_type(given)
        )

    @property
    def of_json(self) -> RecordHeaders:
        """Return the same headers, but for a body that is always one JSON document.

        Such a body is an element of a batch, or JSON that was sent as text.
        """
        if self._of_json is None:
            self._of_json = RecordHeaders(self.raw)
            self._of_json.kind = BodyKind.JSON
            self._of_json.is_batch = self._of_json.is_text = False
        return self._of_json

    @property
    def without_authorization(self) -> RecordHeaders:
        """Return the headers without ``Authorization``, which may contain a source's secret."""
        if self._without_secret is None:
            self._without_secret = RecordHeaders(
                tuple((name, value) for name, value in self.raw if name.lower() != _AUTHORIZATION)
            )
        return self._without_secret

    @property
    def memory(self) -> int:
        """Return the approximate memory of the names and values as received, in bytes."""
        size = sum(len(name) + len(value) for name, value in self.raw)
        return size + _FIELD_MEMORY * len(self.raw)

    @property
    def map(self) -> dict[str, str]:
        """Return the first value of each canonical name, sorted by name. It must not be changed."""
        if self._map is None:
            self._map = dict(sorted(_first_values(self.raw)))
        return self._map

    @property
    def text(self) -> str:
        """Return one line ``Name: value`` for each header, sorted bytewise."""
        if self._text is None:
            lines = [f"{name}: {value}\n" for name, value in self.map.items()]
            self._text = "".join(sorted(lines, key=str.encode))
        return self._text

    @property
    def json(self) -> str:
        """Return the map as compact JSON, safe for HTML."""
        return html_safe(orjson.dumps(self.map).decode())

    @property
    def csv_cell(self) -> Quoted:
        """Return the result of `json`, quoted for a CSV cell."""
        if self._cell is None:
            self._cell = quoted(self.json.encode())
        return self._cell


def _first_values(raw: Sequence[tuple[bytes, bytes]]) -> Iterator[tuple[str, str]]:
    seen: set[str] = set()
    cookies: list[str] = []
    for raw_name, raw_value in raw:
        name = _canonical(raw_name)
        value = raw_value.decode("utf-8", "replace")
        if name == "Cookie":
            cookies += [pair.strip() for pair in value.split(";") if pair.strip()]
            continue
        if name in seen:
            continue
        seen.add(name)
        if name == "Connection" and value.lower() != "close":
            continue
        if not value and name in _OMITTED_WHEN_EMPTY:
            continue
        yield name, value
    if cookies:
        yield "Cookie", "; ".join(cookies)
