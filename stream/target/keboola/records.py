"""Etcd records of the target Keboola: sink tokens, upload credentials, running jobs.

If encryption is configured, tokens and credentials are encrypted, each bound to its record.
"""

from __future__ import annotations

from typing import Any

import attrs

from stream.definition.key import SinkKey
from stream.encryption.gob import Struct
from stream.encryption.interface import DecryptionFailed, Encryptor
from stream.errors import UserError
from stream.staging.upload import FileUpload
from stream.storage.model.key import FileKey, JobKey
from stream.target.jobs import JobRecord
from stream.target.keboola.original import token_from_go, upload_from_go
from stream.target.keboola.values import SinkToken
from stream.values.codec import Record, decode, encode, field, from_plain, to_plain
from stream.values.utctime import format_time

__all__ = [
    "JOBS",
    "FileRecord",
    "KeyOfFile",
    "KeyOfSink",
    "TokenRecord",
    "file_record_key",
    "job_record_key",
    "job_records_of",
    "token_record_key",
]

JOBS = "storage/keboola/job/"


def token_record_key(sink: SinkKey) -> str:
    """Return the etcd key of a sink's token."""
    return f"storage/keboola/secret/token/{sink}"


def file_record_key(file: FileKey) -> str:
    """Return the etcd key of a file's record."""
    return f"storage/keboola/file/{file}"


def job_record_key(job: JobKey) -> str:
    """Return the etcd key of a job's record."""
    return f"{JOBS}{job}"


def job_records_of(sink: SinkKey) -> str:
    """Return the etcd prefix of the records of a sink's running jobs."""
    return f"{JOBS}{sink}/"


@attrs.frozen
class TokenRecord(Record):
    """The token that the service uses for a sink in the background."""

    key: SinkKey = field(flatten=True)
    token: SinkToken | None = field(default=None, keep_none=True, repr=False)
    token_id: str = ""
    encrypted_token: str = field(default="", repr=False)

    @classmethod
    async def seal(cls, sink: SinkKey, token: SinkToken, encryptor: Encryptor) -> TokenRecord:
        """Return the record of a token, encrypted if encryption is configured."""
        encrypted = await encryptor.encrypt(to_plain(token), {"sink": str(sink)})
        return cls(sink, None if encrypted else token, token.id, encrypted)

    async def unseal(self, encryptor: Encryptor) -> SinkToken:
        """Return the token.

        Raises UserError: the token can't be decrypted, and no plain token is stored.
        """
        if not self.encrypted_token and self.token is not None:
            return self.token
        try:
            plain = await encryptor.decrypt(self.encrypted_token, {"sink": str(self.key)})
        except DecryptionFailed as error:
            if self.token is not None:
                return self.token
            raise UserError(
                f"token decryption failed and unencrypted token is missing: {error}",
                status=500,
                name="tokenDecryptionFailed",
            ) from None
        return from_plain(SinkToken, token_from_go(plain) if isinstance(plain, Struct) else plain)


@attrs.frozen
class KeyOfFile(Record):
    """The key of a file as a separate object within another record."""

    key: FileKey = field(flatten=True)


@attrs.frozen
class KeyOfSink(Record):
    """The key of a sink as a separate object within another record."""

    key: SinkKey = field(flatten=True)


def _known_file_id(file_id: int, record: Any) -> int:
    if file_id:
        return file_id
    if record.upload is None:
        raise ValueError('"FileID" is missing in FileRecord')
    upload: FileUpload = record.upload
    return upload.id


@attrs.frozen(kw_only=True)
class FileRecord(Record):
    """The staging file of a file, with its upload parameters and its import job.

    :ivar storage_job_id: ID of the import job, once it is started.
    :ivar import_asked: whether an import job may have been started although its ID is unknown.
    """

    file: KeyOfFile = field(name="FileKey")
    sink: KeyOfSink = field(
        name="SinkKey",
        default=attrs.Factory(lambda self: KeyOfSink(self.file.key.sink_key), takes_self=True),
    )
    table_id: str = field(name="TableID")
    columns: tuple[str, ...] = field(name="Columns", default=())
    storage_job_id: int | None = field(name="StorageJobID", default=None, keep_none=True)
    upload: FileUpload | None = field(
        name="UploadCredentials", default=None, keep_none=True, repr=False
    )
    encrypted_upload: str = field(name="EncryptedCredentials", default="", repr=False)
    file_id: int = field(
        name="FileID", default=0, converter=attrs.Converter(_known_file_id, takes_self=True)
    )
    file_name: str = field(name="FileName", default="")
    expiration: str = field(name="CredentialsExpiration", default="")
    import_asked: bool = field(name="ImportAsked", default=False, omit_empty=True)

    @property
    def file_key(self) -> FileKey:
        """The key of the file."""
        return self.file.key

    @property
    def sink_key(self) -> SinkKey:
        """The key of the file's sink."""
        return self.sink.key

    @classmethod
    async def seal(
        cls,
        file: FileKey,
        table_id: str,
        columns: tuple[str, ...],
        upload: FileUpload,
        encryptor: Encryptor,
    ) -> FileRecord:
        """Return the record of a file, with encrypted credentials if encryption is configured."""
        encrypted = await encryptor.encrypt(to_plain(upload), {"file": str(file)})
        return cls(
            file=KeyOfFile(file),
            sink=KeyOfSink(file.sink_key),
            table_id=table_id,
            columns=columns,
            storage_job_id=None,
            upload=None if encrypted else upload,
            encrypted_upload=encrypted,
            file_id=upload.id,
            file_name=upload.name,
            expiration=format_time(upload.expiration) if upload.expiration else "",
        )

    async def unseal(self, encryptor: Encryptor) -> FileUpload:
        """Return the upload credentials. Raises UserError if they can't be decrypted."""
        if not self.encrypted_upload and self.upload is not None:
            return self.upload
        try:
            plain = await encryptor.decrypt(self.encrypted_upload, {"file": str(self.file_key)})
        except DecryptionFailed as error:
            raise UserError(
                f"upload credentials of the file {self.file_key} can't be decrypted: {error}",
                status=500,
                name="credentialsDecryptionFailed",
            ) from None
        return from_plain(FileUpload, upload_from_go(plain) if isinstance(plain, Struct) else plain)


def decode_token(data: bytes) -> TokenRecord:
    """Decode the record of a token."""
    return decode(TokenRecord, data)


def decode_file(data: bytes) -> FileRecord:
    """Decode the record of a file."""
    return decode(FileRecord, data)


def encode_record(record: TokenRecord | FileRecord | JobRecord) -> bytes:
    """Encode a record for etcd."""
    return encode(record)
