"""Built web pages: the file for a path, and its caching headers.

`make console` builds the console and the API viewer from `console/`. In a checkout where they
aren't built, the answer is a page that says how to build them.
"""

from __future__ import annotations

import hashlib
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs
from twisted.internet.threads import deferToThreadPool

from stream.api.http.call import Answer, Call
from stream.errors import UserError

__all__ = ["BUILT", "BuiltPages", "security_headers"]

BUILT = Path(__file__).parents[1] / "console" / "static"
"""The directory of the output of `make console`."""

_STATUS = "status"
"""File next to the directory that contains the status of the build, or why it failed."""
_BUILDING = "building"
_ASSETS = "assets/"
"""Files with a hash of their content in the name."""
_HTML = "text/html; charset=utf-8"
_TYPES = {
    ".html": _HTML,
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".txt": "text/plain; charset=utf-8",
}
_ENCODINGS = ((".br", "br"), (".gz", "gzip"))
"""Suffixes of the compressed forms written by the build, the smallest form first."""


def security_headers(*origins: str) -> tuple[tuple[str, str], ...]:
    """Return headers for a page that loads nothing from other origins and can't be framed.

    :param origins: URLs of the service's own listeners that the page may send requests to.
    """
    connect = " ".join(dict.fromkeys(("'self'", *filter(None, map(_origin, origins)))))
    policy = (
        f"default-src 'self'; connect-src {connect}; object-src 'none'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    )
    return (
        ("Content-Security-Policy", policy),
        ("Referrer-Policy", "no-referrer"),
        ("Cross-Origin-Opener-Policy", "same-origin"),
    )


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}" if parts.scheme and parts.netloc else ""


@attrs.frozen
class _File:
    """A file of the build.

    :ivar encodings: the encoded content by name of the encoding, the smallest first.
    :ivar tag: the value of the header ETag.
    """

    content_type: str
    body: bytes
    encodings: dict[str, bytes]
    tag: str


class BuiltPages:
    """The files of a build, which are read in threads and cached until the next build.

    :param root: the directory of the build; it may appear, disappear and change.
    :param headers: headers of every answer.
    """

    def __init__(self, reactor: Any, root: Path, headers: tuple[tuple[str, str], ...] = ()) -> None:
        self._reactor = reactor
        self._root = root
        self._headers = headers
        self._files: dict[str, _File] = {}
        self._built_at: int | None = None

    async def answer(self, call: Call, name: str, page: str) -> Answer:
        """Return the file *name* in the smallest form that the caller accepts.

        Raises UserError: there is no such file (404).

        :param page: the file of the page itself; if it is missing, the answer says how to build it.
        """
        pool = self._reactor.getThreadPool()
        files, status = await deferToThreadPool(self._reactor, pool, self._load)
        if page not in files:
            if name != page:
                raise _not_found(call)
            return self._not_built(status)
        found = files.get(name)
        if found is None:
            raise _not_found(call)
        caching = "public, max-age=31536000, immutable" if name.startswith(_ASSETS) else "no-cache"
        headers = (
            *self._headers,
            ("Cache-Control", caching),
            ("ETag", found.tag),
            ("Vary", "Accept-Encoding"),
        )
        if found.tag in call.header(b"if-none-match"):
            return Answer(status=304, headers=headers)
        accepted = _accepted(call.header(b"accept-encoding"))
        for encoding, body in found.encodings.items():
            if encoding in accepted:
                headers = (*headers, ("Content-Encoding", encoding))
                return Answer(body=body, content_type=found.content_type, headers=headers)
        return Answer(body=found.body, content_type=found.content_type, headers=headers)

    def _load(self) -> tuple[dict[str, _File], str]:
        """Return the files by name and the status of the build; reload them after a build."""
        try:
            built_at = self._root.stat().st_mtime_ns
        except FileNotFoundError:
            built_at = None
        if built_at != self._built_at or built_at is None:
            self._files = dict(_read(self._root)) if built_at is not None else {}
            self._built_at = built_at
        status = ""
        if not self._files:
            try:
                status = (self._root.parent / _STATUS).read_text(encoding="utf-8").strip()
            except FileNotFoundError:
                status = ""
        return self._files, status

    def _not_built(self, status: str) -> Answer:
        headers = (*self._headers, ("Cache-Control", "no-store"))
        if status == _BUILDING:
            headers = (*headers, ("Refresh", "2"))
            text = "<h1>The page is being built</h1><p>It appears here in a moment.</p>"
        else:
            reason = f"<pre>{escape(status)}</pre>" if status else ""
            text = (
                "<h1>The page isn't built</h1>"
                f"{reason}<p>Run <code>make console</code> in the checkout, and reload. It needs "
                "Python and access to PyPI and npm.</p>"
                "<p>The API works without it. Its description for tools: "
                '<a href="/v1/documentation/openapi3.json">openapi3.json</a>.</p>'
            )
        body = (
            '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            '<title>Stream</title><link rel="stylesheet" href="/v1/documentation/style.css">'
            f"</head><body><main>{text}</main></body></html>"
        )
        return Answer(status=503, body=body.encode(), content_type=_HTML, headers=headers)


def _read(root: Path) -> list[tuple[str, _File]]:
    suffixes = {suffix for suffix, _ in _ENCODINGS}
    found = []
    for path in sorted(root.rglob("*")):
        if path.suffix in suffixes or path.suffix not in _TYPES or not path.is_file():
            continue
        body = path.read_bytes()
        encodings = {
            encoding: other.read_bytes()
            for suffix, encoding in _ENCODINGS
            if (other := path.with_name(path.name + suffix)).is_file()
        }
        tag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
        name = path.relative_to(root).as_posix()
        found.append((name, _File(_TYPES[path.suffix], body, encodings, tag)))
    return found


def _accepted(header: str) -> set[str]:
    """Return the names of the encodings that a client accepts."""
    names = set()
    for part in header.split(","):
        name, _, quality = part.partition(";")
        if quality.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000"):
            names.add(name.strip().lower())
    return names


def _not_found(call: Call) -> UserError:
    path = call.operation.path.replace("{*path}", str(call.parameters.get("path", "")))
    return UserError(f'no endpoint found for path "{path}"', status=404, name="endpointNotFound")
