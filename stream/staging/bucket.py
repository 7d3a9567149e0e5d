"""Buckets and folders configured by a URL, in which objects are stored, read and removed.

Unlike staging from the Storage API (`stream.staging.open`), a bucket doesn't expire, and its
credentials are the operator's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import attrs
import obstore
from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, LocalStore, S3Store

from stream.errors import UserError
from stream.ops.google_token import TokenUnavailable, google_token
from stream.staging.chunks import Chunks, bytes_chunks
from stream.staging.cloud import CloudBackend, client_options, retry_options
from stream.staging.errors import StagingError
from stream.staging.local import LocalBackend, part_path
from stream.staging.store import Backend

if TYPE_CHECKING:
    from stream.staging.gcs import GcsBackend

__all__ = ["OPTIONS", "SCHEMES", "Bucket", "BucketAddress", "open_bucket", "read_address"]

SCHEMES = ("file", "s3", "gs", "az")
OPTIONS = ("url", "region", "endpoint", "account", "credentialFile")
"""Options of a connection that describe the location of its objects."""

_KEYS = {
    "s3": ("accessKeyId", "secretAccessKey", "sessionToken"),
    "az": ("accountKey", "sasToken"),
}
_GOOGLE_SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"
_MAX_CREDENTIAL_BYTES = 64 * 1024
_LISTED_AT_ONCE = 1000


@attrs.frozen(kw_only=True)
class BucketAddress:
    """The location of objects in a bucket or folder.

    :ivar scheme: ``file``, ``s3``, ``gs`` or ``az``.
    :ivar bucket: bucket or container; ``""`` for a folder.
    :ivar prefix: prefix of all names, without slashes at its ends; for a folder, its absolute path.
    :ivar endpoint: URL of a store that isn't the cloud's own.
    :ivar account: name of the Azure account.
    :ivar credential_file: path of the file that is read each time the bucket is opened; ``""`` for
        the environment's credentials.
    """

    scheme: str
    bucket: str = ""
    prefix: str = ""
    region: str = ""
    endpoint: str = ""
    account: str = ""
    credential_file: str = ""

    def credentials(self) -> str:
        """Return the text of the credential file; ``""`` if there is none.

        Raises UserError: the file is unreadable or invalid.
        """
        if not self.credential_file:
            return ""
        try:
            with Path(self.credential_file).open(encoding="utf-8") as file:
                text = file.read(_MAX_CREDENTIAL_BYTES)
        except (OSError, UnicodeDecodeError):
            raise _unusable(
                # Users get this message, so it doesn't contain the path.
                '"credentialFile" can\'t be read on this node: make it readable by the service'
            ) from None
        _parsed(self, text)
        return text


def read_address(options: Mapping[str, Any]) -> BucketAddress:
    """Return the address in the *options* of a connection. Raises ValueError with the reason."""
    url = options.get("url")
    parts = urlsplit(url) if isinstance(url, str) else None
    if parts is None or parts.scheme not in SCHEMES:
        raise ValueError(
            'needs "url", such as "s3://bucket/prefix", "gs://…", "az://container/prefix" or '
            '"file:///folder"'
        )
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError(
            '"url" must contain only a bucket and a path; put credentials into "credentialFile"'
        )
    path = unquote(parts.path)
    if parts.scheme == "file":
        if parts.netloc or not Path(path).is_absolute() or path == "/":
            raise ValueError('"url" of a folder must be like "file:///var/lib/stream/lake"')
    elif not parts.netloc:
        raise ValueError('"url" names no bucket')
    account = str(options.get("account") or "")
    if (parts.scheme == "az") is not bool(account):
        raise ValueError('"account" is required for az://, and not allowed otherwise')
    return BucketAddress(
        scheme=parts.scheme,
        bucket=parts.netloc,
        prefix=path.rstrip("/") if parts.scheme == "file" else path.strip("/"),
        region=str(options.get("region") or ""),
        endpoint=str(options.get("endpoint") or ""),
        account=account,
        credential_file=str(options.get("credentialFile") or ""),
    )


class Bucket:
    """The objects below one address; their names are relative to it. Blocks.

    Errors never contain credentials.
    """

    def __init__(
        self,
        backend: Backend,
        store: Any,
        prefix: str,
        hide: Callable[[str], str],
        *,
        has_parts: bool = False,
    ) -> None:
        self._backend = backend
        self._has_parts = has_parts
        self._store = store
        self._prefix = f"{prefix}/" if prefix else ""
        self._hide = hide

    def put(self, name: str, chunks: Chunks, stopped: Callable[[], bool] = lambda: False) -> int:
        """Store the object *name* atomically, replacing an older one.

        Raises StagingError: the object could not be stored.

        :param stopped: polled; the upload is cancelled when it returns true.
        :returns: size of the object in bytes.
        """
        return self._backend.put(f"{self._prefix}{name}", chunks, stopped).size

    def put_bytes(self, name: str, body: bytes) -> None:
        """Store a small object. Raises StagingError."""
        self.put(name, bytes_chunks(body))

    def read(self, name: str) -> bytes | None:
        """Return a small object; ``None`` if there is none. Raises StagingError."""
        try:
            return bytes(obstore.get(self._store, f"{self._prefix}{name}").bytes())
        except FileNotFoundError:
            return None
        except (BaseError, ValueError, OSError) as problem:
            raise self._failed(f'cannot read "{name}"', problem) from None

    def chunks(self, name: str) -> Iterator[bytes]:
        """Iterate over the chunks of a large object.

        Raises StagingError: immediately, or while the object is read.
        """
        return self._backend.get(f"{self._prefix}{name}")

    def names(self, below: str) -> Iterator[str]:
        """Return the names of all objects below the folder *below*. Raises StagingError."""
        try:
            listed = obstore.list(self._store, f"{self._prefix}{below}", chunk_size=_LISTED_AT_ONCE)
            for page in listed:
                for found in page:
                    yield found["path"].removeprefix(self._prefix)
        except FileNotFoundError:
            return
        except (BaseError, ValueError, OSError) as problem:
            raise self._failed(f'cannot list "{below}"', problem) from None

    def remove(self, names: Iterable[str]) -> None:
        """Remove objects; missing objects are ignored. Raises StagingError."""
        for name in names:
            self._remove(name)
            if self._has_parts:  # parts of a process that was killed
                self._remove(str(part_path(Path(name))))

    def _remove(self, name: str) -> None:
        try:
            obstore.delete(self._store, f"{self._prefix}{name}")
        except FileNotFoundError:
            return
        except (BaseError, ValueError, OSError) as problem:
            raise self._failed(f'cannot remove "{name}"', problem) from None

    def _failed(self, what: str, problem: Exception) -> StagingError:
        return StagingError(f"{what}: {self._hide(str(problem))}")


def open_bucket(address: BucketAddress, credentials: str) -> Bucket:
    """Open the bucket at *address*; a missing folder is created, but its parent isn't.

    Raises UserError: the credentials are unusable. Raises StagingError: the folder can't be
    created.

    :param credentials: as returned by `BucketAddress.credentials`.
    """
    if address.scheme == "file":
        return _folder(Path(address.prefix))
    keys = _parsed(address, credentials) if credentials else {}
    make = {"s3": _s3, "gs": _gs, "az": _az}[address.scheme](address, keys, credentials)
    try:
        backend = CloudBackend(
            make,
            [str(value) for value in keys.values() if isinstance(value, str)],
            sends_digests=address.scheme == "s3",
            reads_back=bool(keys.get("accountKey")),
        )
        stored = _gcs(address, keys) if address.scheme == "gs" else backend
        return Bucket(stored, make({}), address.prefix, backend.readable)
    except (BaseError, ValueError, TypeError):
        # The library's message may quote the credentials.
        raise _unusable('region, endpoint or "credentialFile" can\'t be used') from None


def _folder(root: Path) -> Bucket:
    try:
        root.mkdir(exist_ok=True)
    except OSError as problem:
        raise StagingError(f'cannot create the folder "{root}": {problem.strerror}') from None
    store = LocalStore(root, automatic_cleanup=True)
    return Bucket(LocalBackend(root), store, "", str, has_parts=True)


Stores = Callable[[Mapping[str, str]], Any]
"""Returns the library's store; the argument contains headers to send with each request."""


