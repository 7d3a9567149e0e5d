"""A strict parser of request heads, which consist of a request line and headers.

Requests that two servers could interpret differently allow request smuggling past a proxy.
Therefore everything ambiguous is refused and not repaired: bare line feeds, folded headers, spaces
before a colon, control characters, repeated or conflicting lengths, unknown transfer codings.
"""

from __future__ import annotations

import re
from typing import final

from stream.record.headers import BodyKind, RecordHeaders
from stream.source.http.errors import MalformedRequest, UnknownExpectation
from stream.source.http.route import Ingest, Route, find_route

__all__ = ["FIELD", "Head", "HeadReader", "find_origin", "read_head"]

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_FIELD = rb"(" + _TOKEN + rb"++):[ \t]*+([\t\x20-\x7e\x80-\xff]*+)\r\n"
FIELD = re.compile(_FIELD)
_TARGET = rb"/[\x21-\x7e]*+|\*|[A-Za-z][A-Za-z0-9+.-]*+://[\x21-\x7e]++"
_REQUEST_LINE = re.compile(
    rb"([A-Za-z]" + _TOKEN + rb"{0,31}+) (" + _TARGET + rb") HTTP/1\.([01])\r\n"
)
_FIELDS_AND_END = re.compile(rb"(?:" + _FIELD.replace(b"(", b"(?:") + rb")*+\r\n")
_LENGTH = re.compile(rb"[0-9]{1,18}")
_ATTEMPT = re.compile(rb"[0-9]{1,9}")
_ORIGIN = rb"[\x21-\x7e]{1,512}"
_ORIGIN_ONLY = re.compile(_ORIGIN)
_ORIGIN_FIELD = re.compile(rb"\r\norigin:[ \t]*(" + _ORIGIN + rb")[ \t]*\r\n", re.IGNORECASE)

_READ_HERE = frozenset(
    (
        b"connection",
        b"content-encoding",
        b"content-length",
        b"expect",
        b"host",
        b"idempotency-attempt",
        b"idempotency-key",
        b"origin",
        b"transfer-encoding",
    )
)


@final
class Head:
    """A request without its body.

    :ivar method: method, for example ``b"POST"``.
    :ivar target: target as received, for example ``b"/stream/1/source/secret?verbose=true"``.
    :ivar version: minor version of HTTP, 0 or 1.
    :ivar headers: headers of the request.
    :ivar length: size of the body in bytes; 0 if `chunked`.
    :ivar keep_alive: whether the client may send another request on the connection.
    :ivar expects_continue: whether the client waits for ``100 Continue`` before it sends the body.
    :ivar encoding: lower-case content encoding of the body; empty if there is none.
    :ivar idempotency_key: the idempotency key; ``None`` if there is none.
    :ivar attempt: number of the attempt that the client declares; 0 if it declares none.
    :ivar origin: origin of the web page that sends the request; ``None`` if there is none.
    :ivar route: route of the target.
    :ivar record_route: the route if the request is one uncompressed record, regardless of the
        source's settings and of earlier requests; otherwise ``None``.
    :ivar lines_route: the route if the request is an uncompressed batch of lines; otherwise
        ``None``.
    :ivar plain: whether the answer needs no adaptation to the client (version, method, closing,
        origin).
    """

    __slots__ = (
        "attempt",
        "chunked",
        "encoding",
        "expects_continue",
        "headers",
        "idempotency_key",
        "keep_alive",
        "length",
        "lines_route",
        "method",
        "origin",
        "plain",
        "record_route",
        "route",
        "target",
        "version",
    )

    def __init__(self, method: bytes, target: bytes, version: int, headers: RecordHeaders) -> None:
        self.method = method
        self.target = target
        self.version = version
        self.headers = headers
        self.length = 0
        self.chunked = False
        self.keep_alive = version == 1
        self.expects_continue = False
        self.encoding = b""
        self.idempotency_key: bytes | None = None
        self.attempt = 0
        self.origin: bytes | None = None
        self.route: Route = find_route(target)
        self._read_headers()
        self.plain = version == 1 and self.keep_alive and method != b"HEAD" and self.origin is None
        is_direct = method == b"POST" and not self.encoding and self.idempotency_key is None
        is_record = (
            is_direct
            and not headers.is_batch
            and not headers.is_text
            and (not headers.charset or headers.kind is not BodyKind.JSON)
        )
        route = self.route
        self.record_route = (
            route if is_record and isinstance(route, Ingest) and route.batch is None else None
        )
        is_lines = is_direct and headers.kind is BodyKind.JSON_LINES and not headers.charset
        self.lines_route = (
            route
            if is_lines and isinstance(route, Ingest) and route.batch in (None, True)
            else None
        )

    def _read_headers(self) -> None:
        found: dict[bytes, list[bytes]] = {}
        for name, value in self.headers.raw:
            lower = name.lower()
            if lower in _READ_HERE:
                found.setdefault(lower, []).append(value)
        hosts = len(found.get(b"host", ()))
        if hosts > 1 or (hosts == 0 and self.version == 1):
            raise MalformedRequest("exactly one Host header is required")
        self._read_body_framing(
            found.get(b"content-length", []), found.get(b"transfer-encoding", [])
        )
        if b"connection" in found:
            self._read_connection(b",".join(found[b"connection"]))
        if b"expect" in found:
            if any(value.lower() != b"100-continue" for value in found[b"expect"]):
                raise UnknownExpectation
            self.expects_continue = self.version == 1
        if b"content-encoding" in found:
            self.encoding = b",".join(found[b"content-encoding"]).strip().lower()
            if self.encoding == b"identity":
                self.encoding = b""
        if b"idempotency-key" in found:
            self.idempotency_key = b",".join(found[b"idempotency-key"])
            attempts = found.get(b"idempotency-attempt", ())
            if len(attempts) == 1 and _ATTEMPT.fullmatch(attempts[0]) is not None:
                self.attempt = int(attempts[0])
        origins = found.get(b"origin", ())
        if len(origins) == 1 and _ORIGIN_ONLY.fullmatch(origins[0]) is not None:
            self.origin = origins[0]

    def _read_body_framing(self, lengths: list[bytes], codings: list[bytes]) -> None:
        if codings:
            if lengths:
                raise MalformedRequest("both Content-Length and Transfer-Encoding are present")
            if self.version == 0:
                raise MalformedRequest("HTTP/1.0 does not support Transfer-Encoding")
            if len(codings) > 1 or codings[0].lower() != b"chunked":
                raise MalformedRequest('the only supported Transfer-Encoding is "chunked"')
            self.chunked = True
        elif lengths:
            if len(lengths) > 1:
                raise MalformedRequest("Content-Length is present more than once")
            if _LENGTH.fullmatch(lengths[0]) is None:
                raise MalformedRequest("invalid Content-Length")
            self.length = int(lengths[0])

    def _read_connection(self, value: bytes) -> None:
        options = {option.strip().lower() for option in value.split(b",")}
        if b"close" in options:
            self.keep_alive = False
        elif b"keep-alive" in options:
            self.keep_alive = True


