"""Uploads to a scripted Google Cloud Storage over an unreliable network."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import attrs
import orjson
import pytest
import pytest_twisted
from twisted.internet import reactor as _reactor
from twisted.python.threadpool import ThreadPool

from stream.staging import ObjectMismatch, StagingError, bytes_chunks, open_store
from stream.staging.gcs import PART_BYTES
from stream.staging.store import StoredObject
from tests.serving import serving
from tests.staging.uploads import gcp

reactor: Any = _reactor
BODY = bytes(range(256)) * (PART_BYTES // 256 * 2 + 100)


class Session(BaseHTTPRequestHandler):
    """Whole and resumable uploads of one object."""

    protocol_version = "HTTP/1.1"
    server: Store

    def _go(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        span = self.headers.get("Content-Range", "")
        self.server.seen.append((self.command, span, self.headers.get("Authorization")))
        fate = self.server.fates.pop(0) if self.server.fates else "ok"
        if isinstance(fate, int):
            self._reply(fate)
            return
        if fate == "half":
            body = body[: len(body) // 2]
        if self.command == "GET":
            assert self.path == "/storage/v1/b/buck/o/exp-2%2F1001%2Fslice?alt=media"
            self._reply(200, {}, bytes(self.server.content))
            return
        status, headers, answer = self._take(body, span)
        if fate in ("lost", "half"):
            self.close_connection = True
            return
        self._reply(status, headers, answer)

    def _take(self, body: bytes, span: str) -> tuple[int, dict[str, str], bytes]:
        store = self.server
        if self.command == "DELETE":
            return 499, {}, b""
        if "uploadType=media" in self.path:
            store.content = bytearray(body)
            return 200, {}, self._resource()
        if self.command == "POST":
            store.content = bytearray()
            return 200, {"Location": f"{store.url}/session"}, b""
        place, _, total = span.removeprefix("bytes ").partition("/")
        if place != "*":
            assert int(place.partition("-")[0]) == len(store.content), "a gap or a repetition"
            store.content += body
        if total != "*" and len(store.content) == int(total):
            return 200, {}, self._resource()
        had = {"Range": f"bytes=0-{len(store.content) - 1}"} if store.content else {}
        return 308, had, b""

    def _resource(self) -> bytes:
        digest = hashlib.md5(self.server.content).digest()
        told = self.server.digest or base64.b64encode(digest).decode()
        size = str(len(self.server.content) + self.server.lie)
        return orjson.dumps({"size": size, "md5Hash": told, "etag": "CJ="})

    def _reply(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_PUT = do_POST = do_DELETE = do_GET = _go

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""


class Store(ThreadingHTTPServer):
    """A store that keeps an object.

    :ivar fates: outcomes of the next requests: ``ok``, ``lost`` (done, no answer), ``half`` (the
        first half arrives, no answer), or a status to answer with.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Session)
        self.seen: list[tuple[str, str, str | None]] = []
        self.fates: list[str | int] = []
        self.content = bytearray()
        self.digest = ""
        self.lie = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def store() -> Iterator[Store]:
    with serving(Store()) as started:
        yield started


async def put(store: Store, pool: ThreadPool, body: bytes = BODY) -> StoredObject:
    upload = attrs.evolve(gcp(endpoint=store.url), expiration=None)
    opened = open_store(upload, file_key="f", reactor=reactor, pool=pool)
    return await opened.put("slice", bytes_chunks(body))


@pytest_twisted.ensureDeferred
async def test_an_object_is_read_back(store: Store, pool: ThreadPool) -> None:
    """The content is unchanged; a missing object is an error without secrets."""
    upload = attrs.evolve(gcp(endpoint=store.url), expiration=None)
    opened = open_store(upload, file_key="f", reactor=reactor, pool=pool)
    await opened.put("slice", bytes_chunks(b"abc" * 1000))
    target = io.BytesIO()
    await opened.fetch("slice", target)
    assert target.getvalue() == b"abc" * 1000
    store.fates = [404]
    with pytest.raises(StagingError, match="404") as caught:
        await opened.fetch("slice", target)
    assert "gcs-secret-token" not in str(caught.value)


@pytest.mark.parametrize("size", [0, 3, PART_BYTES])
@pytest_twisted.ensureDeferred
async def test_a_small_object_is_one_request(store: Store, pool: ThreadPool, size: int) -> None:
    """An object of up to one part is one request with the bearer token, verified by the answer."""
    stored = await put(store, pool, bytes(size))
    assert stored.url == "gs://buck/exp-2/1001/slice"
    assert (stored.size, stored.verified, bytes(store.content)) == (size, True, bytes(size))
    assert store.seen == [("POST", "", "Bearer gcs-secret-token")]


@pytest_twisted.ensureDeferred
async def test_a_large_object_is_uploaded_in_parts(store: Store, pool: ThreadPool) -> None:
    """Only the first request has the token."""
    assert (await put(store, pool)).verified
    assert store.content == BODY
    assert [span for _, span, _ in store.seen] == [
        "",
        f"bytes 0-{PART_BYTES - 1}/*",
        f"bytes {PART_BYTES}-{2 * PART_BYTES - 1}/*",
        f"bytes {2 * PART_BYTES}-{len(BODY) - 1}/{len(BODY)}",
    ]
    assert [token is None for _, _, token in store.seen] == [False, True, True, True]


@pytest.mark.parametrize(
    "fates",
    [
        [503, 500],
        ["ok", 503],
        ["ok", "lost"],
        ["ok", "half"],
        ["ok", "ok", "half", 503, "ok"],
        ["ok", "ok", "ok", "lost"],
        ["ok", "ok", "ok", "half"],
    ],
)
@pytest_twisted.ensureDeferred
async def test_an_upload_resumes(store: Store, pool: ThreadPool, fates: list[str | int]) -> None:
    """After any loss the upload resumes at the first byte that the store lacks."""
    store.fates = fates
    assert (await put(store, pool)).size == len(BODY)
    assert store.content == BODY


@pytest.mark.parametrize("body", [b"abc", BODY])
@pytest_twisted.ensureDeferred
async def test_a_refusal_ends_the_upload(store: Store, pool: ThreadPool, body: bytes) -> None:
    """The error has the status but not the token."""
    store.fates = [403]
    with pytest.raises(StagingError, match="403") as caught:
        await put(store, pool, body)
    assert len(store.seen) == 1
    assert "secret" not in str(caught.value)


@pytest_twisted.ensureDeferred
async def test_an_expired_session(store: Store, pool: ThreadPool) -> None:
    """An upload that the store has dropped is an error; a retry starts from the beginning."""
    store.fates = ["ok", "ok", 410]
    with pytest.raises(StagingError, match="410") as caught:
        await put(store, pool)
    assert caught.value.retryable
    assert store.seen[-1][0] == "DELETE"


@pytest.mark.parametrize("body", [b"abc", BODY])
@pytest_twisted.ensureDeferred
async def test_another_size_or_digest(store: Store, pool: ThreadPool, body: bytes) -> None:
    """An answer with another size or digest is an error."""
    store.lie = 1
    with pytest.raises(ObjectMismatch, match=f"but {len(body)} bytes were sent"):
        await put(store, pool, body)
    store.lie, store.digest = 0, "AAAA"
    with pytest.raises(ObjectMismatch, match="digest"):
        await put(store, pool, body)


@pytest_twisted.ensureDeferred
async def test_an_unavailable_store(store: Store, pool: ThreadPool) -> None:
    """The error is retryable."""
    store.server_close()
    with pytest.raises(StagingError, match="no answer") as caught:
        await put(store, pool, b"abc")
    assert caught.value.retryable
