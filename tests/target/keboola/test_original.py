"""Secrets encrypted by the original service, and secrets encrypted for it."""

from __future__ import annotations

import base64
from typing import Any

import attrs
import orjson
import pytest
import pytest_twisted
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from stream.definition.key import SinkKey
from stream.encryption import DecryptionFailed
from stream.encryption.aes import AesEncryptor, packed, seal
from stream.encryption.gob import (
    BOOL,
    BYTES,
    FLOAT,
    INT,
    STRING,
    UINT,
    GobError,
    ListOf,
    MapOf,
    StructType,
    decode_gob,
    encode_gob,
)
from stream.encryption.gob import TIME as GO_TIME
from stream.errors import UserError
from stream.staging import FileUpload
from stream.storage.model.key import FileKey
from stream.target.keboola.original import (
    _TOKEN,
    _UPLOAD,
    token_from_go,
    token_to_go,
    upload_from_go,
    upload_to_go,
)
from stream.target.keboola.records import FileRecord, TokenRecord
from stream.target.keboola.values import SinkToken
from stream.values.codec import decode, from_plain, to_plain
from tests.encryption.steps import done
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
    """The token has the names of the Storage API."""
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
    """Credentials of each cloud have the layout of their plain text."""
    plain = upload_from_go(decode_gob(VALUES[provider]))
    assert {name: plain[name] for name in PROVIDERS[provider]} == PROVIDERS[provider]
    assert plain["provider"] == provider and plain["created"] == TIME
    assert plain["id"] == {"aws": 1001, "azure": 1002, "gcp": 1003}[provider]


@pytest.mark.parametrize("name", sorted({*PROVIDERS, "token"}))
def test_round_trip(name: str) -> None:
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
def test_secrets_that_the_original_lacks(plain: dict[str, object]) -> None:
    """Such secrets are refused instead of written in another form."""
    with pytest.raises(GobError, match="FileUploadCredentials"):
        upload_to_go(plain)


@ensure
async def test_a_record_with_an_encrypted_token() -> None:
    """Only the original's key decrypts the token, for this sink only."""
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
        assert "a different key or for a different record" in str(caught.value)


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
async def test_unknown_layouts(content: bytes) -> None:
    """A layout of neither service is refused."""
    encryptor = AesEncryptor(KEY)
    sealed = encryptor._sealed(content, {})
    with pytest.raises(DecryptionFailed):
        await encryptor.decrypt(sealed, {})


TOKEN: dict[str, Any] = {
    "token": "123-1001-secret",
    "id": "1001",
    "description": "d",
    "isMasterToken": True,
    "canManageBuckets": True,
    "canManageTokens": True,
    "canReadAllFileUploads": True,
    "canPurgeTrash": True,
    "created": TIME,
    "refreshed": TIME,
    "expires": TIME,
    "isExpired": True,
    "isDisabled": True,
    "owner": {"id": 123, "name": "My project"},
    "bucketPermissions": {"in.c-bucket": "write", "out.c-other": "read"},
}
UPLOAD: dict[str, Any] = {
    "id": 1001,
    "created": TIME,
    "isSliced": True,
    "isEncrypted": True,
    "name": "my-file",
    "url": "https://localhost",
    "region": "eu-central-1",
    "sizeBytes": 300,
    "tags": ["a", "b"],
    "maxAgeDays": 7,
    "contentType": "text/csv",
    "federationToken": True,
    "isPermanent": True,
    "notify": True,
}
REQUIRED = {
    *("id", "token", "uploadParams", "absUploadParams", "gcsUploadParams"),
    *("bucket", "key", "container", "blobName"),
}
"""Required members of each secret."""
_IN_PARAMETERS = {"credentials", "absCredentials"}

Kind = type[TokenRecord] | type[FileRecord]

_NEW = StructType("Added", (("A", INT), ("B", MapOf(STRING, ListOf(BYTES)))))
_ADDED: tuple[tuple[Any, Any], ...] = (
    (BOOL, True),
    (INT, -7),
    (UINT, 7),
    (FLOAT, 0.5),
    (BYTES, b"x"),
    (STRING, "x"),
    (GO_TIME, AT),
    (ListOf(STRING), ["x", ""]),
    (MapOf(STRING, INT), {"x": 1}),
    (MapOf(_NEW, STRING), [({"A": 1}, "x")]),
    (_NEW, {"A": 1, "B": {"x": [b"y"]}}),
    (ListOf(_NEW), [{"A": 1}, {}]),
)
"""Types and values of fields that a later release may have added."""


