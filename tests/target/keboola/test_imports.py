"""Imports of a file in exactly one job, with any failures."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet import reactor as _reactor
from twisted.python.threadpool import ThreadPool

from stream.encryption import encryptor_from
from stream.errors import UserError
from stream.etcd import EtcdClient, EtcdUnavailable, atomic
from stream.storage.model.entity import File
from stream.storage.model.key import JobKey
from stream.target.jobs import JobRecord, RunningJobs
from stream.target.keboola.events import EventSender
from stream.target.keboola.imports import FileImporter
from stream.target.keboola.provider import KeboolaFileProvider
from stream.target.keboola.quarantine import RowQuarantine
from stream.target.keboola.records import (
    JOBS,
    TokenRecord,
    decode_file,
    decode_token,
    encode_record,
    file_record_key,
    job_record_key,
    job_records_of,
    token_record_key,
)
from tests.storage.histories.world import SINK, SINK_KEY, SOURCE, Storage
from tests.target.keboola.fakes import MASTER, FakeStorageApi, refused
from tests.waiting import mirrored

reactor: Any = _reactor
TABLE = "in.c-bucket.table"


@attrs.define
class Setting:
    etcd: EtcdClient
    api: FakeStorageApi
    importer: FileImporter
    file: File

    async def job_id(self) -> int | None:
        stored = await self.etcd.get(file_record_key(self.file.key))
        assert stored is not None
        return decode_file(stored.value).storage_job_id

    async def running(self) -> list[str]:
        found = await self.etcd.range(job_records_of(SINK_KEY))
        return [kv.key.removeprefix(job_records_of(SINK_KEY)) for kv in found.kvs]

    async def replace_token(self) -> None:
        """Replace the sink's token, as a user's change does."""
        created = await self.api.create_token(
            MASTER, source_id=SINK_KEY.source_id, sink_id=SINK_KEY.sink_id, bucket_id="in.c-bucket"
        )
        stored = await self.etcd.get(token_record_key(SINK_KEY))
        assert stored is not None
        await self.api.delete_token(MASTER, decode_token(stored.value).token_id)
        record = await TokenRecord.seal(SINK_KEY, created, encryptor_from("none"))
        await self.etcd.put(token_record_key(SINK_KEY), encode_record(record))

    def events(self) -> list[str]:
        return [event.message for event in self.api.events]


@pytest_twisted.async_yield_fixture()
async def setting(etcd: EtcdClient, tmp_path: Path) -> AsyncIterator[Setting]:
    api = FakeStorageApi(tmp_path)
    encryptor = encryptor_from("none")
    provider = KeboolaFileProvider(etcd, api, encryptor, reactor)
    file = await Storage(etcd).open_file()
    prepared = await provider.prepare(SOURCE, SINK, file.key.file_opened_at, token=MASTER)
    for key, value in prepared.records:
        await etcd.put(key, value)
    events = EventSender(api, 30.0, reactor)
    quarantine = RowQuarantine(etcd, api, encryptor, ThreadPool(), reactor)  # not needed here
    importer = FileImporter(etcd, api, encryptor, events, quarantine, reactor, job_timeout=60.0)
    api.calls.clear()
    yield Setting(etcd, api, importer, file)


@pytest_twisted.ensureDeferred
async def test_a_job_is_started_and_awaited(setting: Setting) -> None:
    """The job gets the columns that were recorded when the file was opened."""
    await setting.importer.import_file(setting.file)
    (file_id,) = setting.api.files
    assert setting.api.imports == [(TABLE, file_id, ("body",))]
    assert [name for name, _ in setting.api.calls] == ["import_async", "wait_job", "send_event"]
    assert setting.events() == ["File import done."]
    assert await setting.running() == []


@pytest_twisted.ensureDeferred
async def test_the_job_is_stored_before_the_wait(setting: Setting) -> None:
    """After a crash the job's id is known, and it counts towards the sink's limit."""
    seen: list[tuple[int | None, list[str]]] = []

    async def look() -> None:
        seen.append((await setting.job_id(), await setting.running()))

    setting.api.before["wait_job"] = look
    await setting.importer.import_file(setting.file)
    assert seen == [(1003, ["1003"])]


@pytest.mark.parametrize("status", ["waiting", "processing"])
@pytest_twisted.ensureDeferred
async def test_a_running_job_is_awaited(setting: Setting, status: str) -> None:
    """The second attempt starts no second job."""
    setting.api.job_states = ["processing"]
    with pytest.raises(UserError, match="wait for import operation deadline exceeded"):
        await setting.importer.import_file(setting.file)
    assert await setting.running() == ["1003"]
    setting.api.job_states = [status]
    await setting.importer.import_file(setting.file)
    assert len(setting.api.imports) == 1
    assert setting.events() == ["File import failed.", "File import done."]


@pytest_twisted.ensureDeferred
async def test_a_job_that_ended_meanwhile(setting: Setting) -> None:
    """Nothing is imported twice if the job ended before it was awaited."""
    await setting.importer.import_file(setting.file)
    await setting.etcd.put(
        job_record_key(JobKey.of(SINK_KEY, "1003")),
        encode_record(JobRecord(JobKey.of(SINK_KEY, "1003"))),
    )
    await setting.importer.import_file(setting.file)
    assert len(setting.api.imports) == 1
    assert await setting.running() == []


@pytest.mark.parametrize("method", ["import_async", "wait_job"])
@pytest_twisted.ensureDeferred
async def test_a_token_that_is_replaced_meanwhile(setting: Setting, method: str) -> None:
    """The import continues with the new token, and waits for an existing job."""
    setting.api.before[method] = setting.replace_token
    await setting.importer.import_file(setting.file)
    assert len(setting.api.imports) == 1
    assert setting.events() == ["File import done."]


@pytest_twisted.ensureDeferred
async def test_a_refused_token(setting: Setting) -> None:
    """The attempt fails, because there is no newer token."""
    setting.api.failures["import_async"] = [refused(401)]
    with pytest.raises(UserError, match="refused"):
        await setting.importer.import_file(setting.file)
    assert setting.api.imports == []


@pytest_twisted.ensureDeferred
async def test_a_job_whose_answer_was_lost(setting: Setting) -> None:
    """The next attempt finds it by the file, and starts no second one."""
    setting.api.lost_answers = [refused(502)]
    with pytest.raises(UserError, match="refused"):
        await setting.importer.import_file(setting.file)
    assert await setting.job_id() is None
    await setting.importer.import_file(setting.file)
    assert len(setting.api.imports) == 1
    assert await setting.job_id() == setting.api.jobs[0].id


@pytest_twisted.ensureDeferred
async def test_the_intent_is_stored_before_the_call(setting: Setting) -> None:
    """After a crash at any time after the call, the import searches for the job."""
    seen: list[bool] = []

    async def look() -> None:
        stored = await setting.etcd.get(file_record_key(setting.file.key))
        assert stored is not None
        seen.append(decode_file(stored.value).import_asked)

    setting.api.before["import_async"] = look
    await setting.importer.import_file(setting.file)
    assert seen == [True]
    assert setting.api.called("find_import") == []


@pytest_twisted.ensureDeferred
async def test_a_job_that_was_not_started(setting: Setting) -> None:
    """A refused call has created no job, so another one is started."""
    setting.api.failures["import_async"] = [refused(500)]
    with pytest.raises(UserError, match="refused"):
        await setting.importer.import_file(setting.file)
    await setting.importer.import_file(setting.file)
    assert len(setting.api.called("find_import")) == 1
    assert len(setting.api.imports) == 1


@pytest_twisted.ensureDeferred
async def test_jobs_that_can_not_be_listed(setting: Setting) -> None:
    """A possible second import is preferred to a missing one."""
    setting.api.lost_answers = [refused(502)]
    setting.api.failures["find_import"] = [refused(503), refused(403)]
    for _ in range(2):
        with pytest.raises(UserError, match="refused"):
            await setting.importer.import_file(setting.file)
    await setting.importer.import_file(setting.file)
    assert len(setting.api.imports) == 2


@pytest_twisted.ensureDeferred
async def test_a_new_job_after_a_failed_one(setting: Setting) -> None:
    """The failed job no longer counts towards the limit."""
    setting.api.job_states = ["error"]
    with pytest.raises(UserError, match="bad rows"):
        await setting.importer.import_file(setting.file)
    assert await setting.running() == []
    setting.api.job_states = ["error", "success"]
    await setting.importer.import_file(setting.file)
    assert len(setting.api.imports) == 2
    assert await setting.job_id() == 1004
    assert await setting.running() == []


@pytest_twisted.ensureDeferred
async def test_a_refused_import_is_not_stored(setting: Setting) -> None:
    """There is no job, so none is stored."""
    setting.api.failures["import_async"] = [refused(403)]
    with pytest.raises(UserError, match="refused"):
        await setting.importer.import_file(setting.file)
    assert await setting.job_id() is None
    assert await setting.running() == []
    assert setting.events() == ["File import failed."]


@pytest_twisted.ensureDeferred
async def test_an_unknown_state_of_a_job(setting: Setting) -> None:
    """A job is replaced only if it is known to have failed."""
    await setting.importer.import_file(setting.file)
    setting.api.failures["get_job"] = [refused(404)]
    with pytest.raises(UserError, match="refused"):
        await setting.importer.import_file(setting.file)
    assert len(setting.api.imports) == 1


@pytest_twisted.ensureDeferred
async def test_storing_the_job_id_is_retried(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job runs while etcd is unavailable, and its id is stored as soon as possible."""
    failures = [EtcdUnavailable("away"), EtcdUnavailable("away")]

    async def sometimes(*arguments: Any) -> Any:
        if setting.api.imports and failures:
            raise failures.pop()
        return await atomic(*arguments)

    monkeypatch.setattr("stream.target.keboola.imports.atomic", sometimes)
    await setting.importer.import_file(setting.file)
    assert await setting.job_id() == 1003
    assert len(setting.api.imports) == 1
    assert failures == []


