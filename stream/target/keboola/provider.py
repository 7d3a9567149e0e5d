"""Creates staging files, tables and tokens for the files of sinks.

It implements `stream.storage.store.prepared.FileProvider`.

If a file isn't opened after all, its staging file and the new token are deleted. A new table or
bucket is kept, since another sink may already use it, and the next attempt finds it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, TypeVar, cast

import attrs
from twisted.internet.defer import ensureDeferred
from twisted.logger import Logger

from stream.concurrency.deadline import within
from stream.concurrency.together import together
from stream.definition.entity import Sink, Source
from stream.definition.key import SinkKey
from stream.definition.mappings import with_mapping
from stream.definition.transaction import Change
from stream.encryption.interface import Encryptor
from stream.errors import UserError
from stream.etcd import EtcdClient, EtcdError
from stream.staging.upload import FileUpload
from stream.storage.model.key import FileKey
from stream.storage.store.prepared import PreparedFile
from stream.target.keboola.client import StorageApi
from stream.target.keboola.destination import bucket_of, ensure_bucket, ensure_table
from stream.target.keboola.errors import StorageApiError
from stream.target.keboola.records import (
    FileRecord,
    TokenRecord,
    decode_file,
    decode_token,
    encode_record,
    file_record_key,
    job_records_of,
    token_record_key,
)
from stream.target.keboola.values import SinkToken
from stream.values.token import Token

__all__ = ["KeboolaFileProvider", "load_file_record", "load_sink_token", "with_sink_token"]

_log = Logger()
T = TypeVar("T")

PROVIDER = "keboola"
_UNDO_SECONDS = 30.0
_TOKEN_REFUSED = 401


async def load_sink_token(client: EtcdClient, encryptor: Encryptor, sink: SinkKey) -> Token:
    """Return the token that the sink uses. Raises UserError 404 if there is none."""
    stored = await client.get(token_record_key(sink))
    if stored is None:
        raise UserError(
            f'sink token "{sink}" not found in the database', status=404, name="sinkTokenNotFound"
        )
    return Token.of((await decode_token(stored.value).unseal(encryptor)).token)


async def load_file_record(client: EtcdClient, file: FileKey) -> FileRecord:
    """Return the file's record. Raises UserError 404 if there is none."""
    stored = await client.get(file_record_key(file))
    if stored is None:
        raise UserError(
            f'keboola file "{file}" not found in the database',
            status=404,
            name="keboolaFileNotFound",
        )
    return decode_file(stored.value)


async def with_sink_token(
    client: EtcdClient, encryptor: Encryptor, sink: SinkKey, use: Callable[[Token], Awaitable[T]]
) -> T:
    """Call *use* with the sink's token; return its result.

    When a user changes the sink, the token is replaced, and the previous token is deleted
    immediately, even if it is in use. So if a token is refused that has been replaced, the call is
    retried with the new token.

    :param use: uses the token; may be called several times.
    """
    token = await load_sink_token(client, encryptor, sink)
    while True:
        try:
            return await use(token)
        except StorageApiError as error:
            if error.status != _TOKEN_REFUSED:
                raise
            refused, token = token, await load_sink_token(client, encryptor, sink)
            if token == refused:
                raise


@attrs.define
class _Made:
    """Remote resources of a file, in the order of their creation, for rollback.

    :ivar user: token of the user; ``None`` in the background.
    :ivar sink_token: token to use: the new one for a user, the stored one in the background.
    :ivar new_token_id: ID of the token created for the user.
    :ivar replaced: ID of the sink's previous token, which is obsolete once the new one is stored.
    """

    user: Token | None
    sink_token: Token | None = None
    new_token_id: str = ""
    replaced: str = ""
    file_id: int = 0


@attrs.frozen
class _KeboolaFile(PreparedFile):
    """A prepared file, with what is needed to roll it back."""

    made: _Made = attrs.field(repr=False, eq=False)