def _s3(address: BucketAddress, keys: Mapping[str, Any], _: str) -> Stores:
    config: dict[str, Any] = {
        "checksum_algorithm": "sha256",
        "virtual_hosted_style_request": not address.endpoint and "." not in address.bucket,
    }
    if address.region:
        config["region"] = address.region
    if address.endpoint:
        config["endpoint"] = address.endpoint
    if keys:
        config["access_key_id"] = keys["accessKeyId"]
        config["secret_access_key"] = keys["secretAccessKey"]
        if keys.get("sessionToken"):
            config["session_token"] = keys["sessionToken"]

    def store(headers: Mapping[str, str]) -> S3Store:
        options = client_options(address.endpoint, headers)
        return S3Store(
            address.bucket, client_options=options, retry_config=retry_options(), **config
        )

    return store


def _gs(address: BucketAddress, keys: Mapping[str, Any], text: str) -> Stores:
    config: dict[str, Any] = {"service_account_key": text} if keys else {}
    endpoint = address.endpoint or str(keys.get("gcs_base_url") or "")

    def store(headers: Mapping[str, str]) -> GCSStore:
        options = client_options(endpoint, headers)
        return GCSStore(
            address.bucket, client_options=options, retry_config=retry_options(), **config
        )

    return store


def _gcs(address: BucketAddress, keys: Mapping[str, Any]) -> GcsBackend:
    """Return the GCS backend; its protocol returns the digest of each stored object."""
    # Imported here, because most buckets are elsewhere.
    from stream.staging.gcs import ENDPOINT, GcsBackend

    endpoint = address.endpoint or str(keys.get("gcs_base_url") or "") or ENDPOINT
    if keys.get("disable_oauth"):  # an emulator
        return GcsBackend(address.bucket, endpoint, lambda: "")
    try:
        token = google_token(_GOOGLE_SCOPE, keys)
    except TokenUnavailable as problem:
        raise _unusable(str(problem)) from None

    def authorization() -> str:
        try:
            return f"Bearer {token()}"
        except TokenUnavailable as problem:
            raise StagingError(str(problem)) from None

    return GcsBackend(address.bucket, endpoint, authorization)