@pytest_twisted.ensureDeferred
async def test_an_empty_file_is_not_imported(setting: Setting) -> None:
    """The staging file is deleted if possible, and there is no event."""
    empty = attrs.evolve(setting.file, staging=attrs.evolve(setting.file.staging, is_empty=True))
    setting.api.failures["delete_file"] = [refused(500)]
    await setting.importer.import_file(empty)
    await setting.importer.import_file(empty)
    assert setting.api.files == {}
    assert {name for name, _ in setting.api.calls} == {"delete_file"}


@pytest_twisted.ensureDeferred
async def test_a_sink_without_a_token(setting: Setting) -> None:
    """A disabled sink has no token; its import continues when it is enabled."""
    await setting.etcd.delete(token_record_key(SINK_KEY))
    with pytest.raises(UserError, match=r"sink token .* not found"):
        await setting.importer.import_file(setting.file)
    assert setting.api.calls == []


@pytest_twisted.ensureDeferred
async def test_a_refused_event_does_not_fail_the_import(setting: Setting) -> None:
    """The file is imported although the event is refused."""
    setting.api.failures["send_event"] = [refused(500)]
    await setting.importer.import_file(setting.file)
    assert len(setting.api.imports) == 1


@pytest.mark.parametrize(
    ("status", "deleted"),
    [("waiting", False), ("processing", False), ("success", True), ("error", True)],
)
@pytest_twisted.ensureDeferred
async def test_records_of_finished_jobs_are_deleted(
    setting: Setting, status: str, deleted: bool
) -> None:
    """The record of a running job is kept."""
    record = await _running_job(setting)
    setting.api.job_states = [status]
    assert await setting.importer.forget_finished(record) is deleted
    assert await setting.running() == ([] if deleted else ["321"])


