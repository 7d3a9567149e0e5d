"""A staging file prepared by the Storage API, with the location of its objects.

The API describes each provider's bucket in a separate object (``uploadParams``,
``absUploadParams``, ``gcsUploadParams``, or ``localUploadParams`` for a folder on this machine).
That object is kept unchanged, because it is stored in the file's record.

Note [Two layouts]: the record has the layout of the reply, with all its members, as the original
service stores it. Earlier versions of this service stored the parameters in ``credentials``. Both
layouts can be read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs

from stream.values.codec import Record, register
from stream.values.utctime import format_time, parse_time

__all__ = ["PARAMETER_KEYS", "FileUpload", "parse_iso_time"]

#: Members of the reply that contain the parameters, by provider, in the order of the search.
PARAMETER_KEYS = {
    "aws": "uploadParams",
    "azure": "absUploadParams",
    "gcp": "gcsUploadParams",
    "local": "localUploadParams",
}

_MEMBERS = {"id", "name", "provider", "region", "credentials", "expiration"}.union(
    PARAMETER_KEYS.values()
)


def parse_iso_time(text: str) -> datetime:
    """Parse an ISO 8601 time; a time without a zone is UTC. Raises ValueError."""
    moment = datetime.fromisoformat(text)
    return (moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment).astimezone(UTC)


@attrs.frozen
class FileUpload(Record):
    """A prepared staging file.

    :param id: ID of the file in the Storage API.
    :param name: name of the file in the Storage API.
    :param provider: ``aws``, ``azure``, ``gcp`` or ``local``.
    :param region: region of the bucket; ``""`` if unknown.
    :param credentials: the provider's unchanged parameter object; secret.
    :param expiration: time at which the credentials expire; ``None`` if unknown.
    """

    id: int
    name: str
    provider: str
    region: str
    credentials: dict[str, Any] = attrs.field(repr=False)
    expiration: datetime | None = None

    @classmethod
    def from_reply(cls, reply: Mapping[str, Any]) -> FileUpload:
        """Parse the reply to the request that prepares a file.

        Raises ValueError, KeyError or TypeError.
        """
        return cls._read(reply, _expiration)

    @classmethod
    def from_record(cls, plain: Mapping[str, Any]) -> FileUpload:
        """Parse a stored reply, whose optional members may be absent.

        Raises ValueError, KeyError or TypeError.
        """
        return cls._read(plain, _stored_expiration)

    @classmethod
    def _read(
        cls,
        reply: Mapping[str, Any],
        expiration: Callable[[str, Mapping[str, Any], Mapping[str, Any]], datetime | None],
    ) -> FileUpload:
        # The received parameters decide, because a provider's name isn't enough for an upload.
        found = next((item for item in PARAMETER_KEYS.items() if reply.get(item[1])), None)
        if found is None:
            raise ValueError(f'no upload parameters for provider "{reply.get("provider") or ""}"')
        provider, key = str(reply.get("provider") or found[0]), found[1]
        credentials = dict(reply[key])
        return cls(
            id=int(reply["id"]),
            name=str(reply.get("name") or ""),
            provider=provider,
            region=str(reply.get("region") or ""),
            credentials=credentials,
            expiration=expiration(key, credentials, reply),
            unknown={name: member for name, member in reply.items() if name not in _MEMBERS},
        )

    @classmethod
    def from_detail(cls, reply: Mapping[str, Any]) -> FileUpload | None:
        """Return the location for reading a file's objects, from the reply with the file's details.

        Return ``None`` if the reply doesn't contain it. Raises ValueError, KeyError or TypeError.
        """
        provider = str(reply.get("provider") or "")
        parameters = _download_parameters(provider, reply)
        if parameters is None:
            return None
        name, region = str(reply.get("name") or ""), str(reply.get("region") or "")
        return cls(int(reply["id"]), name, provider, region, parameters)

    def expired(self, now: datetime) -> bool:
        """Return whether the credentials have expired at *now*."""
        return self.expiration is not None and self.expiration <= now


def _download_parameters(provider: str, reply: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the parameters of an upload to the same location, with credentials for reading."""
    if provider == "aws" and "s3Path" in reply:
        path = reply["s3Path"]
        return {
            "bucket": path["bucket"],
            "key": path["key"],
            "credentials": dict(reply["credentials"]),
        }
    if provider == "azure" and "absPath" in reply:
        path = reply["absPath"]
        signed = str(reply["absCredentials"]["SASConnectionString"])
        host = signed.partition("BlobEndpoint=")[2].partition("//")[2]
        return {
            "accountName": host.partition(".")[0],
            "container": path["container"],
            "blobName": path["name"],
            "absCredentials": dict(reply["absCredentials"]),
        }
    if provider == "gcp" and "gcsPath" in reply:
        path = reply["gcsPath"]
        return {**reply["gcsCredentials"], "bucket": path["bucket"], "key": path["key"]}
    if provider == "local" and "localPath" in reply:
        return dict(reply["localPath"])
    return None


def _expiration(
    key: str, parameters: Mapping[str, Any], reply: Mapping[str, Any]
) -> datetime | None:
    if key == "gcsUploadParams":
        lifetime = timedelta(seconds=float(parameters["expires_in"]))
        return parse_iso_time(reply["created"]) + lifetime
    if key == "uploadParams":
        text = parameters["credentials"].get("Expiration")
    elif key == "absUploadParams":
        text = parameters["absCredentials"].get("expiration")
    else:
        text = parameters.get("expiration")
    return parse_iso_time(text) if text else None


def _stored_expiration(
    key: str, parameters: Mapping[str, Any], record: Mapping[str, Any]
) -> datetime | None:
    stored = record.get("expiration")
    if stored:
        return parse_time(stored)
    if key == "gcsUploadParams" and not (parameters.get("expires_in") and record.get("created")):
        return None
    return _expiration(key, parameters, record)


def _write(upload: FileUpload) -> dict[str, Any]:
    """Return the record; see Note [Two layouts]. It includes the expiration for faster reading."""
    plain: dict[str, Any] = {
        "id": upload.id,
        "name": upload.name,
        "provider": upload.provider,
        "region": upload.region,
        PARAMETER_KEYS.get(upload.provider, "credentials"): upload.credentials,
    }
    if upload.expiration is not None:
        plain["expiration"] = format_time(upload.expiration)
    return plain | dict(upload.unknown)


def _read(plain: Any, _: type) -> FileUpload:
    """Parse the record; see Note [Two layouts]. Raises ValueError, KeyError or TypeError."""
    key = PARAMETER_KEYS.get(plain.get("provider") or "")
    if key is not None and plain.get("credentials"):
        plain = {**plain, key: plain["credentials"]}
    return FileUpload.from_record(plain)


register(FileUpload, _write, _read)
