"""Objects in S3 and Azure Blob Storage, through the obstore library.

A body with one part is sent in a single request. A larger body is sent as a multipart upload with a
bounded number of parts in memory. A failed upload is aborted, so a partial object is never visible.
The library retries temporary errors for a short time; the caller has its own back-off.

Note [Checksums]: S3 receives a signed SHA-256 of each request's body and refuses other content. If
its ETag is a digest, the ETag is compared, too. Azure receives the MD5 of a body with one part and
refuses other content. For the parts of a larger body the library sends no digest, so a larger
object is read back and compared if the credentials allow it. With an account key, whose signature
covers only headers that the library knows, every object is read back.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import AzureStore, GCSStore, S3Store

from stream.staging.chunks import Chunks, SentBody
from stream.staging.errors import ObjectMismatch, StagingError
from stream.staging.location import parse_connection_string
from stream.staging.store import StoredObject
from stream.staging.upload import FileUpload

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

__all__ = [
    "PART_BYTES",
    "CloudBackend",
    "azure_backend",
    "client_options",
    "retry_options",
    "s3_backend",
]

#: The smallest part that S3 accepts, and the unit in which memory is bounded.
PART_BYTES = 5 * 1024 * 1024
_PARTS_IN_FLIGHT = 4
_READ_BYTES = 1024 * 1024
_MD5_ETAG = re.compile(r"[0-9a-f]{32}(-[0-9]+)?")
_SIGNATURE = re.compile(r"(?i)\b(sig|signature|token)=[^&\s\")]+")
_RETRY: RetryConfig = {
    "max_retries": 4,
    "retry_timeout": timedelta(seconds=60),
    "backoff": {
        "init_backoff": timedelta(milliseconds=100),
        "max_backoff": timedelta(seconds=5),
        "base": 2,
    },
}


class CloudBackend:
    """One bucket or container.

    :param make_store: returns the library's store, which sends the given headers with each request.
    :param secrets: texts that no error may contain.
    :param md5_etags: whether the store's ETags are MD5 digests of the content. Only in that case
        does a different ETag mean different content.
    :param sends_digests: whether the library adds a digest to each request; see Note [Checksums].
    :param reads_back: whether every object is read back and compared; no header is sent then.
    """

    def __init__(
        self,
        make_store: Callable[[Mapping[str, str]], S3Store | AzureStore | GCSStore],
        secrets: Iterable[str],
        *,
        md5_etags: bool = False,
        sends_digests: bool = False,
        reads_back: bool = False,
    ) -> None:
        self._make_store = make_store
        self._store = make_store({})
        self._secrets = tuple(secret for secret in secrets if secret)
        self._md5_etags = md5_etags
        self._reads_back = reads_back
        self._sends_digests = sends_digests
        # A store that omits an expected digest may not check received digests, either.
        self._trusts_requests = sends_digests and not md5_etags

    def put(self, key: str, chunks: Chunks, stopped: Callable[[], bool]) -> StoredObject:
        """Store an object; see `stream.staging.store.Backend`."""
        sent = SentBody(chunks(), PART_BYTES, stopped)
        try:
            etag, multipart = self._send(key, sent)
            verified = self._check_etag(key, etag, sent, multipart)
            if not verified:
                verified = self._check_size(key, sent)
                if verified and (multipart or self._reads_back) and not self._trusts_requests:
                    verified = self._check_content(key, sent)
        except InterruptedError as problem:
            raise StagingError(str(problem)) from None
        except (BaseError, ValueError, FileNotFoundError) as problem:
            raise StagingError(
                f'cannot store "{key}": {self.readable(problem)}',
                retryable=not isinstance(problem, ValueError),
            ) from None
        return StoredObject(url="", size=sent.size, etag=etag, verified=verified)

    def get(self, key: str) -> Iterator[bytes]:
        """Return the body of an object; see `stream.staging.store.Backend`."""
        try:
            for chunk in obstore.get(self._store, key).stream(min_chunk_size=_READ_BYTES):
                yield bytes(chunk)
        except (BaseError, ValueError, FileNotFoundError) as problem:
            raise StagingError(f'cannot read "{key}": {self.readable(problem)}') from None

    def _send(self, key: str, sent: SentBody) -> tuple[str, bool]:
        parts = sent.parts()
        head = list(itertools.islice(parts, 2))
        if len(head) < 2:
            body = head[0] if head else b""
            needs_header = not (self._sends_digests or self._reads_back)
            store = self._make_store(_content_md5(body)) if needs_header else self._store
            result = obstore.put(store, key, body, use_multipart=False)
        else:
            result = obstore.put(
                self._store,
                key,
                itertools.chain(head, parts),
                chunk_size=PART_BYTES,
                max_concurrency=_PARTS_IN_FLIGHT,
            )
        return (result["e_tag"] or "").strip('"'), len(head) > 1

    def _check_etag(self, key: str, etag: str, sent: SentBody, multipart: bool) -> bool:
        form = _MD5_ETAG.fullmatch(etag)
        if not self._md5_etags or form is None or bool(form[1]) is not multipart:
            return False
        if etag != sent.expected_etag(multipart=multipart):
            raise ObjectMismatch(f'the digest of "{key}" does not match the bytes that were sent')
        return True

    def _check_size(self, key: str, sent: SentBody) -> bool:
        try:
            found = obstore.head(self._store, key)["size"]
        except (PermissionDeniedError, UnauthenticatedError):
            return False
        if found != sent.size:
            raise ObjectMismatch(f'"{key}" is {found} bytes, but {sent.size} bytes were sent')
        return True

    def _check_content(self, key: str, sent: SentBody) -> bool:
        """Check the stored content; see Note [Checksums]."""
        try:
            found = obstore.get(self._store, key).stream(min_chunk_size=_READ_BYTES)
        except (PermissionDeniedError, UnauthenticatedError):
            return False
        stored = SentBody((bytes(chunk) for chunk in found), PART_BYTES, lambda: False)
        for _part in stored.parts():
            pass
        if stored.digests != sent.digests:
            raise ObjectMismatch(f'the content of "{key}" differs from the bytes that were sent')
        return True

    def readable(self, problem: Exception | str) -> str:
        """Return the first paragraph of the library's message, without secrets."""
        text = str(problem).partition("\n\nDebug source")[0].strip()
        for secret in self._secrets:
            for form in {secret, quote(secret), quote(secret, safe="")}:
                text = text.replace(form, "***")
        return _SIGNATURE.sub(r"\1=***", text)