@pytest_twisted.ensureDeferred
async def test_the_record_of_an_unknown_job_is_deleted(setting: Setting) -> None:
    """The API doesn't keep jobs forever."""
    record = await _running_job(setting)
    setting.api.failures["get_job"] = [refused(404)]
    assert await setting.importer.forget_finished(record)
    assert await setting.running() == []


@pytest_twisted.ensureDeferred
async def test_the_record_of_an_inaccessible_job_is_kept(setting: Setting) -> None:
    """A refusal or a missing token doesn't mean that the job has ended."""
    record = await _running_job(setting)
    setting.api.failures["get_job"] = [refused(500)]
    with pytest.raises(UserError, match="refused"):
        await setting.importer.forget_finished(record)
    await setting.etcd.delete(token_record_key(SINK_KEY))
    assert not await setting.importer.forget_finished(record)
    assert await setting.running() == ["321"]


async def _running_job(setting: Setting) -> JobRecord:
    record = JobRecord(JobKey.of(SINK_KEY, "321"))
    await setting.etcd.put(job_record_key(record.key), encode_record(record))
    return record


@pytest_twisted.ensureDeferred
async def test_the_limit_of_jobs(setting: Setting) -> None:
    """Each sink has its own limit, and a job that has ended frees a place."""
    jobs = RunningJobs(setting.etcd, JOBS, 2)
    await jobs.startService()
    other = SINK_KEY.source_key.sink("another")
    keys = [JobKey.of(SINK_KEY, "1"), JobKey.of(SINK_KEY, "2"), JobKey.of(other, "3")]
    allowed = []
    for key in keys:
        revision = await setting.etcd.put(job_record_key(key), encode_record(JobRecord(key)))
        await mirrored(jobs._mirror, revision)
        allowed.append(jobs.allow(setting.file.key))
    assert allowed == [True, False, False]
    assert {record.key for record in jobs.records} == set(keys)
    await setting.etcd.delete(job_record_key(keys[0]))
    revision = await setting.etcd.put("storage/keboola/job/last", b"not a job")
    await mirrored(jobs._mirror, revision)
    assert jobs.allow(setting.file.key)
    await jobs.stopService()
