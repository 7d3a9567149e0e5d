"""The bridge's records in etcd: keys, JSON, and encrypted members."""

from __future__ import annotations

from datetime import UTC, datetime

import attrs
import orjson
import pytest

from stream.encryption import encryptor_from
from stream.encryption.interface import Encryptor
from stream.errors import UserError
from stream.staging import FileUpload
from stream.storage.model.key import FileKey, JobKey
from stream.target.jobs import JobRecord
from stream.target.keboola.records import (
    FileRecord,
    KeyOfFile,
    TokenRecord,
    decode_file,
    decode_token,
    encode_record,
    file_record_key,
    job_record_key,
    job_records_of,
    token_record_key,
)
from stream.target.keboola.values import SinkToken
from tests.encryption.steps import done
from tests.storage.histories.world import SINK_KEY
from tests.storage.samples import OPENED_AT

CLEAR = encryptor_from("none")
SEALED = encryptor_from("aes", b"k" * 32)
OTHER = encryptor_from("aes", b"x" * 32)

FILE = FileKey.of(SINK_KEY, OPENED_AT)
TOKEN = SinkToken("1001", "description", token="the-secret")
UPLOAD = FileUpload(
    7,
    "my-source_my-sink_20000101010000",
    "aws",
    "eu",
    {"key": "exp/7/", "credentials": {"SecretAccessKey": "the-secret"}},
    datetime(2000, 1, 1, 13, tzinfo=UTC),
)


def _file(encryptor: Encryptor) -> FileRecord:
    return done(FileRecord.seal(FILE, "in.c-bucket.table", ("id", "body"), UPLOAD, encryptor))


def test_keys_of_records() -> None:
    """The key of each record begins with that of its sink."""
    assert token_record_key(SINK_KEY) == "storage/keboola/secret/token/123/456/my-source/my-sink"
    assert (
        file_record_key(FILE)
        == "storage/keboola/file/123/456/my-source/my-sink/2000-01-01T01:00:00.000Z"
    )
    assert job_record_key(JobKey.of(SINK_KEY, "321")) == f"{job_records_of(SINK_KEY)}321"
    assert job_records_of(SINK_KEY) == "storage/keboola/job/123/456/my-source/my-sink/"


def test_a_token_record_in_plain_text() -> None:
    """Without encryption the token is stored unchanged, and the encrypted text is empty."""
    assert encode_record(done(TokenRecord.seal(SINK_KEY, TOKEN, CLEAR))) == (
        b'{"projectId":123,"branchId":456,"sourceId":"my-source","sinkId":"my-sink",'
        b'"token":{"id":"1001","description":"description","token":"the-secret"},'
        b'"tokenId":"1001","encryptedToken":""}'
    )


def test_an_encrypted_token_record() -> None:
    """With encryption the plain text is null."""
    plain = orjson.loads(encode_record(done(TokenRecord.seal(SINK_KEY, TOKEN, SEALED))))
    assert plain["token"] is None
    assert plain["tokenId"] == "1001"
    assert plain["encryptedToken"].startswith("aes::")


def test_a_file_record_in_plain_text() -> None:
    """The members keep their capitals."""
    plain = orjson.loads(encode_record(_file(CLEAR)))
    assert list(plain) == [
        "FileKey",
        "SinkKey",
        "TableID",
        "Columns",
        "StorageJobID",
        "UploadCredentials",
        "EncryptedCredentials",
        "FileID",
        "FileName",
        "CredentialsExpiration",
    ]
    assert plain["StorageJobID"] is None
    assert plain["FileID"] == 7
    assert plain["Columns"] == ["id", "body"]
    assert plain["CredentialsExpiration"] == "2000-01-01T13:00:00.000Z"


def test_a_job_record() -> None:
    """A job record consists of its key."""
    assert encode_record(JobRecord(JobKey.of(SINK_KEY, "321"))) == (
        b'{"projectId":123,"branchId":456,"sourceId":"my-source","sinkId":"my-sink","jobId":"321"}'
    )


@pytest.mark.parametrize("encryptor", [CLEAR, SEALED])
def test_round_trips(encryptor: Encryptor) -> None:
    """Decrypted records equal the original ones."""
    token = decode_token(encode_record(done(TokenRecord.seal(SINK_KEY, TOKEN, encryptor))))
    assert done(token.unseal(encryptor)) == TOKEN
    file = decode_file(encode_record(_file(encryptor)))
    assert done(file.unseal(encryptor)) == UPLOAD


def test_plain_values_are_read_with_encryption() -> None:
    """Records from before the encryption was enabled are still read."""
    assert done(done(TokenRecord.seal(SINK_KEY, TOKEN, CLEAR)).unseal(SEALED)) == TOKEN
    assert done(_file(CLEAR).unseal(SEALED)) == UPLOAD


def test_another_key() -> None:
    """The errors name the problem, without secrets."""
    with pytest.raises(UserError, match="token decryption failed and unencrypted token") as error:
        done(done(TokenRecord.seal(SINK_KEY, TOKEN, SEALED)).unseal(OTHER))
    assert "the-secret" not in str(error.value)
    with pytest.raises(UserError, match=r"credentials of the file .* can't be decrypted") as error:
        done(_file(SEALED).unseal(OTHER))
    assert "the-secret" not in str(error.value)


def test_an_encrypted_value_belongs_to_its_record() -> None:
    """A copy in another sink's or file's record can't be decrypted."""
    token = attrs.evolve(
        done(TokenRecord.seal(SINK_KEY, TOKEN, SEALED)), key=SINK_KEY.source_key.sink("another")
    )
    with pytest.raises(UserError, match="token decryption failed"):
        done(token.unseal(SEALED))
    file = attrs.evolve(_file(SEALED), file=KeyOfFile(FileKey.of(SINK_KEY, datetime.now(UTC))))
    with pytest.raises(UserError, match="can't be decrypted"):
        done(file.unseal(SEALED))


@pytest.mark.parametrize("record", [done(TokenRecord.seal(SINK_KEY, TOKEN, CLEAR)), _file(CLEAR)])
def test_records_are_printed_without_secrets(record: object) -> None:
    """A record can be logged."""
    assert "the-secret" not in repr(record)
