"""Remote resources of a file: the order of their creation, their tokens, and their deletion."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet import reactor as _reactor

from stream.definition.entity import SYSTEM
from stream.definition.transaction import Change
from stream.encryption import encryptor_from
from stream.errors import UserError
from stream.etcd import AtomicTxn, EtcdClient, EtcdUnavailable, atomic
from stream.storage.model.key import FileKey, JobKey
from stream.storage.store.prepared import PreparedFile
from stream.target.jobs import JobRecord
from stream.target.keboola.provider import KeboolaFileProvider, load_sink_token
from stream.target.keboola.records import (
    decode_file,
    decode_token,
    encode_record,
    file_record_key,
    job_record_key,
    token_record_key,
)
from tests.storage.histories.world import SINK, SINK_KEY, SOURCE
from tests.storage.samples import OPENED_AT
from tests.target.keboola.fakes import MASTER, FakeStorageApi, refused

reactor: Any = _reactor
ENCRYPTOR = encryptor_from("aes", b"k" * 32)


@attrs.define
class Setting:
    etcd: EtcdClient
    api: FakeStorageApi
    provider: KeboolaFileProvider

    async def prepare(self, *, token: str | None = MASTER, later: int = 0) -> PreparedFile:
        opened_at = OPENED_AT + timedelta(milliseconds=later)
        return await self.provider.prepare(SOURCE, SINK, opened_at, token=token)

    async def store(self, prepared: PreparedFile) -> None:
        for key, value in prepared.records:
            await self.etcd.put(key, value)

    async def stored_token_id(self) -> str | None:
        stored = await self.etcd.get(token_record_key(SINK_KEY))
        return decode_token(stored.value).token_id if stored else None


@pytest.fixture
def setting(etcd: EtcdClient, tmp_path: Path) -> Setting:
    api = FakeStorageApi(tmp_path)
    return Setting(etcd, api, KeboolaFileProvider(etcd, api, ENCRYPTOR, reactor))


@pytest_twisted.ensureDeferred
async def test_the_order_of_creation(setting: Setting) -> None:
    """Bucket and token are created with the user's token, table and file with the new one."""
    prepared = await setting.prepare()
    assert [name for name, _ in setting.api.calls] == [
        "get_bucket",
        "create_bucket",
        "create_token",
        "get_table",
        "create_table",
        "add_table_metadata",
        "prepare_file",
    ]
    assert prepared.key == FileKey.of(SINK_KEY, OPENED_AT)
    assert prepared.table == SINK.table
    assert prepared.provider == "keboola"
    (file,) = setting.api.files.values()
    assert prepared.expiration == file.expiration
    assert [key for key, _ in prepared.records] == [
        f"storage/keboola/secret/token/{SINK_KEY}",
        f"storage/keboola/file/{prepared.key}",
    ]


@pytest_twisted.ensureDeferred
async def test_nothing_is_written_before_the_transaction(setting: Setting) -> None:
    """After a crash only remote resources remain."""
    await setting.prepare()
    assert (await setting.etcd.range("storage/")).count == 0


@pytest_twisted.ensureDeferred
async def test_records_contain_no_plain_secret(setting: Setting) -> None:
    """Token and credentials are encrypted, and can be decrypted."""
    prepared = await setting.prepare()
    (token_id, token) = list(setting.api.tokens.items())[-1]
    values = dict(prepared.records)
    assert all(token.encode() not in value and b"hush" not in value for value in values.values())
    record = decode_token(values[token_record_key(SINK_KEY)])
    assert record.token_id == token_id
    assert (await record.unseal(ENCRYPTOR)).token == token
    file = decode_file(values[file_record_key(prepared.key)])
    assert (await file.unseal(ENCRYPTOR)).credentials["secret"] == "hush"
    assert file.columns == ("body",)
    assert "hush" not in repr(prepared)
    assert token not in repr(prepared)


@pytest_twisted.ensureDeferred
async def test_background_changes_use_the_stored_token(setting: Setting) -> None:
    """No bucket is read and no token is created."""
    await setting.store(await setting.prepare())
    setting.api.calls.clear()
    prepared = await setting.prepare(token=None, later=1)
    assert [name for name, _ in setting.api.calls] == ["get_table", "prepare_file"]
    assert [key for key, _ in prepared.records] == [file_record_key(prepared.key)]


