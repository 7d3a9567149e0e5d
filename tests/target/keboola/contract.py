"""The requirements on a Storage API, as functions to run with any implementation.

Each function takes a client, a master token and the ids of a project and its default branch,
creates its own bucket or token, and deletes it. `ALL` lists them in the order of a sink's life.
"""

from __future__ import annotations

import gzip
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import attrs
import pytest
from twisted.python.threadpool import ThreadPool

from stream.staging import bytes_chunks, open_store
from stream.target.keboola import (
    Event,
    EventParams,
    JobFailed,
    SinkToken,
    StorageApi,
    StorageApiError,
)
from stream.target.keboola.bodies import METADATA_SINK_ID, METADATA_SOURCE_ID

SLICE = "2000-01-01T01:00:00.000Z_hdd-1.gz"


@attrs.frozen
class Target:
    """An implementation under test.

    :param reactor: for staging's clock.
    :param pool: a started pool for staging.
    """

    api: StorageApi
    token: str = attrs.field(repr=False)
    project_id: int
    branch_id: int
    reactor: Any
    pool: ThreadPool


def _fresh_bucket_id() -> str:
    return f"in.c-contract-{secrets.token_hex(6)}"


@asynccontextmanager
async def sink_bucket(target: Target) -> AsyncIterator[tuple[str, SinkToken]]:
    """Create a bucket and a sink token for it, and delete both at the end of the block."""
    bucket_id = _fresh_bucket_id()
    await target.api.create_bucket(target.token, target.branch_id, bucket_id)
    made = await target.api.create_token(
        target.token, source_id="src", sink_id="snk", bucket_id=bucket_id
    )
    try:
        yield bucket_id, made
    finally:
        await target.api.delete_token(target.token, made.id)
        await target.api.delete_bucket(target.token, target.branch_id, bucket_id, force=True)


async def refused(call: Awaitable[object], status: int, code: str | None = None) -> None:
    """Check that *call* is refused with this status, and with the code if given."""
    with pytest.raises(StorageApiError) as caught:
        await call
    assert caught.value.answered, str(caught.value)
    assert caught.value.status == status, str(caught.value)
    if code is not None:
        assert caught.value.code == code, str(caught.value)


async def index_needs_no_token(target: Target) -> None:
    """The index needs no token."""
    await target.api.index()


async def master_token_tells_project_and_admin(target: Target) -> None:
    """The master token belongs to an administrator of the project."""
    info = await target.api.verify_token(target.token)
    assert info.is_master
    assert info.project_id == target.project_id
    assert info.admin is not None
    assert info.admin.role == "admin"


async def unknown_token_is_refused(target: Target) -> None:
    """An unknown token is refused with 401."""
    await refused(target.api.verify_token("1-2-unknown"), 401, "storage.tokenInvalid")


async def default_branch_is_listed(target: Target) -> None:
    """The default branch is in the list and can be requested."""
    defaults = [b for b in await target.api.branches(target.token) if b.is_default]
    assert [b.id for b in defaults] == [target.branch_id]
    assert (await target.api.branch(target.token, target.branch_id)).is_default
    with pytest.raises(StorageApiError) as caught:
        await target.api.branch(target.token, target.branch_id + 999_999)
    assert caught.value.is_not_found


async def bucket_lives_and_dies(target: Target) -> None:
    """A bucket is not found, created, found, not created twice, deleted, and not found."""
    api, token, branch, bucket_id = target.api, target.token, target.branch_id, _fresh_bucket_id()
    await refused(api.get_bucket(token, branch, bucket_id), 404, "storage.buckets.notFound")
    assert (await api.create_bucket(token, branch, bucket_id)).id == bucket_id
    assert (await api.get_bucket(token, branch, bucket_id)).id == bucket_id
    with pytest.raises(StorageApiError) as caught:
        await api.create_bucket(token, branch, bucket_id)
    assert caught.value.status == 400
    assert caught.value.code_ends_with("alreadyExists")
    await api.delete_bucket(token, branch, bucket_id)
    await refused(api.get_bucket(token, branch, bucket_id), 404, "storage.buckets.notFound")


async def sink_token_is_limited_and_revocable(target: Target) -> None:
    """A sink token is no master token, is limited to its bucket, and is invalid when deleted."""
    api, branch, bucket_id = target.api, target.branch_id, _fresh_bucket_id()
    await api.create_bucket(target.token, branch, bucket_id)
    made = await api.create_token(target.token, source_id="src", sink_id="snk", bucket_id=bucket_id)
    info = await api.verify_token(made.token)
    assert (info.id, info.is_master, info.admin) == (made.id, False, None)
    assert made.description == "[_internal] Stream Sink src/snk"
    await refused(api.get_table(made.token, branch, "in.c-other.table"), 403)
    await api.delete_token(target.token, made.id)
    await refused(api.verify_token(made.token), 401, "storage.tokenInvalid")
    with pytest.raises(StorageApiError) as caught:
        await api.delete_token(target.token, made.id)
    assert caught.value.is_not_found
    assert caught.value.code_ends_with("notFound")
    await api.delete_bucket(target.token, branch, bucket_id)