def _content_md5(body: bytes) -> dict[str, str]:
    digest = hashlib.md5(body, usedforsecurity=False).digest()
    return {"content-md5": base64.b64encode(digest).decode()}


def retry_options() -> RetryConfig:
    """Return the library's retry options for temporary errors."""
    return _RETRY


def client_options(endpoint: str, headers: Mapping[str, str] | None = None) -> ClientConfig:
    """Return the library's options for *endpoint* and for the headers of each request."""
    options: ClientConfig = {
        "allow_http": endpoint.startswith("http://"),
        "connect_timeout": timedelta(seconds=5),
        "timeout": timedelta(seconds=120),
    }
    if headers:
        options["default_headers"] = dict(headers)
    return options


def s3_backend(upload: FileUpload) -> CloudBackend:
    """Return the backend for S3, or for a compatible store at the parameter ``endpoint``."""
    parameters = upload.credentials
    keys = parameters["credentials"]
    secret, session = str(keys["SecretAccessKey"]), str(keys.get("SessionToken") or "")
    encryption = str(parameters.get("x-amz-server-side-encryption") or "")
    endpoint = str(parameters.get("endpoint") or "")
    config: dict[str, Any] = {
        "access_key_id": str(keys["AccessKeyId"]),
        "secret_access_key": secret,
        "region": upload.region or "us-east-1",
        "checksum_algorithm": "sha256",
        # Bucket names with dots don't match the certificate for virtual hosts.
        "virtual_hosted_style_request": not endpoint and "." not in parameters["bucket"],
    }
    if session:
        config["session_token"] = session
    if encryption:
        config["server_side_encryption"] = encryption
    if endpoint:
        config["endpoint"] = endpoint
    bucket, acl = str(parameters["bucket"]), str(parameters.get("acl") or "")

    def store(headers: Mapping[str, str]) -> S3Store:
        return S3Store(
            bucket,
            client_options=client_options(
                endpoint, {**headers, **({"x-amz-acl": acl} if acl else {})}
            ),
            retry_config=_RETRY,
            **config,
        )

    # With a KMS key, including the bucket's default key, S3's ETag isn't the content's MD5.
    return CloudBackend(
        store, (secret, session), md5_etags=encryption == "AES256", sends_digests=True
    )


def azure_backend(upload: FileUpload) -> CloudBackend:
    """Return the backend for Azure Blob Storage with a shared access signature."""
    parameters = upload.credentials
    pairs = parse_connection_string(str(parameters["absCredentials"]["SASConnectionString"]))
    endpoint, signature = pairs["BlobEndpoint"].rstrip("/"), pairs["SharedAccessSignature"]
    container, account = str(parameters["container"]), str(parameters["accountName"])

    def store(headers: Mapping[str, str]) -> AzureStore:
        return AzureStore(
            container,
            account_name=account,
            endpoint=endpoint,
            sas_key=signature.lstrip("?"),
            client_options=client_options(endpoint, headers),
            retry_config=_RETRY,
        )

    return CloudBackend(store, (signature,))
