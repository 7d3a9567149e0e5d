"""The requests of the cloud stores, sent to a small server that behaves like a bucket."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet import reactor as _reactor
from twisted.python.threadpool import ThreadPool

from stream.staging import FileUpload, ObjectMismatch, StagingError, bytes_chunks, open_store
from stream.staging.cloud import PART_BYTES
from stream.staging.store import StoredObject
from tests.serving import serving
from tests.staging.uploads import aws, azure, gcp

reactor: Any = _reactor
SLICE = "2000-01-01T01:00:00.000Z_hdd-1.gz"


class Bucket(BaseHTTPRequestHandler):
    """Single and multipart uploads of one bucket; `Server` holds its state."""

    protocol_version = "HTTP/1.1"
    server: Server

    def _go(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.seen.append((self.command, self.path, dict(self.headers.items())))
        status, etag, reply = self._answer(body)
        self.send_response(status)
        if etag:
            self.send_header("ETag", f'"{etag}"')
        size = len(self.server.content) if self.command == "HEAD" else len(reply)
        self.send_header("Content-Length", str(size))
        self.send_header("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT")
        self.end_headers()
        self.wfile.write(reply)

    def _answer(self, body: bytes) -> tuple[int, str, bytes]:
        server = self.server
        if self.command == "HEAD":
            return server.head_status, "e", b""
        if server.failures:
            return server.failures.pop(0), "", b""
        if self.command == "GET":
            return 200, "e", server.content
        if self.command == "DELETE":
            return 204, "", b""
        if self.command == "POST" and "uploadId=" not in self.path:
            return 200, "", b"<R><Bucket>b</Bucket><Key>k</Key><UploadId>U</UploadId></R>"
        if self.command == "POST":
            parts = [server.parts[number] for number in sorted(server.parts)]
            server.content = b"".join(parts)[: server.keep]
            digests = b"".join(hashlib.md5(part).digest() for part in parts)
            etag = f"{hashlib.md5(digests).hexdigest()}-{len(parts)}"
            return 200, "", f"<R><ETag>{server.etag or etag}</ETag></R>".encode()
        if "partNumber=" in self.path:
            number = int(self.path.partition("partNumber=")[2].partition("&")[0])
            server.parts[number] = body
            return 200, hashlib.md5(body).hexdigest(), b""
        server.content = body[: server.keep]
        return 201, server.etag or hashlib.md5(body).hexdigest(), b""

    do_PUT = do_POST = do_HEAD = do_DELETE = do_GET = _go

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""


class Server(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Bucket)
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self.parts: dict[int, bytes] = {}
        self.content = b""
        self.failures: list[int] = []
        self.head_status = 200
        self.etag = ""
        self.keep: int | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def methods(self) -> list[str]:
        return [method for method, _, _ in self.seen]


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(Server()) as started:
        yield started


async def put(
    upload: FileUpload, pool: ThreadPool, body: bytes = b"abc", name: str = SLICE
) -> StoredObject:
    store = open_store(upload, file_key="f", reactor=reactor, pool=pool)
    return await store.put(name, bytes_chunks(body))


@pytest_twisted.ensureDeferred
async def test_s3_small(server: Server, pool: ThreadPool) -> None:
    """A small object is one signed PUT with the ACL and encryption of the prepared file."""
    stored = await put(aws(endpoint=server.url), pool)
    assert stored.url == f"s3://buck/exp-2/1001/{SLICE}"
    assert (stored.size, stored.verified) == (3, True)
    ((method, path, headers),) = server.seen
    assert (method, path.replace("%3A", ":")) == ("PUT", f"/buck/exp-2/1001/{SLICE}")
    assert headers["x-amz-acl"] == "private"
    assert headers["x-amz-server-side-encryption"] == "AES256"
    assert headers["x-amz-security-token"] == "aws-session-token"
    assert "x-amz-acl" in headers["authorization"].partition("SignedHeaders=")[2]
    assert "/eu-west-1/s3/" in headers["authorization"]
    assert server.content == b"abc"


@pytest.mark.parametrize("make", [lambda url: aws(endpoint=url), azure], ids=["aws", "azure"])
@pytest_twisted.ensureDeferred
async def test_an_object_is_read_back(
    server: Server, pool: ThreadPool, make: Callable[[str], FileUpload]
) -> None:
    """The content is unchanged; a missing object is an error without secrets."""
    store = open_store(make(server.url), file_key="f", reactor=reactor, pool=pool)
    body = b"x" * 3_000_000
    await store.put(SLICE, bytes_chunks(body))
    target = io.BytesIO()
    await store.fetch(SLICE, target)
    assert target.getvalue() == body
    server.failures = [404] * 10
    with pytest.raises(StagingError, match="cannot read") as caught:
        await store.fetch(SLICE, target)
    assert "secret" not in f"{caught.value} {caught.value.__cause__!r}"


@pytest_twisted.ensureDeferred
async def test_s3_multipart(server: Server, pool: ThreadPool) -> None:
    """A large object is uploaded in parts of equal size, and its digest is compared."""
    body = bytes(range(256)) * (PART_BYTES // 256 * 2 + 100)
    stored = await put(aws(endpoint=server.url), pool, body)
    assert (stored.size, stored.verified) == (len(body), True)
    assert server.content == body
    assert [len(part) for _, part in sorted(server.parts.items())][:2] == [PART_BYTES] * 2
    assert "HEAD" not in server.methods
    # S3 refuses a request with an unsigned header of its own; its emulators don't.
    for method, path, headers in server.seen:
        signed = headers["authorization"].partition("SignedHeaders=")[2].partition(",")[0]
        own = {name for name in headers if name.startswith("x-amz-")}
        assert own <= set(signed.split(";")), (method, path)


@pytest_twisted.ensureDeferred
async def test_the_limit_of_a_single_request(server: Server, pool: ThreadPool) -> None:
    """A body of one part is a single request, and one byte more is a multipart upload."""
    await put(aws(endpoint=server.url), pool, bytes(PART_BYTES))
    assert server.methods == ["PUT"]
    await put(aws(endpoint=server.url), pool, bytes(PART_BYTES + 1))
    assert server.methods.count("POST") == 2


@pytest_twisted.ensureDeferred
async def test_an_azure_object(server: Server, pool: ThreadPool) -> None:
    """The object is a block blob uploaded with the signature, and verified by its size."""
    stored = await put(azure(server.url), pool)
    assert stored.url == f"azure://acc.blob.core.windows.net/cont/exp-2-1001-{SLICE}"
    assert stored.verified
    method, path, headers = server.seen[0]
    target, _, query = path.partition("?")
    assert (method, target.replace("%3A", ":")) == ("PUT", f"/cont/exp-2-1001-{SLICE}")
    assert "sig=az%2Bsecret%3D" in query
    assert headers["x-ms-blob-type"] == "BlockBlob"
    assert headers["content-md5"] == "kAFQmDzST7DWlj99KOF/cg=="
    assert server.methods == ["PUT", "HEAD"]


@pytest_twisted.ensureDeferred
async def test_transient_errors_are_retried(server: Server, pool: ThreadPool) -> None:
    """The caller doesn't see two server errors."""
    server.failures = [503, 500]
    assert (await put(aws(endpoint=server.url), pool)).size == 3
    assert server.methods == ["PUT", "PUT", "PUT"]


