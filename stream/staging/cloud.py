"""Objects in S3, Azure Blob Storage and Google Cloud Storage, through the obstore library.

A body of one part goes up in a single request, a bigger one as a multipart upload with a bounded
number of parts in memory; an upload that fails is aborted, so no half object is ever visible.
Transient errors are repeated by the library for a short while; the caller has its own back-off.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Mapping
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
    from obstore.store import ClientConfig, GCSCredential, RetryConfig

__all__ = ["CloudBackend", "azure_backend", "gcs_backend", "s3_backend"]

#: The smallest part S3 takes; also the unit in which memory is bounded.
PART_BYTES = 5 * 1024 * 1024
_PARTS_IN_FLIGHT = 4
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

    :param store: the library's store.
    :param secrets: texts that no error may show.
    :param md5_etags: whether the store's ETags are MD5 digests of the content. Only then a
        different ETag means different content.
    """

    def __init__(
        self,
        store: S3Store | AzureStore | GCSStore,
        secrets: Iterable[str],
        *,
        md5_etags: bool = False,
    ) -> None:
        self._store = store
        self._secrets = tuple(secret for secret in secrets if secret)
        self._md5_etags = md5_etags

    def put(self, key: str, chunks: Chunks, stopped: Callable[[], bool]) -> StoredObject:
        """See `stream.staging.store.Backend`."""
        sent = SentBody(chunks(), PART_BYTES, stopped)
        try:
            etag, multipart = self._send(key, sent)
            verified = self._check_etag(key, etag, sent, multipart) or self._check_size(key, sent)
        except InterruptedError as problem:
            raise StagingError(str(problem)) from None
        except (BaseError, ValueError, FileNotFoundError) as problem:
            raise StagingError(
                f'cannot store "{key}": {self._readable(problem)}',
                retryable=not isinstance(problem, ValueError),
            ) from None
        return StoredObject(url="", size=sent.size, etag=etag, verified=verified)

    def _send(self, key: str, sent: SentBody) -> tuple[str, bool]:
        parts = sent.parts()
        head = list(itertools.islice(parts, 2))
        if len(head) < 2:
            result = obstore.put(self._store, key, head[0] if head else b"", use_multipart=False)
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
        if not self._md5_etags or _MD5_ETAG.fullmatch(etag) is None:
            return False
        if etag != sent.expected_etag(multipart=multipart):
            raise ObjectMismatch(f'the digest of "{key}" is not that of the bytes sent')
        return True

    def _check_size(self, key: str, sent: SentBody) -> bool:
        try:
            found = obstore.head(self._store, key)["size"]
        except (PermissionDeniedError, UnauthenticatedError):
            return False
        if found != sent.size:
            raise ObjectMismatch(f'"{key}" has {found} bytes, {sent.size} were sent')
        return True

    def _readable(self, problem: Exception) -> str:
        """The first paragraph of the library's text, without anything secret."""
        text = str(problem).partition("\n\nDebug source")[0].strip()
        for secret in self._secrets:
            for form in {secret, quote(secret), quote(secret, safe="")}:
                text = text.replace(form, "***")
        return _SIGNATURE.sub(r"\1=***", text)


def _client(endpoint: str, headers: Mapping[str, str] | None = None) -> ClientConfig:
    options: ClientConfig = {
        "allow_http": endpoint.startswith("http://"),
        "connect_timeout": timedelta(seconds=5),
        "timeout": timedelta(seconds=120),
    }
    if headers:
        options["default_headers"] = dict(headers)
    return options


def s3_backend(upload: FileUpload) -> CloudBackend:
    """S3, or what speaks like it: ``endpoint`` among the parameters is used in path style."""
    parameters = upload.credentials
    keys = parameters["credentials"]
    secret, session = str(keys["SecretAccessKey"]), str(keys.get("SessionToken") or "")
    encryption = str(parameters.get("x-amz-server-side-encryption") or "")
    endpoint = str(parameters.get("endpoint") or "")
    config: dict[str, Any] = {
        "access_key_id": str(keys["AccessKeyId"]),
        "secret_access_key": secret,
        "region": upload.region or "us-east-1",
        # Bucket names with dots don't fit the certificate of a host per bucket.
        "virtual_hosted_style_request": not endpoint and "." not in parameters["bucket"],
    }
    if session:
        config["session_token"] = session
    if encryption:
        config["server_side_encryption"] = encryption
    if endpoint:
        config["endpoint"] = endpoint
    acl = str(parameters.get("acl") or "")
    store = S3Store(
        parameters["bucket"],
        client_options=_client(endpoint, {"x-amz-acl": acl} if acl else None),
        retry_config=_RETRY,
        **config,
    )
    # With a KMS key, be it the bucket's default, S3's ETag isn't the content's MD5.
    return CloudBackend(store, (secret, session), md5_etags=encryption == "AES256")


def azure_backend(upload: FileUpload) -> CloudBackend:
    """Azure Blob Storage with a shared access signature."""
    parameters = upload.credentials
    pairs = parse_connection_string(str(parameters["absCredentials"]["SASConnectionString"]))
    endpoint, signature = pairs["BlobEndpoint"].rstrip("/"), pairs["SharedAccessSignature"]
    store = AzureStore(
        parameters["container"],
        account_name=parameters["accountName"],
        endpoint=endpoint,
        sas_key=signature.lstrip("?"),
        client_options=_client(endpoint),
        retry_config=_RETRY,
    )
    return CloudBackend(store, (signature,))


def gcs_backend(upload: FileUpload) -> CloudBackend:
    """Google Cloud Storage with a bearer token; ``endpoint`` among the parameters replaces it."""
    parameters = upload.credentials
    token, endpoint = str(parameters["access_token"]), str(parameters.get("endpoint") or "")

    def credential() -> GCSCredential:
        return {"token": token, "expires_at": None}

    config: dict[str, Any] = {"base_url": endpoint} if endpoint else {}
    store = GCSStore(
        parameters["bucket"],
        credential_provider=credential,
        client_options=_client(endpoint),
        retry_config=_RETRY,
        **config,
    )
    return CloudBackend(store, (token,))
