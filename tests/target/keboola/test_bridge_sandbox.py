"""The whole bridge over real HTTP: definitions, uploads and imports with the sandbox."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_twisted

from stream.definition import lifecycle
from stream.definition.repository import Definitions
from stream.definition.transaction import Change
from stream.encryption import encryptor_from
from stream.errors import UserError
from stream.etcd import EtcdClient
from stream.storage.model.state import FileState
from stream.target.keboola import JobFailed, StorageApiError
from stream.target.keboola.provider import load_file_record, load_sink_token
from tests.sandbox.api import MASTER
from tests.storage.histories.world import BY, SINK_KEY, TABLE
from tests.target.keboola.bridge import BUCKET_ID, TABLE_ID, Bridge, running_bridge
from tests.waiting import until


@pytest_twisted.async_yield_fixture()
async def bridge(etcd: EtcdClient, tmp_path: Path) -> AsyncIterator[Bridge]:
    """A bridge with a source and no sink."""
    async with running_bridge(etcd, tmp_path) as running:
        yield running


@pytest_twisted.ensureDeferred
async def test_a_new_sink(bridge: Bridge) -> None:
    """A new sink has bucket, table, metadata, staging file and a token for only its bucket."""
    file = await bridge.create_sink()
    table = await bridge.api.get_table(MASTER, 456, TABLE_ID)
    assert (table.columns, table.primary_key) == (("body",), ())
    assert table.metadata_value("KBC.stream.sink.id") == SINK_KEY.sink_id
    (token,) = bridge.api.tokens
    assert await bridge.is_valid(token)
    with pytest.raises(StorageApiError) as caught:
        await bridge.api.get_table(token.token, 456, "in.c-other.table")
    assert caught.value.status == 403
    record = await load_file_record(bridge.storage.client, file.key)
    assert [record.file_id] == bridge.api.file_ids
    assert await bridge.staged(record.file_id)
    await bridge.storage.check()


@pytest_twisted.ensureDeferred
async def test_secrets_in_etcd(bridge: Bridge) -> None:
    """Stored records contain no tokens and no upload credentials in plain text."""
    file = await bridge.create_sink()
    (token,) = bridge.api.tokens
    record = await load_file_record(bridge.storage.client, file.key)
    encryptor = encryptor_from("aes", b"k" * 32)
    directory = (await record.unseal(encryptor)).credentials["directory"]
    stored = b"".join((await bridge.everything()).values())
    for secret in (MASTER, token.token, directory):
        assert secret.encode() not in stored
    found = await load_sink_token(bridge.storage.client, encryptor, SINK_KEY)
    assert (await bridge.api.verify_token(found)).id == token.id


@pytest_twisted.ensureDeferred
async def test_an_update_replaces_the_token(bridge: Bridge) -> None:
    """An update creates a new token and deletes the previous one; each file has its
    staging file.
    """
    await bridge.create_sink()
    await bridge.rename()
    before, after = bridge.api.tokens
    assert not await bridge.is_valid(before)
    assert await bridge.is_valid(after)
    assert [await bridge.staged(file_id) for file_id in bridge.api.file_ids] == [True, True]


@pytest.mark.parametrize(
    "route", ["getBucket", "createBucket", "createToken", "getTable", "createTable", "prepareFile"]
)
@pytest_twisted.ensureDeferred
async def test_failure_at_each_step(bridge: Bridge, route: str) -> None:
    """If one call is refused, no sink is created, and no token or staging file remains."""
    before = await bridge.everything()
    await bridge.sandbox.fault(route, status=403)
    with pytest.raises(UserError, match="Injected fault"):
        await bridge.create_sink()
    assert await bridge.everything() == before
    assert [await bridge.is_valid(token) for token in bridge.api.tokens] in ([], [False])
    # The file is created concurrently with the table.
    assert [await bridge.staged(file_id) for file_id in bridge.api.file_ids] in ([], [False])
    await bridge.create_sink()
    assert await bridge.is_valid(bridge.api.tokens[-1])


@pytest_twisted.ensureDeferred
async def test_a_failed_update(bridge: Bridge) -> None:
    """A refused update keeps the sink with its file and its valid token."""
    file = await bridge.create_sink()
    before = await bridge.everything()
    await bridge.sandbox.fault("prepareFile", status=403)
    with pytest.raises(UserError):
        await bridge.rename()
    assert await bridge.everything() == before
    assert [await bridge.is_valid(token) for token in bridge.api.tokens] == [True, False]
    assert (await bridge.storage.file(file.key)).state is FileState.WRITING


@pytest_twisted.ensureDeferred
async def test_a_failed_commit(bridge: Bridge) -> None:
    """If the commit fails, everything except bucket and table is deleted."""

    async def body(change: Change, definitions: Definitions) -> None:
        await definitions.create_sink(
            change, lifecycle.new_sink(SINK_KEY, name="S", table=TABLE, at=change.now, by=BY)
        )
        if bridge.api.file_ids:
            raise UserError("on second thoughts")

    with pytest.raises(UserError, match="on second thoughts"):
        await bridge.changes.run(body)
    assert [await bridge.is_valid(token) for token in bridge.api.tokens] == [False]
    assert [await bridge.staged(file_id) for file_id in bridge.api.file_ids] == [False]


@pytest.mark.parametrize(
    ("columns", "key", "message"),
    [
        (
            ["id", "body"],
            [],
            f'columns of the table "{TABLE_ID}" do not match '
            'expected ["body"], found ["id","body"]',
        ),
        (
            ["body"],
            ["body"],
            f'primary key of the table "{TABLE_ID}" does not match expected [], found ["body"]',
        ),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_table_with_other_columns_is_refused(
    bridge: Bridge, columns: list[str], key: list[str], message: str
) -> None:
    """The table is unchanged."""
    await bridge.api.create_bucket(MASTER, 456, BUCKET_ID)
    await bridge.api.create_table(MASTER, 456, TABLE_ID, columns=columns, primary_key=key)
    with pytest.raises(UserError) as caught:
        await bridge.create_sink()
    assert caught.value.message == message
    assert [await bridge.is_valid(token) for token in bridge.api.tokens] == [False]
    table = await bridge.api.get_table(MASTER, 456, TABLE_ID)
    assert (table.columns, table.metadata) == (tuple(columns), ())


@pytest.mark.parametrize("method", ["disable_sink", "delete_sink"])
@pytest_twisted.ensureDeferred
async def test_a_disabled_sink_loses_its_token(bridge: Bridge, method: str) -> None:
    """A sink that is disabled or deleted loses its token, and enabling creates another."""
    await bridge.create_sink()
    (token,) = bridge.api.tokens
    bridge.storage.tick()
    await bridge.do(method, SINK_KEY)

    async def is_gone() -> bool:
        return not await bridge.is_valid(token)

    await until(is_gone)
    with pytest.raises(UserError, match="not found in the database"):
        await load_sink_token(bridge.storage.client, encryptor_from("none", b""), SINK_KEY)
    bridge.storage.tick()
    await bridge.do("enable_sink" if method == "disable_sink" else "undelete_sink", SINK_KEY)
    assert await bridge.is_valid(bridge.api.tokens[-1])


@pytest_twisted.ensureDeferred
async def test_rows_are_imported(bridge: Bridge) -> None:
    """Every row of every slice is in the table once."""
    file = await bridge.importing_file(b'"a"\n"b"\n', b'"c"\n', b'"d"\n')
    await bridge.importer.import_file(file)
    assert await bridge.sandbox.rows_count(TABLE_ID) == 4
    await bridge.storage.to_imported(file.key)
    await bridge.storage.check()


@pytest_twisted.ensureDeferred
async def test_a_crash_during_an_import(bridge: Bridge) -> None:
    """The next attempt waits for the same job, and no row is duplicated."""
    file = await bridge.importing_file(b'"a"\n"b"\n')
    bridge.api.wait_fails = RuntimeError("the process ends here")
    with pytest.raises(RuntimeError):
        await bridge.importer.import_file(file)
    record = await load_file_record(bridge.storage.client, file.key)
    assert record.storage_job_id is not None
    jobs = (await bridge.storage.client.range("storage/keboola/job/")).kvs
    assert [kv.key.rpartition("/")[2] for kv in jobs] == [str(record.storage_job_id)]
    for _ in range(2):
        await bridge.importer.import_file(file)
    again = await load_file_record(bridge.storage.client, file.key)
    assert again.storage_job_id == record.storage_job_id
    assert await bridge.sandbox.rows_count(TABLE_ID) == 2
    assert not (await bridge.storage.client.range("storage/keboola/job/")).kvs


@pytest_twisted.ensureDeferred
async def test_a_failed_job(bridge: Bridge) -> None:
    """After a failed job the next attempt starts a new one."""
    file = await bridge.importing_file(b'"a"\n')
    await bridge.sandbox.fault("job", status=400, message="table is broken")
    with pytest.raises(JobFailed, match="table is broken"):
        await bridge.importer.import_file(file)
    first = await load_file_record(bridge.storage.client, file.key)
    await bridge.importer.import_file(file)
    second = await load_file_record(bridge.storage.client, file.key)
    assert first.storage_job_id != second.storage_job_id
    assert await bridge.sandbox.rows_count(TABLE_ID) == 1


@pytest_twisted.ensureDeferred
async def test_an_import_after_enabling(bridge: Bridge) -> None:
    """Slices staged before the sink was disabled are imported with the new token."""
    file = await bridge.importing_file(b'"a"\n')
    bridge.storage.tick()
    await bridge.do("disable_sink", SINK_KEY)
    with pytest.raises(UserError, match="not found in the database"):
        await bridge.importer.import_file(file)
    bridge.storage.tick()
    await bridge.do("enable_sink", SINK_KEY)
    await bridge.importer.import_file(file)
    assert await bridge.sandbox.rows_count(TABLE_ID) == 1


@pytest_twisted.ensureDeferred
async def test_an_empty_file(bridge: Bridge) -> None:
    """A file without records isn't imported; its staging file is deleted."""
    file = await bridge.create_sink()
    await bridge.storage.close_files()
    await bridge.storage.finish_slices(file.key, is_empty=True)
    empty = await bridge.storage.to_importing(file.key, is_empty=True)
    for _ in range(2):
        await bridge.importer.import_file(empty)
    assert [await bridge.staged(file_id) for file_id in bridge.api.file_ids] == [False]
    assert await bridge.sandbox.rows_count(TABLE_ID) == 0