class KeboolaFileProvider:
    """A `stream.storage.store.prepared.FileProvider` that uses the Storage API."""

    def __init__(
        self, client: EtcdClient, api: StorageApi, encryptor: Encryptor, reactor: Any
    ) -> None:
        self._client = client
        self._api = api
        self._encryptor = encryptor
        self._reactor = reactor

    async def prepare(
        self, source: Source, sink: Sink, opened_at: datetime, *, token: str | None
    ) -> PreparedFile:
        sink = await with_mapping(self._client, sink)
        if token is not None:
            return await self._prepare(sink, opened_at, _Made(Token.of(token)))

        def prepare(stored: Token) -> Awaitable[PreparedFile]:
            return self._prepare(sink, opened_at, _Made(None, stored))

        return await with_sink_token(self._client, self._encryptor, sink.key, prepare)

    async def _prepare(self, sink: Sink, opened_at: datetime, made: _Made) -> PreparedFile:
        file = FileKey.of(sink.key, opened_at)
        try:
            records = await self._ensure_token(sink, made)
            upload = await self._ensure_file(sink, opened_at, made)
            columns = tuple(column.name for column in sink.table.mapping.columns)
            record = await FileRecord.seal(
                file, sink.table.table_id, columns, upload, self._encryptor
            )
        except BaseException:
            await self._undo(made, sink.key.branch_id)
            raise
        records.append((file_record_key(file), encode_record(record)))
        return _KeboolaFile(file, sink.table, PROVIDER, upload.expiration, tuple(records), made)

    async def renew(self, sink: Sink, file: FileKey) -> PreparedFile:
        """Renew the staging with the columns of *file*, even if the sink now has different ones."""

        def renew(stored: Token) -> Awaitable[PreparedFile]:
            return self._renew(sink, file, _Made(None, stored))

        return await with_sink_token(self._client, self._encryptor, sink.key, renew)

    async def _renew(self, sink: Sink, file: FileKey, made: _Made) -> PreparedFile:
        before = await load_file_record(self._client, file)
        try:
            upload = await self._prepare_file(sink.key, file.file_opened_at, made)
            record = await FileRecord.seal(
                file, before.table_id, before.columns, upload, self._encryptor
            )
        except BaseException:
            await self._undo(made, sink.key.branch_id)
            raise
        records = ((file_record_key(file), encode_record(record)),)
        return _KeboolaFile(file, sink.table, PROVIDER, upload.expiration, records, made)

    async def _ensure_token(self, sink: Sink, made: _Made) -> list[tuple[str, bytes]]:
        """Return the stored token in the background, or a new one for a user.

        The result includes the records to write.
        """
        if made.user is None:
            return []
        created = await self._new_token(sink, made.user, made)
        record = await TokenRecord.seal(sink.key, created, self._encryptor)
        return [(token_record_key(sink.key), encode_record(record))]

    async def _new_token(self, sink: Sink, user: Token, made: _Made) -> SinkToken:
        """Create a token for the sink, since its bucket may have changed."""
        bucket_id = bucket_of(sink.table.table_id)
        _, before = await together(
            ensure_bucket(self._api, user, sink.key.branch_id, bucket_id),
            self._client.get(token_record_key(sink.key)),
        )
        created = await self._api.create_token(
            user, source_id=sink.key.source_id, sink_id=sink.key.sink_id, bucket_id=bucket_id
        )
        made.new_token_id = created.id
        made.sink_token = Token.of(created.token)
        made.replaced = decode_token(before.value).token_id if before else ""
        return created

    async def _ensure_file(self, sink: Sink, opened_at: datetime, made: _Made) -> FileUpload:
        """Prepare the table and the staging file concurrently, since neither needs the other."""
        assert made.sink_token is not None
        _, upload = await together(
            ensure_table(self._api, made.sink_token, sink),
            self._prepare_file(sink.key, opened_at, made),
        )
        return cast(FileUpload, upload)

    async def _prepare_file(self, sink: SinkKey, opened_at: datetime, made: _Made) -> FileUpload:
        assert made.sink_token is not None
        upload = await self._api.prepare_file(
            made.sink_token,
            sink.branch_id,
            source_id=sink.source_id,
            sink_id=sink.sink_id,
            opened_at=opened_at,
        )
        made.file_id = upload.id
        return upload

    async def discard(self, prepared: PreparedFile) -> None:
        """Roll back unless the file is open, which it may be if etcd's answer was lost."""
        assert isinstance(prepared, _KeboolaFile)
        try:
            stored = await self._client.get(file_record_key(prepared.key))
        except EtcdError as error:
            # An unused token and file do less harm than a sink whose token is deleted.
            _log.warn(
                "cannot undo the preparation of the file {file_id}: {error}",
                file_id=str(prepared.key),
                error=error,
            )
            return
        if stored is not None and stored.value in (value for _, value in prepared.records):
            await self.committed(prepared)
        else:
            await self._undo(prepared.made, prepared.key.branch_id)

    async def _undo(self, made: _Made, branch_id: int) -> None:
        if made.file_id and made.sink_token is not None:
            await self._best_effort(
                self._api.delete_file(made.sink_token, branch_id, made.file_id),
                f"cannot delete the staging file {made.file_id}",
            )
        if made.user is not None and made.new_token_id:
            await self._delete_token(made.user, made.new_token_id)

    async def committed(self, prepared: PreparedFile) -> None:
        assert isinstance(prepared, _KeboolaFile)
        made = prepared.made
        if made.user is not None and made.replaced:
            await self._delete_token(made.user, made.replaced)

    async def deactivated(self, change: Change, sink: Sink, *, token: str | None) -> None:
        """Delete the sink's token after the transaction has deleted its record.

        Only the user's token may delete tokens; the sink's own token may not.
        """
        stored = await change.txn.get(token_record_key(sink.key))
        if stored is None:
            return
        change.txn.delete(token_record_key(sink.key))
        if token is None:
            return
        user, token_id = Token.of(token), decode_token(stored.value).token_id

        def delete_token(_: int) -> None:
            ensureDeferred(self._delete_token(user, token_id)).addErrback(
                lambda failure: _log.failure("cannot delete a token", failure)
            )

        change.txn.on_commit(delete_token)

    async def deleted(self, change: Change, sink: Sink) -> None:
        change.txn.delete_prefix(job_records_of(sink.key))

    async def _delete_token(self, user: Token, token_id: str) -> None:
        await self._best_effort(
            self._api.delete_token(user, token_id), f"cannot delete the token {token_id}"
        )

    async def _best_effort(self, undoing: Awaitable[object], complaint: str) -> None:
        waiting = ensureDeferred(_awaited(undoing))
        within(waiting, _UNDO_SECONDS, self._reactor, "undoing")
        try:
            await waiting
        except Exception as error:
            _log.warn("{complaint}: {error}", complaint=complaint, error=error)


async def _awaited(awaitable: Awaitable[object]) -> None:
    await awaitable
