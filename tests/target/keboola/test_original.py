"""Secrets that the original service has encrypted, and those that are encrypted for it."""

from __future__ import annotations

from typing import Any

import attrs
import orjson
import pytest
import pytest_twisted

from stream.definition.key import SinkKey
from stream.encryption import DecryptionFailed
from stream.encryption.aes import AesEncryptor
from stream.encryption.gob import GobError, decode_gob
from stream.errors import UserError
from stream.storage.model.key import FileKey
from stream.target.keboola.original import (
    token_from_go,
    token_to_go,
    upload_from_go,
    upload_to_go,
)
from stream.target.keboola.records import FileRecord, TokenRecord
from stream.values.codec import decode, to_plain
from tests.encryption.test_gob import AT, VALUES

ensure = pytest_twisted.ensureDeferred

KEY = b"k" * 32
SINK = SinkKey(123, 456, "my-source", "my-sink")
FILE = FileKey.of(SINK, AT)
TIME = "2026-01-02T03:04:05+0000"

PROVIDERS: dict[str, dict[str, dict[str, Any]]] = {
    "aws": {
        "uploadParams": {
            "key": "exp/1001/",
            "bucket": "my-bucket",
            "credentials": {
                "AccessKeyId": "id",
                "SecretAccessKey": "secret",
                "SessionToken": "session",
                "Expiration": TIME,
            },
            "acl": "private",
            "x-amz-server-side-encryption": "AES256",
        }
    },
    "azure": {
        "absUploadParams": {
            "blobName": "blob/",
            "accountName": "account",
            "container": "container",
            "absCredentials": {
                "SASConnectionString": "BlobEndpoint=https://account.blob.core.windows.net;"
                "SharedAccessSignature=sv=1&sig=2",
                "expiration": TIME,
            },
        }
    },
    "gcp": {
        "gcsUploadParams": {
            "key": "exp/",
            "bucket": "my-bucket",
            "projectId": "p",
            "access_token": "access",
            "token_type": "Bearer",
            "expires_in": 3600,
        }
    },
}


def test_a_token() -> None:
    """With the names of the Storage API."""
    assert token_from_go(decode_gob(VALUES["token"])) == {
        "token": "123-1001-secret",
        "id": "1001",
        "description": "[_internal] Stream Sink my-source/my-sink",
        "canReadAllFileUploads": True,
        "created": TIME,
        "owner": {"id": 123, "name": "My project"},
        "bucketPermissions": {"in.c-bucket": "write"},
    }


@pytest.mark.parametrize("provider", sorted(PROVIDERS))
def test_credentials(provider: str) -> None:
    """Credentials of each cloud, in the layout in which they are stored in clear text."""
    plain = upload_from_go(decode_gob(VALUES[provider]))
    assert {name: plain[name] for name in PROVIDERS[provider]} == PROVIDERS[provider]
    assert plain["provider"] == provider and plain["created"] == TIME
    assert plain["id"] == {"aws": 1001, "azure": 1002, "gcp": 1003}[provider]


@pytest.mark.parametrize("name", sorted({*PROVIDERS, "token"}))
def test_there_and_back(name: str) -> None:
    """A record written for the original equals the record written by the original."""
    read, write = (
        (token_from_go, token_to_go) if name == "token" else (upload_from_go, upload_to_go)
    )
    plain = read(decode_gob(VALUES[name]))
    assert read(decode_gob(write(plain))) == plain


@pytest.mark.parametrize(
    "plain",
    [{"id": "no number"}, {"created": "yesterday"}, {"tags": 7}, {"name": 7}],
    ids=lambda plain: next(iter(plain)),
)
def test_what_the_original_cannot_have(plain: dict[str, object]) -> None:
    """It is refused, rather than written as something else."""
    with pytest.raises(GobError, match="FileUploadCredentials"):
        upload_to_go(plain)


@ensure
async def test_a_record_with_an_encrypted_token() -> None:
    """Only the original's key decrypts the token, for this sink alone."""
    encryptor = AesEncryptor(KEY)
    sealed = encryptor.encrypt_for_original(VALUES["token"], {"sink": str(SINK)})
    record = decode(
        TokenRecord,
        orjson.dumps(
            {
                "projectId": 123,
                "branchId": 456,
                "sourceId": "my-source",
                "sinkId": "my-sink",
                "token": None,
                "tokenId": "1001",
                "encryptedToken": sealed,
            }
        ),
    )
    assert (await record.unseal(encryptor)).token == "123-1001-secret"
    for other in (
        record.unseal(AesEncryptor(b"x" * 32)),
        attrs.evolve(record, key=SinkKey(123, 456, "my-source", "other")).unseal(encryptor),
    ):
        with pytest.raises(UserError) as caught:
            await other
        assert caught.value.name == "tokenDecryptionFailed"
        assert "another key or for another record" in str(caught.value)


@pytest.mark.parametrize("provider", sorted(PROVIDERS))
@ensure
async def test_a_record_with_encrypted_credentials(provider: str) -> None:
    """The credentials contain the destination of uploads and the expiration."""
    encryptor = AesEncryptor(KEY)
    key = to_plain(FILE)
    sealed = encryptor.encrypt_for_original(VALUES[provider], {"file": str(FILE)})
    record = decode(
        FileRecord,
        orjson.dumps(
            {
                "FileKey": key,
                "SinkKey": to_plain(SINK),
                "TableID": "in.c-bucket.my-table",
                "Columns": ["id"],
                "StorageJobID": None,
                "UploadCredentials": None,
                "EncryptedCredentials": sealed,
                "FileID": 1001,
                "FileName": "my-file",
                "CredentialsExpiration": "2026-01-02T03:04:05.000Z",
            }
        ),
    )
    upload = await record.unseal(encryptor)
    assert upload.provider == provider and upload.name == "my-file"
    assert upload.credentials == next(iter(PROVIDERS[provider].values()))
    assert upload.expiration is not None
    assert (upload.expiration - AT).total_seconds() == (3600 if provider == "gcp" else 0)


@pytest.mark.parametrize("content", [b"\x1f\x8bno gzip", b"\x02new", b""], ids=range(3))
@ensure
async def test_other_content(content: bytes) -> None:
    """A layout of neither service is refused."""
    encryptor = AesEncryptor(KEY)
    sealed = encryptor._sealed(content, {})
    with pytest.raises(DecryptionFailed):
        await encryptor.decrypt(sealed, {})
