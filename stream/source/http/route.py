"""The route of a request's target."""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import unquote_plus, unquote_to_bytes

import attrs

from stream.record.elements import batch_option

__all__ = ["Health", "Ingest", "NotFound", "Otlp", "Route", "Server", "find_route"]

_PLAIN_INGEST = re.compile(
    rb"/stream/([^/?%#]+)/([0-9A-Za-z_\-]+)/([0-9A-Za-z]+)(?:\?(verbose=true)?)?"
)
_ABSOLUTE = re.compile(rb"[Hh][Tt][Tt][Pp][Ss]?://[^/?#]*")
_PROJECT_ID = re.compile(r"[+-]?[0-9]{1,19}")
_SIGNALS = ("logs", "metrics", "traces")
_SEPARATORS = re.compile(rb"//+")


def _option_pattern(name: str) -> re.Pattern[bytes]:
    """Return a pattern for the query parameter *name*, whose letters may be escaped."""
    letters = "".join(f"(?:{letter}|%(?i:{ord(letter):02x}))" for letter in name)
    return re.compile(rf"(?:\A|&){letters}(?:=([^&]*))?(?=&|\Z)".encode())


_VERBOSE, _BATCH = _option_pattern("verbose"), _option_pattern("batch")


@attrs.frozen
class Health:
    """The route of the health check."""


@attrs.frozen
class Server:
    """The listener itself, with the target ``*``, which only ``OPTIONS`` has."""


@attrs.frozen
class NotFound:
    """The result for a path that has no route."""


@attrs.frozen
class Ingest:
    """The URL of a source.

    :ivar project: project as given; see `project_id`.
    :ivar verbose: whether the client requests a result document.
    :ivar batch: whether the client declares the body as a batch; ``None`` if it doesn't say, and
        the unparsed text if it is invalid.
    """

    project: str
    source_id: str
    secret: str = attrs.field(repr=False)
    verbose: bool = False
    batch: bool | str | None = None
    project_id: int | None = attrs.field(init=False)

    @project_id.default
    def _default_project_id(self) -> int | None:
        return _read_project_id(self.project)


@attrs.frozen
class Otlp:
    """The URL of an OTLP source.

    :ivar project: project as given; see `project_id`.
    :ivar signal: ``logs``, ``metrics`` or ``traces``.
    :ivar secret: the secret in the path; empty if there is none.
    """

    project: str
    source_id: str
    signal: str
    secret: str = attrs.field(default="", repr=False)
    project_id: int | None = attrs.field(init=False)

    @project_id.default
    def _default_project_id(self) -> int | None:
        return _read_project_id(self.project)


def _read_project_id(text: str) -> int | None:
    if _PROJECT_ID.fullmatch(text) is None:
        return None
    number = int(text)
    return number if -(2**63) <= number < 2**63 else None


Route = Health | Ingest | Otlp | Server | NotFound


MAX_REMEMBERED_BYTES = 256
MAX_REMEMBERED_ROUTES = 4096


def find_route(target: bytes) -> Route:
    """Return the route of a request target, with or without escapes, dots and doubled slashes."""
    return _remembered(target) if len(target) <= MAX_REMEMBERED_BYTES else _find(target)


def _find(target: bytes) -> Route:
    match = _PLAIN_INGEST.fullmatch(target)
    if match is not None and match[1] not in (b".", b".."):
        return Ingest(_text(match[1]), _text(match[2]), _text(match[3]), match[4] is not None)
    if target == b"*":
        return Server()
    absolute = _ABSOLUTE.match(target)
    if absolute is not None:
        target = target[absolute.end() :] or b"/"
    path, _, query = target.partition(b"#")[0].partition(b"?")
    parts = _normalise(unquote_to_bytes(path)).split(b"/")
    if parts == [b"", b"health-check"]:
        return Health()
    if parts[:2] == [b"", b"otlp"]:
        return _find_otlp([_text(part) for part in parts[2:]])
    if len(parts) == 5 and parts[:2] == [b"", b"stream"] and parts[2] and parts[3]:
        project, source_id, secret = (_text(part) for part in parts[2:])
        return Ingest(
            project,
            source_id,
            secret,
            _option(query, _VERBOSE) == "true",
            batch_option(_option(query, _BATCH)),
        )
    return NotFound()


def _find_otlp(parts: list[str]) -> Route:
    """Return the route below ``/otlp/``: project, source, optional secret, ``v1`` and signal."""
    if len(parts) not in (4, 5) or parts[-2] != "v1" or parts[-1] not in _SIGNALS:
        return NotFound()
    if not all(parts[:-2]):
        return NotFound()
    return Otlp(parts[0], parts[1], parts[-1], parts[2] if len(parts) == 5 else "")


_remembered = lru_cache(maxsize=MAX_REMEMBERED_ROUTES)(_find)


def _text(part: bytes) -> str:
    return part.decode("utf-8", "replace")


def _normalise(path: bytes) -> bytes:
    """Return *path* without empty, ``.`` and ``..`` segments; a final slash is kept."""
    path = _SEPARATORS.sub(b"/", path)
    if b"/." not in path:
        return path
    segments: list[bytes] = []
    parts = path.split(b"/")[1:]
    for part in parts:
        if part == b"..":
            if segments:
                segments.pop()
        elif part != b".":
            segments.append(part)
    if parts[-1] in (b".", b".."):
        segments.append(b"")
    return b"/" + b"/".join(segments)


def _option(query: bytes, pattern: re.Pattern[bytes]) -> str | None:
    """Return the value of an option in the query; if it is repeated, the first value.

    Everything else in the query is skipped without decoding, because decoding a thousand unknown
    parameters takes milliseconds.
    """
    match = pattern.search(query)
    if match is None:
        return None
    return unquote_plus((match[1] or b"").decode("latin-1"), "utf-8", "replace")
