"""Staging in an object store: credentials for clients, and access for imports.

The sandbox issues credentials, and reads with its own credentials. A client's objects are copied
into the file's local folder for the duration of an import.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

import attrs
import obstore
from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, S3Store

from stream.sandbox.importer import MANIFEST, ImportRefused, manifest_names
from stream.sandbox.store import iso_time

if TYPE_CHECKING:
    from obstore.store import ClientConfig, GCSCredential

__all__ = ["ObjectStaging"]

_SAS_VERSION = "2019-12-12"
_READ_BYTES = 1024 * 1024
_DATA = "data"


@attrs.frozen
class ObjectStaging:
    """A bucket or container for staged files.

    :param provider: ``aws``, ``azure`` or ``gcp``.
    :param endpoint: URL of the store; for Azure, with the account name as path if the store needs
        it.
    :param key_id: access key ID or account name.
    :param secret: secret access key, account key or bearer token.
    """

    provider: str
    endpoint: str
    bucket: str
    region: str = "us-east-1"
    key_id: str = ""
    secret: str = attrs.field(default="", repr=False)

    def prepared(self, file_id: int, *, sliced: bool, now: float, life: float) -> dict[str, Any]:
        """Return the upload parameters of a prepared file, valid for *life* seconds."""
        key, expiration = _prefix(file_id) + ("" if sliced else _DATA), iso_time(now + life)
        members: dict[str, Any] = {"provider": self.provider, "region": self.region}
        if self.provider == "aws":
            members["uploadParams"] = {
                "key": key,
                "bucket": self.bucket,
                "acl": "private",
                "x-amz-server-side-encryption": "AES256",
                "endpoint": self.endpoint,
                "credentials": {
                    "AccessKeyId": self.key_id,
                    "SecretAccessKey": self.secret,
                    "SessionToken": "",
                    "Expiration": expiration,
                },
            }
        elif self.provider == "azure":
            signature = self._shared_access_signature(now, now + life)
            members["absUploadParams"] = {
                "blobName": key,
                "accountName": self.key_id,
                "container": self.bucket,
                "absCredentials": {
                    "SASConnectionString": f"BlobEndpoint={self.endpoint};"
                    f"SharedAccessSignature={signature}",
                    "expiration": expiration,
                },
            }
        else:
            members["gcsUploadParams"] = {
                "key": key,
                "bucket": self.bucket,
                "projectId": "local",
                "access_token": self.secret,
                "token_type": "Bearer",
                "expires_in": int(life),
                "endpoint": self.endpoint,
            }
        return members

    def url_prefix(self, file_id: int) -> str:
        """Return the prefix of the URLs of a file's objects."""
        container = {
            "aws": f"s3://{self.bucket}/",
            "azure": f"azure://{self.key_id}.blob.core.windows.net/{self.bucket}/",
            "gcp": f"gs://{self.bucket}/",
        }[self.provider]
        return container + _prefix(file_id)

    def fetch(self, file_id: int, folder: Path, *, sliced: bool) -> None:
        """Copy the objects of a file into *folder*; blocks.

        Raises ImportRefused: an object is missing, or the manifest is malformed.
        """
        folder.mkdir(parents=True, exist_ok=True)
        store = self._open()
        if not sliced:
            _download(store, _prefix(file_id) + _DATA, folder / _DATA)
            return
        _download(store, _prefix(file_id) + MANIFEST, folder / MANIFEST)
        for name in dict.fromkeys(manifest_names(folder, (self.url_prefix(file_id),))):
            _download(store, _prefix(file_id) + name, folder / name)

    def remove(self, file_id: int, folder: Path) -> None:
        """Remove the objects of a file listed in its manifest, and the manifest."""
        store, keys = self._open(), [MANIFEST, _DATA]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _download(store, _prefix(file_id) + MANIFEST, folder / MANIFEST)
            keys += manifest_names(folder, (self.url_prefix(file_id),))
        except ImportRefused:
            pass  # nothing was staged, or the manifest is invalid
        for name in keys:
            try:
                obstore.delete(store, _prefix(file_id) + name)
            except (BaseError, FileNotFoundError):
                continue  # it is missing, or the store's own rules will remove it

    def _open(self) -> S3Store | AzureStore | GCSStore:
        options: ClientConfig = {
            "allow_http": self.endpoint.startswith("http://"),
            "timeout": timedelta(seconds=120),
        }
        if self.provider == "aws":
            return S3Store(
                self.bucket,
                endpoint=self.endpoint,
                region=self.region,
                access_key_id=self.key_id,
                secret_access_key=self.secret,
                client_options=options,
            )
        if self.provider == "azure":
            return AzureStore(
                self.bucket,
                account_name=self.key_id,
                account_key=self.secret,
                endpoint=self.endpoint,
                client_options=options,
            )

        def credential() -> GCSCredential:
            return {"token": self.secret, "expires_at": None}

        return GCSStore(
            self.bucket,
            base_url=self.endpoint,
            credential_provider=credential,
            client_options=options,
        )

    def _shared_access_signature(self, start: float, end: float) -> str:
        """Return a signature that allows reading and writing in the container, and nothing else."""
        scheme = urlsplit(self.endpoint).scheme
        begins, ends = (iso_time(moment).replace("+0000", "Z") for moment in (start - 60, end))
        fields: Mapping[str, str] = {
            "sp": "rcw",
            "st": begins,
            "se": ends,
            "spr": "https" if scheme == "https" else "https,http",
            "sv": _SAS_VERSION,
            "sr": "c",
        }
        resource = f"/blob/{self.key_id}/{self.bucket}"
        signed = (
            fields["sp"], begins, ends, resource, "", "", fields["spr"], _SAS_VERSION, "c",
            *[""] * 6,
        )  # fmt: skip
        digest = hmac.digest(base64.b64decode(self.secret), "\n".join(signed).encode(), "sha256")
        return urlencode({**fields, "sig": base64.b64encode(digest).decode()})


def _prefix(file_id: int) -> str:
    return f"sandbox/{file_id}/"


def _download(store: S3Store | AzureStore | GCSStore, key: str, target: Path) -> None:
    hidden = target.with_name(f".{hashlib.sha256(target.name.encode()).hexdigest()[:32]}.part")
    try:
        with hidden.open("wb") as file:
            for chunk in obstore.get(store, key).stream(min_chunk_size=_READ_BYTES):
                file.write(chunk)
        hidden.replace(target)
    except FileNotFoundError as error:
        hidden.unlink(missing_ok=True)
        raise ImportRefused(
            f'object "{target.name}" does not exist', "storage.fileNotFound"
        ) from error
