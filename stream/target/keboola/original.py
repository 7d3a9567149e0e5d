"""Converts tokens and credentials from and to the original service's encrypted values. Pure.

The original encrypts Go structs, so the members have Go names there. Plain records and this module
use the names of the Storage API.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import attrs

from stream.encryption.gob import (
    BOOL,
    INT,
    STRING,
    TIME,
    UINT,
    GobError,
    ListOf,
    MapOf,
    Struct,
    StructType,
    encode_gob,
)
from stream.staging.upload import parse_iso_time
from stream.values.utctime import NO_TIME

__all__ = ["token_from_go", "token_to_go", "upload_from_go", "upload_to_go"]

_API_TIME = "%Y-%m-%dT%H:%M:%S+0000"


@attrs.frozen
class _Fields:
    """A Go struct and the corresponding JSON object.

    :ivar fields: name in Go, name in JSON (``None``: the members are those of the parent), type.
    """

    name: str
    fields: tuple[tuple[str, str | None, Any], ...]

    def type(self) -> StructType:
        """Return the type of the struct as gob describes it."""
        return StructType(
            self.name,
            tuple(
                (field, part.type() if isinstance(part, _Fields) else part)
                for field, _, part in self.fields
            ),
        )

    def to_json(self, value: Struct) -> dict[str, Any]:
        plain: dict[str, Any] = {}
        for field, member, part in self.fields:
            found = value.fields.get(field)
            if found is None:
                continue
            if isinstance(part, _Fields):
                if not isinstance(found, Struct):
                    raise GobError(f"{self.name}.{field} is not a struct")
                below = part.to_json(found)
                plain |= below if member is None else {member: below}
            elif member is not None and found != NO_TIME:
                plain[member] = _to_json(found)
        return plain

    def from_json(self, plain: Mapping[str, Any]) -> dict[str, Any]:
        value: dict[str, Any] = {}
        for field, member, part in self.fields:
            if isinstance(part, _Fields):
                below = plain if member is None else plain.get(member)
                if isinstance(below, Mapping):
                    value[field] = part.from_json(below)
            elif member is not None and plain.get(member) is not None:
                value[field] = _from_json(plain[member], part)
        return value


_BUCKET = StructType("BucketID", (("Stage", STRING), ("BucketName", STRING)))
_PERMISSIONS = MapOf(_BUCKET, STRING)

_OWNER = _Fields("TokenOwner", (("ID", "id", INT), ("Name", "name", STRING)))
_TOKEN = _Fields(
    "Token",
    (
        ("Token", "token", STRING),
        ("ID", "id", STRING),
        ("Description", "description", STRING),
        ("IsMaster", "isMasterToken", BOOL),
        ("CanManageBuckets", "canManageBuckets", BOOL),
        ("CanManageTokens", "canManageTokens", BOOL),
        ("CanReadAllFileUploads", "canReadAllFileUploads", BOOL),
        ("CanPurgeTrash", "canPurgeTrash", BOOL),
        ("Created", "created", TIME),
        ("Refreshed", "refreshed", TIME),
        ("Expires", "expires", TIME),
        ("IsExpired", "isExpired", BOOL),
        ("IsDisabled", "isDisabled", BOOL),
        ("Owner", "owner", _OWNER),
        ("BucketPermissions", "bucketPermissions", _PERMISSIONS),
    ),
)

_FILE_KEY = _Fields("FileKey", (("FileID", "id", INT),))
_FILE = _Fields(
    "File",
    (
        ("FileKey", None, _FILE_KEY),
        ("ID", "id", INT),  # its place in older versions of the SDK
        ("Created", "created", TIME),
        ("IsSliced", "isSliced", BOOL),
        ("IsEncrypted", "isEncrypted", BOOL),
        ("Name", "name", STRING),
        ("URL", "url", STRING),
        ("Provider", "provider", STRING),
        ("Region", "region", STRING),
        ("SizeBytes", "sizeBytes", UINT),
        ("Tags", "tags", ListOf(STRING)),
        ("MaxAgeDays", "maxAgeDays", UINT),
        ("ContentType", "contentType", STRING),
        ("FederationToken", "federationToken", BOOL),
        ("IsPermanent", "isPermanent", BOOL),
        ("Notify", "notify", BOOL),
    ),
)
_PATH = _Fields("Path", (("Key", "key", STRING), ("Bucket", "bucket", STRING)))
_S3 = _Fields(
    "UploadParams",
    (
        ("Path", None, _PATH),
        (
            "Credentials",
            "credentials",
            _Fields(
                "Credentials",
                (
                    ("AccessKeyID", "AccessKeyId", STRING),
                    ("SecretAccessKey", "SecretAccessKey", STRING),
                    ("SessionToken", "SessionToken", STRING),
                    ("Expiration", "Expiration", TIME),
                ),
            ),
        ),
        ("ACL", "acl", STRING),
        ("Encryption", "x-amz-server-side-encryption", STRING),
    ),
)
_AZURE = _Fields(
    "UploadParams",
    (
        ("BlobName", "blobName", STRING),
        ("AccountName", "accountName", STRING),
        ("Container", "container", STRING),
        (
            "Credentials",
            "absCredentials",
            _Fields(
                "Credentials",
                (
                    ("SASConnectionString", "SASConnectionString", STRING),
                    ("Expiration", "expiration", TIME),
                ),
            ),
        ),
    ),
)
_GOOGLE = _Fields(
    "UploadParams",
    (
        ("Path", None, _PATH),
        (
            "Credentials",
            None,
            _Fields(
                "Credentials",
                (
                    ("ProjectID", "projectId", STRING),
                    ("AccessToken", "access_token", STRING),
                    ("TokenType", "token_type", STRING),
                    ("ExpiresIn", "expires_in", INT),
                ),
            ),
        ),
    ),
)
_UPLOAD = _Fields(
    "FileUploadCredentials",
    (
        ("File", None, _FILE),
        ("ABSUploadParams", "absUploadParams", _AZURE),
        ("GCSUploadParams", "gcsUploadParams", _GOOGLE),
        ("S3UploadParams", "uploadParams", _S3),
    ),
)


def token_from_go(value: Struct) -> dict[str, Any]:
    """Return the token in the Storage API's form. Raises GobError."""
    return _TOKEN.to_json(value)


