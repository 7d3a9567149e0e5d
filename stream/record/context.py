"""One record on its way to the sinks.

Parsed forms of the body are created on first use and shared by all columns of all sinks. So are
parse errors.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from stream.errors import NestedError, UserError, without_frames
from stream.record.errors import InvalidJson, UnsupportedMediaType
from stream.record.form import form_steps, parse_form
from stream.record.headers import BodyKind, RecordHeaders
from stream.record.jsontree import is_canonical, parse_json
from stream.record.lookup import Paths, Values

__all__ = ["UNPARSED", "RecordContext", "datetime_text"]

UNPARSED: Any = object()
"""Marks a form that hasn't been parsed yet."""


class RecordContext:
    """One record with its parsed forms, each created once.

    :ivar timestamp_ms: receive time, milliseconds since the epoch.
    :ivar client_ip: IP address of the sender.
    :ivar headers: headers of the request.
    :ivar body: the body as received.
    :ivar signal: ``logs``, ``metrics`` or ``traces`` for an OTLP record; otherwise empty.
    :ivar document: the result of `json`, or its parse error; `UNPARSED` before the first call.

    :param body_map: the parsed body, if known (OTLP records).
    :param json: the JSON document in the body, if known (batches).
    :param canonical: the result of `is_canonical`, if known.
    """

    __slots__ = (
        "_canonical",
        "_map",
        "_values",
        "body",
        "client_ip",
        "document",
        "headers",
        "signal",
        "timestamp_ms",
    )

    def __init__(
        self,
        timestamp_ms: int,
        client_ip: str,
        headers: RecordHeaders,
        body: bytes,
        signal: str = "",
        body_map: Any = UNPARSED,
        json: Any = UNPARSED,
        canonical: bool | None = None,
    ) -> None:
        self.timestamp_ms = timestamp_ms
        self.client_ip = client_ip
        self.headers = headers
        self.body = body
        self.signal = signal
        self.document = json
        self._map = body_map
        self._canonical = canonical
        self._values: Values | None = None

    @property
    def is_json_tree(self) -> bool:
        """Whether paths refer to the JSON text rather than to `body_map`."""
        return self.headers.kind is BodyKind.JSON

    @property
    def is_canonical(self) -> bool:
        """Return whether the body is in canonical form: compact, without duplicate keys.

        Every value in it is spelled as it is printed, so the body needn't be searched. Raises
        InvalidJson.
        """
        canonical = self._canonical
        if canonical is None:
            document = self.document
            if type(document) is not dict:
                document = self.json
            canonical = self._canonical = is_canonical(self.body, document)
        return canonical

    @property
    def json(self) -> Any:
        """Return the body as a JSON document. Raises InvalidJson."""
        value = self.document
        if value is UNPARSED:
            try:
                value = parse_json(self.body)
            except InvalidJson as error:
                value = error
            self.document = value
        if type(value) is InvalidJson:
            raise value.with_traceback(None)
        return value

    def values(self, paths: Paths) -> Values:
        """Return the values at *paths*, which are looked up together, once for all columns.

        Raises UserError: as `json` or `body_map`.
        """
        values = self._values
        if values is None or values.paths is not paths:
            values = self._values = self._look_up(paths)
        return values

    def _look_up(self, paths: Paths) -> Values:
        if not self.is_json_tree:
            return paths.in_map(self.body_map, self.body if self.signal else b"")
        is_invalid = type(self.document) is InvalidJson
        values = None if is_invalid else paths.in_json(self.body)
        if values is None:
            _ = self.json  # checks it
            values = paths.in_document(self.body)
        return values

    @property
    def body_map(self) -> Any:
        """Return the body as nested dicts and lists; an object, or ``None`` for JSON's ``null``.

        Raises UserError: the body is invalid, not an object, or of another content type.
        """
        value = self._map
        if value is UNPARSED:
            try:
                value = self._parse_map()
            except UserError as error:
                value = error
            self._map = value
        if isinstance(value, UserError):
            raise value.with_traceback(None)
        return value

    def reading_steps(self) -> Iterator[None]:
        """Parse a large body in small steps; it isn't parsed again later."""
        if self._map is UNPARSED and self.headers.kind is BodyKind.FORM:
            try:
                self._map = yield from form_steps(self.body, self.headers.charset)
            except UserError as error:
                self._map = without_frames(error)
        yield

    def _parse_map(self) -> Any:
        kind = self.headers.kind
        if kind is BodyKind.FORM:
            return parse_form(self.body, self.headers.charset)
        if kind is not BodyKind.JSON:
            raise UnsupportedMediaType(self.headers.content_type)
        try:
            value = self.json
        except InvalidJson as error:
            raise UserError(
                f"invalid JSON: {error.reason}", status=error.status, name=error.name
            ) from None
        if value is not None and not isinstance(value, dict):
            raise UserError("invalid JSON: the body must be an object")
        return value

    def template_body(self) -> dict[str, Any]:
        """Return `body_map` for templates, with context added to its errors."""
        try:
            value = self.body_map
        except UserError as error:
            raise NestedError(
                "cannot parse request body", [error], status=error.status, name=error.name
            ) from None
        if value is None:
            raise NestedError("cannot parse request body", ["the body is null"])
        assert isinstance(value, dict)
        return value


_second: tuple[int, bytes] = (-1, b"")
_millisecond: tuple[int, bytes] = (-1, b"")
"""The last time and its text, because many records arrive within one millisecond."""


def datetime_text(timestamp_ms: int) -> bytes:
    """Return ``2006-01-02T15:04:05.000Z`` in UTC."""
    global _second, _millisecond
    if timestamp_ms == _millisecond[0]:
        return _millisecond[1]
    second, milliseconds = divmod(timestamp_ms, 1000)
    last, text = _second
    if second != last:
        text = f"{datetime.fromtimestamp(second, UTC):%Y-%m-%dT%H:%M:%S}".encode()
        _second = (second, text)
    text = b"%b.%03dZ" % (text, milliseconds)
    _millisecond = (timestamp_ms, text)
    return text