def read_head(data: bytes) -> Head:
    """Parse *data*, which ends with the first empty line.

    Raises MalformedRequest, UnknownExpectation.
    """
    line = _REQUEST_LINE.match(data)
    if line is None:
        raise MalformedRequest("invalid request line")
    if _FIELDS_AND_END.fullmatch(data, line.end()) is None:
        raise MalformedRequest("invalid header")
    raw = tuple([(name, value.rstrip(b" \t")) for name, value in FIELD.findall(data, line.end())])
    return Head(line[1], line[2], 1 if line[3] == b"1" else 0, RecordHeaders(raw))


def find_origin(data: bytes) -> bytes | None:
    """Return the origin in a malformed head, so that the web page can read the refusal."""
    found = _ORIGIN_FIELD.search(data)
    return None if found is None else found[1]


class HeadReader:
    """`read_head` with a cache of recent heads, because most clients send the same bytes again.

    A head is often read twice, by the fast path and then by the general path, so large heads are
    cached, too. Clients whose heads all differ (for example, in a trace ID) only waste the space of
    the cache, which is bounded. The number of fields is bounded as well, because all of them are
    freed at once, and the garbage collector examines them.
    """

    MAX_HEADS = 1024
    MAX_BYTES = 1024 * 1024
    MAX_FIELDS = 8192

    __slots__ = ("_bytes", "_fields", "_known")

    def __init__(self) -> None:
        self._known: dict[bytes, Head] = {}
        self._bytes = self._fields = 0

    def read(self, data: bytes) -> Head:
        """Return the head in *data*; see `read_head`. Many requests may get the same value."""
        head = self._known.get(data)
        if head is None:
            head = read_head(data)
            if head.idempotency_key is None:
                fields = len(head.headers.raw)
                self._bytes += len(data)
                self._fields += fields
                if (
                    len(self._known) >= self.MAX_HEADS
                    or self._bytes > self.MAX_BYTES
                    or self._fields > self.MAX_FIELDS
                ):
                    self._known.clear()
                    self._bytes, self._fields = len(data), fields
                self._known[data] = head
        return head
