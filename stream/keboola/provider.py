"""Staging files, tables and tokens for the files of sinks; see `stream.storage.prepared`."""

from __future__ import annotations

from collections.abc import Awaitable
from datetime import datetime
from typing import Any

import attrs
from twisted.internet.defer import ensureDeferred
from twisted.logger import Logger

from stream.definition.change import Change
from stream.definition.entity import Sink, Source
from stream.definition.key import SinkKey
from stream.encryption.interface import IEncryptor
from stream.errors import UserError
from stream.etcd import EtcdClient
from stream.keboola.client import StorageApi
from stream.keboola.destination import bucket_of, ensure_bucket, ensure_table
from stream.keboola.records import (
    FileRecord,
    TokenRecord,
    decode_token,
    encode_record,
    file_record_key,
    job_records_of,
    token_record_key,
)
from stream.keboola.token import Token
from stream.staging.upload import FileUpload
from stream.storage.key import FileKey
from stream.storage.prepared import PreparedFile

__all__ = ["KeboolaFileProvider", "load_sink_token"]

_log = Logger()

PROVIDER = "keboola"
_UNDO_SECONDS = 30.0


async def load_sink_token(client: EtcdClient, encryptor: IEncryptor, sink: SinkKey) -> Token:
    """The token that the sink works with. Raises UserError 404 if there is none."""
    stored = await client.get(token_record_key(sink))
    if stored is None:
        raise UserError(
            f'sink token "{sink}" not found in the database', status=404, name="sinkTokenNotFound"
        )
    return Token.of(decode_token(stored.value).unseal(encryptor).token)


@attrs.define
class _Made:
    """What was made remotely for a file, in order, so that it can be undone.

    :ivar user: the token of the user who asked; ``None`` in the background.
    :ivar replaced: id of the sink's earlier token, obsolete once the new one is stored.
    """

    sink_token: Token
    user: Token | None = None
    new_token_id: str = ""
    replaced: str = ""
    file_id: int = 0


class KeboolaFileProvider:
    """A `stream.storage.prepared.FileProvider` over the Storage API."""

    def __init__(
        self, client: EtcdClient, api: StorageApi, encryptor: IEncryptor, reactor: Any
    ) -> None:
        self._client = client
        self._api = api
        self._encryptor = encryptor
        self._reactor = reactor
        self._made: dict[FileKey, _Made] = {}

    async def prepare(
        self, source: Source, sink: Sink, opened_at: datetime, *, token: str | None
    ) -> PreparedFile:
        file = FileKey.of(sink.key, opened_at)
        records: list[tuple[str, bytes]] = []
        if token is None:
            made = _Made(await load_sink_token(self._client, self._encryptor, sink.key))
        else:
            made = await self._new_token(sink, Token.of(token), records)
        self._made[file] = made
        try:
            upload = await self._ensure_file(sink, opened_at, made)
        except BaseException:
            await self._undo(file, sink.key.branch_id)
            raise
        made.file_id = upload.id
        columns = tuple(column.name for column in sink.table.mapping.columns)
        record = FileRecord.seal(
            file, sink.table.keboola.table_id, columns, upload, self._encryptor
        )
        records.append((file_record_key(file), encode_record(record)))
        return PreparedFile(file, sink.table, PROVIDER, upload.expiration, tuple(records))

    async def _new_token(self, sink: Sink, user: Token, records: list[tuple[str, bytes]]) -> _Made:
        """A token of the sink's own, made anew since its bucket may have changed."""
        bucket_id = bucket_of(sink.table.keboola.table_id)
        await ensure_bucket(self._api, user, sink.key.branch_id, bucket_id)
        before = await self._client.get(token_record_key(sink.key))
        created = await self._api.create_token(
            user, source_id=sink.key.source_id, sink_id=sink.key.sink_id, bucket_id=bucket_id
        )
        record = TokenRecord.seal(sink.key, created, self._encryptor)
        records.append((token_record_key(sink.key), encode_record(record)))
        return _Made(
            Token.of(created.token),
            user,
            created.id,
            decode_token(before.value).token_id if before else "",
        )

    async def _ensure_file(self, sink: Sink, opened_at: datetime, made: _Made) -> FileUpload:
        await ensure_table(self._api, made.sink_token, sink)
        return await self._api.prepare_file(
            made.sink_token,
            sink.key.branch_id,
            source_id=sink.key.source_id,
            sink_id=sink.key.sink_id,
            opened_at=opened_at,
        )

    async def discard(self, prepared: PreparedFile) -> None:
        await self._undo(prepared.key, prepared.key.branch_id)

    async def _undo(self, file: FileKey, branch_id: int) -> None:
        made = self._made.pop(file, None)
        if made is None:
            return
        if made.file_id:
            await self._best_effort(
                self._api.delete_file(made.sink_token, branch_id, made.file_id),
                f"cannot delete the staging file {made.file_id}",
            )
        if made.user is not None and made.new_token_id:
            await self._best_effort(
                self._api.delete_token(made.user, made.new_token_id),
                f"cannot delete the token {made.new_token_id}",
            )

    async def committed(self, prepared: PreparedFile) -> None:
        made = self._made.pop(prepared.key, None)
        if made is not None and made.user is not None and made.replaced:
            await self._best_effort(
                self._api.delete_token(made.user, made.replaced),
                f"cannot delete the replaced token {made.replaced}",
            )

    async def deactivated(self, change: Change, sink: Sink) -> None:
        """The token record goes with the transaction, the token itself after it."""
        stored = await change.txn.get(token_record_key(sink.key))
        if stored is None:
            return
        change.txn.delete(token_record_key(sink.key))
        record = decode_token(stored.value)

        def delete_token(_: int) -> None:
            token = Token.of(record.unseal(self._encryptor).token)
            ensureDeferred(
                self._best_effort(
                    self._api.delete_token(token, record.token_id),
                    f"cannot delete the token {record.token_id}",
                )
            ).addErrback(lambda failure: _log.failure("cannot delete a token", failure))

        change.txn.on_commit(delete_token)

    async def deleted(self, change: Change, sink: Sink) -> None:
        change.txn.delete_prefix(job_records_of(sink.key))

    async def _best_effort(self, undoing: Awaitable[object], complaint: str) -> None:
        waiting = ensureDeferred(_awaited(undoing))
        waiting.addTimeout(_UNDO_SECONDS, self._reactor)
        try:
            await waiting
        except Exception as error:
            _log.warn("{complaint}: {error}", complaint=complaint, error=error)


async def _awaited(awaitable: Awaitable[object]) -> None:
    await awaitable