def _drop(draw: st.DrawFn, plain: dict[str, Any]) -> dict[str, Any]:
    """Return the object without some of its optional members, at any depth."""
    kept = {}
    for name, value in plain.items():
        if name not in REQUIRED | _IN_PARAMETERS and draw(st.booleans()):
            continue
        kept[name] = _drop(draw, value) if isinstance(value, dict) else value
    return kept


def _altered(
    draw: st.DrawFn, type: StructType, value: dict[str, Any]
) -> tuple[StructType, dict[str, Any]]:
    """Return another release's Go struct and its value.

    Fields are in another order, those without a value may be missing, and others are added.
    """
    fields, values = [], {}
    for name, part in draw(st.permutations(type.fields)):
        item = value.get(name)
        if item is None and draw(st.booleans()):
            continue
        if isinstance(part, StructType) and item is not None:
            part, item = _altered(draw, part, item)
        fields.append((name, part))
        values[name] = item
    for number in range(draw(st.integers(0, 3))):
        part, item = draw(st.sampled_from(_ADDED))
        place = draw(st.integers(0, len(fields)))
        fields.insert(place, (f"Added{number}", part))
        values[f"Added{number}"] = draw(st.sampled_from([item, None]))
    return StructType(type.name, tuple(fields)), values


@st.composite
def sealed_records(draw: st.DrawFn) -> tuple[Kind, list[dict[str, Any]]]:
    """Generate a secret of another release in plain text, and encrypted by this service and the
    original.
    """
    name = draw(st.sampled_from(["token", *sorted(PROVIDERS)]))
    whole = TOKEN if name == "token" else {**UPLOAD, "provider": name, **PROVIDERS[name]}
    plain = _drop(draw, whole)
    go = _TOKEN if name == "token" else _UPLOAD
    gob = encode_gob(*_altered(draw, go.type(), go.from_json(plain)))
    for place in (
        draw(st.lists(st.sampled_from(["", *sorted(PROVIDERS[name])])))
        if name != "token"
        else draw(st.lists(st.just("")))
    ):
        (plain[place] if place else plain)["addedLater"] = {"deep": [1, {}]}
    kind: Kind
    if name == "token":
        kind, bound = TokenRecord, {"sink": str(SINK)}
        record = {**to_plain(SINK), "tokenId": "1001"}
        clear, sealed = "token", "encryptedToken"
    else:
        kind, bound = FileRecord, {"file": str(FILE)}
        record = {"FileKey": to_plain(FILE), "SinkKey": to_plain(SINK), "TableID": "t"}
        record["FileID"] = 1001
        clear, sealed = "UploadCredentials", "EncryptedCredentials"
    own = seal(AESGCM(KEY), packed(plain), bound)
    return kind, [
        {**record, clear: plain},
        {**record, sealed: "aes::" + base64.b64encode(own).decode()},
        {**record, sealed: AesEncryptor(KEY).encrypt_for_original(gob, bound)},
    ]


@given(sealed_records())
def test_secrets_of_other_releases(example: tuple[Kind, list[dict[str, Any]]]) -> None:
    """All three layouts result in the same secret, whatever members are missing, added or
    reordered.
    """
    kind, records = example
    secrets: list[Any] = [
        done(decode(kind, orjson.dumps(record)).unseal(AesEncryptor(KEY))) for record in records
    ]
    clear, own, original = secrets
    assert clear == own
    ignored: dict[str, Any] = {"unknown": {}}
    if kind is FileRecord:
        ignored["credentials"] = {
            name: value for name, value in clear.credentials.items() if name != "addedLater"
        }
    assert attrs.evolve(clear, **ignored) == original
    assert own.unknown == clear.unknown


@pytest.mark.parametrize("name", sorted({*PROVIDERS, "token"}))
def test_required_members(name: str) -> None:
    """A secret without one is refused with one kind of error, and isn't parsed as another kind."""
    whole = TOKEN if name == "token" else {**UPLOAD, "provider": name, **PROVIDERS[name]}
    go = _TOKEN if name == "token" else _UPLOAD
    for member in REQUIRED & set(whole):
        plain = {key: value for key, value in whole.items() if key != member}
        gob = encode_gob(go.type(), go.from_json(plain))
        read = token_from_go if name == "token" else upload_from_go
        with pytest.raises(ValueError):
            from_plain(SinkToken if name == "token" else FileUpload, read(decode_gob(gob)))