@pytest_twisted.ensureDeferred
async def test_wrong_digest(server: Server, pool: ThreadPool) -> None:
    """An object with another digest is a retryable error."""
    server.etag = "0" * 32
    with pytest.raises(ObjectMismatch, match="digest") as caught:
        await put(aws(endpoint=server.url), pool)
    assert caught.value.retryable


@pytest_twisted.ensureDeferred
async def test_wrong_size(server: Server, pool: ThreadPool) -> None:
    """The size is compared if the ETag isn't a digest."""
    server.keep = 2
    with pytest.raises(ObjectMismatch, match="is 2 bytes, but 3 bytes were sent"):
        await put(azure(server.url), pool)


@pytest_twisted.ensureDeferred
async def test_the_etag_of_an_object_with_a_kms_key(server: Server, pool: ThreadPool) -> None:
    """The ETag isn't a digest, so the size is compared."""
    server.etag = "0" * 32
    upload = aws(endpoint=server.url, **{"x-amz-server-side-encryption": "aws:kms"})
    assert (await put(upload, pool)).verified
    assert server.methods == ["PUT", "HEAD"]


@pytest_twisted.ensureDeferred
async def test_write_only_credentials(server: Server, pool: ThreadPool) -> None:
    """The object isn't verified, which is no error."""
    server.head_status = 403
    stored = await put(azure(server.url), pool)
    assert not stored.verified


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("status", [400, 403])
async def test_errors_contain_no_secrets(server: Server, pool: ThreadPool, status: int) -> None:
    """The message of a refused request has no keys and no signatures."""
    for upload in (
        aws(endpoint=server.url),
        azure(server.url),
        attrs.evolve(gcp(endpoint=server.url), expiration=None),
    ):
        server.failures = [status]
        with pytest.raises(StagingError) as caught:
            await put(upload, pool)
        error = caught.value
        assert "secret" not in f"{error} {error!r} {error.__cause__!r}"
        assert "session-token" not in str(error)


@pytest_twisted.ensureDeferred
async def test_an_unreachable_store(server: Server, pool: ThreadPool) -> None:
    """The error names the store without the signature in its URL."""
    upload = azure(server.url)
    server.server_close()
    with pytest.raises(StagingError) as caught:
        await put(upload, pool)
    assert caught.value.retryable
    assert "secret" not in str(caught.value)


@pytest_twisted.ensureDeferred
async def test_a_failed_body_is_aborted(server: Server, pool: ThreadPool) -> None:
    """A body that fails after its first parts completes nothing, and its parts are deleted."""

    def broken() -> Iterator[bytes]:
        yield bytes(3 * PART_BYTES)
        raise RuntimeError("cannot read")

    store = open_store(aws(endpoint=server.url), file_key="f", reactor=reactor, pool=pool)
    with pytest.raises(RuntimeError, match="cannot read"):
        await store.put("x", broken)
    assert server.content == b""
    # The end of an unfinished part may be logged after the abort, so the order isn't checked.
    assert "DELETE" in server.methods
    assert server.methods.count("POST") == 1


def test_invalid_parameters_are_not_quoted(pool: ThreadPool) -> None:
    """Invalid parameters are refused permanently, without quoting them."""
    upload = azure("secret://nowhere\n")
    for bad in (
        attrs.evolve(upload, credentials={**upload.credentials, "absCredentials": {}}),
        attrs.evolve(aws(), credentials={**aws().credentials, "credentials": "secret"}),
    ):
        with pytest.raises(StagingError) as caught:
            open_store(bad, file_key="f", reactor=reactor, pool=pool)
        assert not caught.value.retryable
        assert "secret" not in str(caught.value)