def _az(address: BucketAddress, keys: Mapping[str, Any], _: str) -> Stores:
    config: dict[str, Any] = {"account_name": address.account}
    if address.endpoint:
        config["endpoint"] = address.endpoint
    if keys.get("accountKey"):
        config["account_key"] = keys["accountKey"]
    elif keys:
        config["sas_key"] = str(keys["sasToken"]).lstrip("?")

    def store(headers: Mapping[str, str]) -> AzureStore:
        options = client_options(address.endpoint, headers)
        return AzureStore(
            address.bucket, client_options=options, retry_config=retry_options(), **config
        )

    return store


def _parsed(address: BucketAddress, text: str) -> Mapping[str, Any]:
    """Return the keys in a credential file. Raises UserError, without the keys' values."""
    try:
        keys = json.loads(text)
    except ValueError:
        keys = None
    if address.scheme == "gs":
        if isinstance(keys, dict) and (keys.get("private_key") or keys.get("disable_oauth")):
            return keys
        raise _unusable('"credentialFile" must be the JSON key of a service account')
    known = _KEYS.get(address.scheme, ())
    if (
        not isinstance(keys, dict)
        or not all(isinstance(value, str) and name in known for name, value in keys.items())
        or not ({"accessKeyId", "secretAccessKey"} <= keys.keys() or {*_KEYS["az"]} & keys.keys())
    ):
        raise _unusable(f'"credentialFile" must be a JSON object with {" and ".join(known[:2])}')
    return keys


def _unusable(problem: str) -> UserError:
    return UserError(problem, status=503, name="connectionFailed")