def token_to_go(plain: Mapping[str, Any]) -> bytes:
    """Return the gob of a token. Raises GobError if the original wouldn't accept a member."""
    return _encoded(_TOKEN, plain)


def upload_from_go(value: Struct) -> dict[str, Any]:
    """Return the staging file in the Storage API's form. Raises GobError."""
    return _UPLOAD.to_json(value)


def upload_to_go(plain: Mapping[str, Any]) -> bytes:
    """Return the gob of a staging file. Raises GobError as `token_to_go` does."""
    return _encoded(_UPLOAD, plain)


def _encoded(fields: _Fields, plain: Mapping[str, Any]) -> bytes:
    try:
        return encode_gob(fields.type(), fields.from_json(plain))
    except (ValueError, TypeError, AttributeError) as error:
        raise GobError(f"{fields.name} can't be written for the original: {error}") from None


def _to_json(found: Any) -> Any:
    if isinstance(found, datetime):
        return found.strftime(_API_TIME)
    if isinstance(found, list) and all(isinstance(item, tuple) for item in found):
        return {
            f"{bucket.fields.get('Stage', '')}.{bucket.fields.get('BucketName', '')}": permission
            for bucket, permission in found
            if isinstance(bucket, Struct)
        }
    return found


def _from_json(item: Any, part: Any) -> Any:
    if part is TIME:
        return parse_iso_time(item)
    if part is _PERMISSIONS:  # the API sends an empty object as an empty list
        pairs = item.items() if isinstance(item, Mapping) else ()
        return [
            (dict(zip(("Stage", "BucketName"), bucket.split(".", 1), strict=False)), permission)
            for bucket, permission in pairs
        ]
    return item
