"""Prepared files of every provider, as the API describes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stream.staging import FileUpload

EXPIRATION = "2100-01-02T03:04:05+0000"


def reply(provider: str, key: str, parameters: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "id": 1001,
        "name": "src_snk_20060102150405",
        "created": "2006-01-02T15:04:05+0000",
        "provider": provider,
        "region": "eu-west-1",
        key: parameters,
        **more,
    }


def aws(**more: Any) -> FileUpload:
    parameters = {
        "key": "exp-2/1001/",
        "bucket": "buck",
        "acl": "private",
        "x-amz-server-side-encryption": "AES256",
        "credentials": {
            "AccessKeyId": "AKID",
            "SecretAccessKey": "aws+secret/key",
            "SessionToken": "aws-session-token",
            "Expiration": EXPIRATION,
        },
        **more,
    }
    return FileUpload.from_reply(reply("aws", "uploadParams", parameters))


def azure(endpoint: str = "https://acc.blob.core.windows.net") -> FileUpload:
    parameters = {
        "blobName": "exp-2-1001-",
        "accountName": "acc",
        "container": "cont",
        "absCredentials": {
            "SASConnectionString": f"BlobEndpoint={endpoint};"
            "SharedAccessSignature=sv=2020-08-04&sig=az%2Bsecret%3D&se=2100",
            "expiration": EXPIRATION,
        },
    }
    return FileUpload.from_reply(reply("azure", "absUploadParams", parameters))


def gcp(**more: Any) -> FileUpload:
    parameters = {
        "key": "exp-2/1001/",
        "bucket": "buck",
        "projectId": "p",
        "access_token": "gcs-secret-token",
        "token_type": "Bearer",
        "expires_in": 3599,
        **more,
    }
    return FileUpload.from_reply(reply("gcp", "gcsUploadParams", parameters))


def local(directory: Path, key: str = "1001/", expiration: str = EXPIRATION) -> FileUpload:
    parameters = {"directory": str(directory), "key": key, "expiration": expiration}
    return FileUpload.from_reply(reply("local", "localUploadParams", parameters))