@pytest_twisted.ensureDeferred
async def test_a_token_that_is_replaced_meanwhile(setting: Setting) -> None:
    """The background change continues with the new token."""
    first = await setting.prepare()
    await setting.store(first)

    async def change() -> None:
        changed = await setting.prepare(later=1)
        await setting.store(changed)
        await setting.provider.committed(changed)

    setting.api.before["prepare_file"] = change
    prepared = await setting.prepare(token=None, later=2)
    assert len(setting.api.files) == 3
    assert [key for key, _ in prepared.records] == [file_record_key(prepared.key)]


@pytest_twisted.ensureDeferred
async def test_background_changes_need_a_stored_token(setting: Setting) -> None:
    """Without a stored token no request is sent."""
    with pytest.raises(UserError, match=r"sink token .* not found in the database") as missing:
        await setting.prepare(token=None)
    assert missing.value.status == 404
    assert setting.api.calls == []


_UNDONE = ["prepare_file", "delete_file", "delete_token"]
"""The staging file is created concurrently with the table."""


@pytest.mark.parametrize(
    ("failing", "undone"),
    [
        ("create_bucket", []),
        ("create_token", []),
        ("get_table", _UNDONE),
        ("create_table", _UNDONE),
        ("add_table_metadata", _UNDONE),
        ("prepare_file", ["delete_token"]),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_failure_deletes_created_resources(
    setting: Setting, failing: str, undone: list[str]
) -> None:
    """The error is passed on, and no token remains."""
    setting.api.failures[failing] = [refused(500)]
    with pytest.raises(UserError, match="refused"):
        await setting.prepare()
    calls = [name for name, _ in setting.api.calls]
    assert calls[calls.index(failing) + 1 :] == undone
    assert list(setting.api.tokens.values()) == [MASTER]


@pytest_twisted.ensureDeferred
async def test_a_failing_undo_hides_no_error(setting: Setting) -> None:
    """The first error is reported, not that of the undo."""
    setting.api.failures["prepare_file"] = [refused(500, "storage.first")]
    setting.api.failures["delete_token"] = [refused(500, "storage.second")]
    with pytest.raises(UserError) as problem:
        await setting.prepare()
    assert problem.value.name == "storage.first"


@pytest_twisted.ensureDeferred
async def test_discarding_in_reverse_order(setting: Setting) -> None:
    """The file is deleted with the new token, so the token is deleted last."""
    prepared = await setting.prepare()
    setting.api.calls.clear()
    await setting.provider.discard(prepared)
    assert [name for name, _ in setting.api.calls] == ["delete_file", "delete_token"]
    assert setting.api.files == {}
    assert list(setting.api.tokens.values()) == [MASTER]


@pytest_twisted.ensureDeferred
async def test_discarding_continues_after_a_failure(setting: Setting) -> None:
    """The token is deleted even if the file can't be, and no error is raised."""
    prepared = await setting.prepare()
    setting.api.failures["delete_file"] = [refused(500)]
    await setting.provider.discard(prepared)
    assert list(setting.api.tokens.values()) == [MASTER]


@pytest_twisted.ensureDeferred
async def test_discarding_keeps_the_stored_token(setting: Setting) -> None:
    """In the background only the new staging file is deleted."""
    await setting.store(await setting.prepare())
    setting.api.calls.clear()
    await setting.provider.discard(await setting.prepare(token=None, later=1))
    assert setting.api.called("delete_file", "delete_token") == [("delete_file", "1003")]


@pytest_twisted.ensureDeferred
async def test_committed_resources_are_kept(setting: Setting) -> None:
    """If only the answer of etcd was lost, the file keeps its token and staging file."""
    await setting.store(await setting.prepare())
    second = await setting.prepare(later=1)
    await setting.store(second)
    await setting.provider.discard(second)
    token_id = await setting.stored_token_id()
    assert set(setting.api.tokens) == {"1", token_id}
    assert len(setting.api.files) == 2


@pytest_twisted.ensureDeferred
async def test_a_file_of_another_sink_at_the_same_time(setting: Setting) -> None:
    """The new resources are deleted if this record wasn't stored, even if another file's was."""
    await setting.store(await setting.prepare())
    loser = await setting.prepare()
    await setting.provider.discard(loser)
    assert set(setting.api.tokens) == {"1", await setting.stored_token_id()}
    assert len(setting.api.files) == 1


@pytest_twisted.ensureDeferred
async def test_nothing_is_deleted_while_the_outcome_is_unknown(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the outcome in etcd is unknown, the token is kept: an open file needs it."""
    prepared = await setting.prepare()

    async def away(key: str, *, revision: int = 0) -> None:
        raise EtcdUnavailable("away")

    monkeypatch.setattr(setting.etcd, "get", away)
    await setting.provider.discard(prepared)
    assert len(setting.api.tokens) == 2
    assert len(setting.api.files) == 1


@pytest_twisted.ensureDeferred
async def test_the_replaced_token_is_deleted_after_the_commit(setting: Setting) -> None:
    """Until the commit, the earlier files need the token."""
    await setting.store(await setting.prepare())
    before = await setting.stored_token_id()
    second = await setting.prepare(later=1)
    assert before in setting.api.tokens
    await setting.store(second)
    await setting.provider.committed(second)
    assert set(setting.api.tokens) == {"1", await setting.stored_token_id()}
    assert before not in setting.api.tokens


async def _change(
    client: EtcdClient, body: Callable[[Change], Awaitable[None]], *, fail: bool = False
) -> None:
    async def attempt(txn: AtomicTxn) -> None:
        await body(Change(txn, OPENED_AT, SYSTEM))
        if fail:
            raise UserError("changed my mind")

    await atomic(client, attempt)


@pytest_twisted.ensureDeferred
async def test_a_disabled_sink_loses_its_token(setting: Setting) -> None:
    """The record is deleted in the transaction, and then the token with the user's token."""
    await setting.store(await setting.prepare())
    await _change(
        setting.etcd,
        lambda change: setting.provider.deactivated(change, SINK, token=MASTER),
    )
    assert await setting.stored_token_id() is None
    assert list(setting.api.tokens.values()) == [MASTER]


@pytest_twisted.ensureDeferred
async def test_a_change_that_fails_keeps_the_token(setting: Setting) -> None:
    """Remote resources are deleted only after the commit."""
    await setting.store(await setting.prepare())
    with pytest.raises(UserError, match="changed my mind"):
        await _change(
            setting.etcd,
            lambda change: setting.provider.deactivated(change, SINK, token=MASTER),
            fail=True,
        )
    assert await setting.stored_token_id() in setting.api.tokens
    assert setting.api.called("delete_token") == []


@pytest_twisted.ensureDeferred
async def test_a_sink_without_a_token_can_be_disabled(setting: Setting) -> None:
    """There is nothing to delete."""
    await _change(
        setting.etcd,
        lambda change: setting.provider.deactivated(change, SINK, token=MASTER),
    )
    assert setting.api.calls == []


@pytest_twisted.ensureDeferred
async def test_a_token_that_can_not_be_deleted_is_only_logged(setting: Setting) -> None:
    """The change succeeds despite the error."""
    await setting.store(await setting.prepare())
    setting.api.failures["delete_token"] = [refused(500)]
    await _change(
        setting.etcd,
        lambda change: setting.provider.deactivated(change, SINK, token=MASTER),
    )
    assert await setting.stored_token_id() is None


@pytest_twisted.ensureDeferred
async def test_job_records_of_a_deleted_sink(setting: Setting) -> None:
    """Job records of the sink are deleted, and those of other sinks are kept."""
    other = SINK_KEY.source_key.sink("my-sink-2")
    for sink in (SINK_KEY, other):
        job = JobKey.of(sink, "321")
        await setting.etcd.put(job_record_key(job), encode_record(JobRecord(job)))
    await _change(setting.etcd, lambda change: setting.provider.deleted(change, SINK))
    left = await setting.etcd.range("storage/keboola/job/")
    assert [kv.key for kv in left.kvs] == [f"storage/keboola/job/{other}/321"]


@pytest_twisted.ensureDeferred
async def test_the_stored_token_is_decrypted(setting: Setting) -> None:
    """The stored token works with the encryption it was stored with, and with no other."""
    await setting.store(await setting.prepare())
    token = await load_sink_token(setting.etcd, ENCRYPTOR, SINK_KEY)
    assert token.value in setting.api.tokens.values()
    with pytest.raises(UserError, match="token decryption failed"):
        await load_sink_token(setting.etcd, encryptor_from("aes", b"x" * 32), SINK_KEY)