async def table_lives_and_dies(target: Target) -> None:
    """A table is not found, created with columns, keys and metadata, and deleted."""
    api, branch = target.api, target.branch_id
    async with sink_bucket(target) as (bucket_id, made):
        table_id = f"{bucket_id}.my-table"
        await refused(api.get_table(made.token, branch, table_id), 404, "storage.tables.notFound")
        created = await api.create_table(
            made.token, branch, table_id, columns=["id", "body"], primary_key=["id"]
        )
        assert (created.columns, created.primary_key) == (("id", "body"), ("id",))
        for _ in range(2):
            await api.add_table_metadata(
                made.token, branch, table_id, source_id="src", sink_id="snk"
            )
        found = await api.get_table(made.token, branch, table_id)
        assert found.id == table_id
        assert (found.columns, found.primary_key) == (("id", "body"), ("id",))
        assert found.metadata_value(METADATA_SINK_ID) == "snk"
        assert found.metadata_value(METADATA_SOURCE_ID) == "src"
        assert len(found.metadata) == 2
        await api.delete_table(made.token, branch, table_id)
        await refused(api.get_table(made.token, branch, table_id), 404, "storage.tables.notFound")


async def bucket_with_tables_needs_force(target: Target) -> None:
    """A bucket with a table is deleted only with force."""
    api, branch = target.api, target.branch_id
    async with sink_bucket(target) as (bucket_id, made):
        await api.create_table(made.token, branch, f"{bucket_id}.t", columns=["a"])
        with pytest.raises((StorageApiError, JobFailed)):
            await api.delete_bucket(target.token, branch, bucket_id)


async def _imported(target: Target, made: SinkToken, table_id: str, rows: bytes) -> None:
    api, branch = target.api, target.branch_id
    upload = await api.prepare_file(
        made.token,
        branch,
        source_id="src",
        sink_id="snk",
        opened_at=datetime(2006, 1, 2, 15, 4, 5, tzinfo=UTC),
    )
    assert upload.name.endswith("src_snk_20060102150405")
    assert upload.expiration is not None
    assert upload.expiration > datetime.now(UTC)
    store = open_store(upload, file_key="contract", reactor=target.reactor, pool=target.pool)
    # Two gzip members in one object, as in slices.
    middle = rows.index(b"\n") + 1
    body = gzip.compress(rows[:middle]) + gzip.compress(rows[middle:])
    stored = await store.put(SLICE, bytes_chunks(body))
    assert stored.size == len(body)
    await store.put_manifest([SLICE])
    job = await api.import_async(
        made.token, branch, table_id, file_id=upload.id, columns=["id", "body"]
    )
    finished = await api.wait_job(made.token, job.id, timeout=30)
    assert (finished.id, finished.status) == (job.id, "success")
    found = await api.find_import(made.token, upload.id)
    assert found is not None
    assert found.id == job.id


async def staged_slices_are_imported(target: Target) -> None:
    """Slices that are staged and in the manifest can be imported repeatedly."""
    api = target.api
    async with sink_bucket(target) as (bucket_id, made):
        table_id = f"{bucket_id}.my-table"
        await api.create_table(
            made.token, target.branch_id, table_id, columns=["id", "body"], primary_key=["id"]
        )
        await _imported(target, made, table_id, b'"1","a"\n"2","b ""quoted""\nline"\n')
        await _imported(target, made, table_id, b'"2","changed"\n"3","c"\n')


async def import_without_manifest_fails(target: Target) -> None:
    """The import of a file that was never uploaded ends as a failed job with a message."""
    api, branch = target.api, target.branch_id
    async with sink_bucket(target) as (bucket_id, made):
        table_id = f"{bucket_id}.t"
        await api.create_table(made.token, branch, table_id, columns=["a"])
        upload = await api.prepare_file(
            made.token, branch, source_id="src", sink_id="snk", opened_at=datetime.now(UTC)
        )
        job = await api.import_async(made.token, branch, table_id, file_id=upload.id, columns=["a"])
        with pytest.raises(JobFailed) as caught:
            await api.wait_job(made.token, job.id, timeout=30)
        assert caught.value.job_id == job.id
        assert await api.find_import(made.token, upload.id) is None


async def staging_file_can_be_deleted(target: Target) -> None:
    """A staging file is deleted, and deleting it again is no error."""
    async with sink_bucket(target) as (_, made):
        upload = await target.api.prepare_file(
            made.token,
            target.branch_id,
            source_id="src",
            sink_id="snk",
            opened_at=datetime.now(UTC),
        )
        for _ in range(2):
            await target.api.delete_file(made.token, target.branch_id, upload.id)


async def unknown_job_is_not_found(target: Target) -> None:
    """A job that doesn't exist is a 404."""
    with pytest.raises(StorageApiError) as caught:
        await target.api.get_job(target.token, 987_654_321)
    assert caught.value.is_not_found


async def events_are_taken(target: Target) -> None:
    """An event is accepted from a master token and from a sink token."""
    params = EventParams(target.project_id, target.branch_id, "src", "snk")
    event = Event("keboola.stream.sliceUpload", "Slice upload done.", 1.0, params)
    assert await target.api.send_event(target.token, event)
    async with sink_bucket(target) as (_, made):
        assert await target.api.send_event(made.token, event)


ALL: tuple[Callable[[Target], Awaitable[None]], ...] = (
    index_needs_no_token,
    master_token_tells_project_and_admin,
    unknown_token_is_refused,
    default_branch_is_listed,
    bucket_lives_and_dies,
    sink_token_is_limited_and_revocable,
    table_lives_and_dies,
    bucket_with_tables_needs_force,
    staged_slices_are_imported,
    import_without_manifest_fails,
    staging_file_can_be_deleted,
    unknown_job_is_not_found,
    events_are_taken,
)
