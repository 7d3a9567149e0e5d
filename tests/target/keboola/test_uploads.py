"""Uploads of slices to staging: each object, and the manifest that lists them all."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, ensureDeferred, gatherResults
from twisted.python.threadpool import ThreadPool

from stream.encryption import encryptor_from
from stream.errors import UserError
from stream.etcd import AtomicTxn, EtcdClient, LockLost, LockTimeout, Session, atomic
from stream.mapping.columns import Mapping, UuidColumn
from stream.staging import CredentialsExpired, StagingStore, bytes_chunks
from stream.storage.model.entity import File, Slice
from stream.storage.model.statistics import Statistics
from stream.target.keboola.events import EventSender
from stream.target.keboola.provider import KeboolaFileProvider, load_file_record
from stream.target.keboola.records import file_record_key, token_record_key
from stream.target.keboola.uploads import SliceUploader
from stream.target.protocol import StagingReplaced
from tests.storage.histories.world import SINK, SINK_KEY, SOURCE, Storage
from tests.target.keboola.fakes import MASTER, FakeStorageApi, refused

reactor: Any = _reactor
ENCRYPTOR = encryptor_from("aes", b"k" * 32)


@attrs.define
class Setting:
    etcd: EtcdClient
    session: Session
    api: FakeStorageApi
    storage: Storage
    uploader: SliceUploader
    file: File

    @property
    def folder(self) -> Path:
        (file_id,) = self.api.files
        return self.api.directory / f"file-{file_id}"

    def manifest(self) -> list[str]:
        """Return the names of the objects in the manifest."""
        entries = json.loads((self.folder / "manifest").read_text())["entries"]
        return [entry["url"].rpartition("/")[2] for entry in entries]

    async def uploading(self, *, is_empty: bool = False) -> Slice:
        """Return the next slice of the file, ready for upload."""
        slice_ = (await self.storage.slices(self.file.key))[-1]
        await self.storage.rotate_slice(slice_.key)
        return await self.storage.to_uploading(slice_.key, is_empty)

    async def upload(self, slice_: Slice, data: bytes = b"rows") -> None:
        store = await self.uploader.upload(slice_, bytes_chunks(data))
        async with self.uploader.listed(store, slice_):
            await self.storage.to_uploaded(slice_.key)


@pytest_twisted.async_yield_fixture()
async def setting(etcd: EtcdClient, tmp_path: Path) -> AsyncIterator[Setting]:
    api = FakeStorageApi(tmp_path)
    storage = Storage(etcd)
    file = await storage.open_file()
    provider = KeboolaFileProvider(etcd, api, ENCRYPTOR, reactor)
    prepared = await provider.prepare(SOURCE, SINK, file.key.file_opened_at, token=MASTER)
    for key, value in prepared.records:
        await etcd.put(key, value)
    api.calls.clear()
    session = Session(etcd, ttl=15, reactor=reactor)
    await session.startService()
    pool = ThreadPool(0, 2)
    pool.start()
    events = EventSender(api, 30.0, reactor)
    uploader = SliceUploader(etcd, session, ENCRYPTOR, events, pool, reactor, lock_timeout=10.0)
    yield Setting(etcd, session, api, storage, uploader, file)
    await session.stopService()
    pool.stop()


@pytest_twisted.ensureDeferred
async def test_an_upload_writes_an_object_and_a_manifest(setting: Setting) -> None:
    """The object has the slice's name and bytes, and the manifest lists it."""
    slice_ = await setting.uploading()
    await setting.upload(slice_, b"the rows")
    assert (setting.folder / slice_.staging.path).read_bytes() == b"the rows"
    assert setting.manifest() == [slice_.staging.path]


@pytest_twisted.ensureDeferred
async def test_the_manifest_grows_with_each_slice(setting: Setting) -> None:
    """The manifest lists the slices that are uploaded, sorted, and nothing else."""
    slices = [await setting.uploading() for _ in range(3)]
    for count, slice_ in enumerate(reversed(slices), 1):
        await setting.upload(slice_)
        assert setting.manifest() == sorted(s.staging.path for s in slices[-count:])


@pytest_twisted.ensureDeferred
async def test_empty_slices_are_not_listed(setting: Setting) -> None:
    """Empty slices have no object."""
    empty = await setting.uploading(is_empty=True)
    await setting.storage.to_uploaded(empty.key)
    slice_ = await setting.uploading()
    await setting.upload(slice_)
    assert setting.manifest() == [slice_.staging.path]


@pytest_twisted.ensureDeferred
async def test_concurrent_uploads(setting: Setting) -> None:
    """The last written manifest lists all of them."""
    slices = [await setting.uploading() for _ in range(4)]
    await gatherResults([ensureDeferred(setting.upload(slice_)) for slice_ in slices])
    assert setting.manifest() == sorted(slice_.staging.path for slice_ in slices)


@pytest_twisted.ensureDeferred
async def test_a_repeated_upload_changes_nothing(setting: Setting) -> None:
    """After a crash between manifest and state, the same slice is uploaded again."""
    slice_ = await setting.uploading()
    store = await setting.uploader.upload(slice_, bytes_chunks(b"rows"))
    with pytest.raises(RuntimeError, match="crash"):
        async with setting.uploader.listed(store, slice_):
            raise RuntimeError("crash")
    await setting.upload(slice_)
    assert setting.manifest() == [slice_.staging.path]
    assert sorted(path.name for path in setting.folder.iterdir()) == sorted(
        ["manifest", slice_.staging.path]
    )


@pytest_twisted.ensureDeferred
async def test_the_lock_is_held_until_the_slice_is_uploaded(setting: Setting) -> None:
    """Another upload of the file waits for the lock to write the manifest."""
    first, second = [await setting.uploading() for _ in range(2)]
    stores = [
        await setting.uploader.upload(slice_, bytes_chunks(b"rows")) for slice_ in (first, second)
    ]
    entered: list[str] = []
    marked: Deferred[None] = Deferred()

    async def one() -> None:
        async with setting.uploader.listed(stores[0], first):
            entered.append("first")
            await marked
            await setting.storage.to_uploaded(first.key)

    async def other() -> None:
        async with setting.uploader.listed(stores[1], second):
            entered.append("second")

    running = [ensureDeferred(one())]
    while not entered:
        await setting.etcd.get("any")
    running.append(ensureDeferred(other()))
    for _ in range(10):
        await setting.etcd.get("any")
    assert entered == ["first"]
    marked.callback(None)
    await gatherResults(running)
    assert setting.manifest() == sorted([first.staging.path, second.staging.path])


@pytest_twisted.ensureDeferred
async def test_a_slice_is_marked_only_with_the_lock(setting: Setting) -> None:
    """A node that lost the lock doesn't mark its slice as listed."""
    slice_ = await setting.uploading()
    store = await setting.uploader.upload(slice_, bytes_chunks(b"rows"))

    async def mark(txn: AtomicTxn) -> None:
        now = setting.storage.tick()
        await setting.storage.repository.slice_to_uploaded(txn, slice_.key, now)

    with pytest.raises(LockLost):
        async with setting.uploader.listed(store, slice_) as lock:
            await setting.etcd.delete(lock.key)
            await atomic(setting.etcd, mark, lock=lock)
    async with setting.uploader.listed(store, slice_) as lock:
        await atomic(setting.etcd, mark, lock=lock)


@pytest_twisted.ensureDeferred
async def test_a_permanently_locked_manifest(setting: Setting) -> None:
    """The upload fails and is retried later."""
    slice_ = await setting.uploading()
    store = await setting.uploader.upload(slice_, bytes_chunks(b"rows"))
    setting.uploader._lock_timeout = 0.05
    name = f"upload.bridge.keboola.manifest.{setting.file.key}"
    async with await setting.session.lock(name, timeout=5):
        with pytest.raises(LockTimeout):
            async with setting.uploader.listed(store, slice_):
                raise AssertionError("nobody may come here")
    assert not (setting.folder / "manifest").exists()


@pytest_twisted.ensureDeferred
async def test_expired_credentials_end_the_upload(setting: Setting) -> None:
    """The error is permanent, and no byte is read."""
    (file_id,) = setting.api.files
    expired = attrs.evolve(
        setting.api.files[file_id], expiration=datetime(2000, 1, 1, 2, tzinfo=UTC)
    )

    async def prepare(*_: Any, **__: Any) -> Any:
        return expired

    setting.api.prepare_file = prepare  # type: ignore[method-assign]
    provider = KeboolaFileProvider(setting.etcd, setting.api, ENCRYPTOR, reactor)
    prepared = await provider.prepare(SOURCE, SINK, setting.file.key.file_opened_at, token=MASTER)
    await setting.etcd.put(*prepared.records[-1])
    slice_ = await setting.uploading()
    with pytest.raises(CredentialsExpired, match=r"upload credentials have expired") as problem:
        await setting.uploader.upload(slice_, bytes_chunks(b"rows"))
    assert not problem.value.retryable


@pytest_twisted.ensureDeferred
async def test_a_file_without_a_record(setting: Setting) -> None:
    """Another process has deleted the records of the file."""
    await setting.etcd.delete(file_record_key(setting.file.key))
    with pytest.raises(UserError, match=r"keboola file .* not found in the database") as missing:
        await load_file_record(setting.etcd, setting.file.key)
    assert missing.value.status == 404


@pytest_twisted.ensureDeferred
async def test_an_upload_is_reported_with_the_sink_token(setting: Setting) -> None:
    """A success and a failure are each reported once."""
    slice_ = await setting.uploading()
    await setting.uploader.report(slice_, 1.5, None, Statistics())
    await setting.uploader.report(slice_, 1.5, UserError("no"), Statistics())
    assert [(event.component, event.message) for event in setting.api.events] == [
        ("keboola.stream.sliceUpload", "Slice upload done."),
        ("keboola.stream.sliceUpload", "Slice upload failed."),
    ]


@pytest.mark.parametrize("problem", ["no token", "refused"])
@pytest_twisted.ensureDeferred
async def test_a_failing_report_has_no_effect(setting: Setting, problem: str) -> None:
    """The upload has already succeeded."""
    slice_ = await setting.uploading()
    if problem == "no token":
        await setting.etcd.delete(token_record_key(SINK_KEY))
    else:
        setting.api.failures["send_event"] = [refused(500)]
    await setting.uploader.report(slice_, 1.5, None, Statistics())
    assert setting.api.events == []


@pytest_twisted.ensureDeferred
async def test_a_replaced_staging_file(setting: Setting) -> None:
    """The new staging file has the same columns and receives the uploads.

    Objects of the old one don't count as uploaded.
    """
    slice_ = await setting.uploading()
    before = await setting.uploader.upload(slice_, bytes_chunks(b"rows"))

    async def check(store: StagingStore) -> None:
        await atomic(setting.etcd, lambda txn: setting.uploader.check_current(txn, store, slice_))

    await check(before)
    old = await load_file_record(setting.etcd, setting.file.key)
    provider = KeboolaFileProvider(setting.etcd, setting.api, ENCRYPTOR, reactor)
    await setting.etcd.put(*await _stored_token(provider))
    changed = attrs.evolve(
        SINK, table=attrs.evolve(SINK.table, mapping=Mapping((UuidColumn("another"),)))
    )
    prepared = await provider.renew(changed, setting.file.key)
    ((key, value),) = prepared.records
    await setting.etcd.put(key, value)
    new = await load_file_record(setting.etcd, setting.file.key)
    assert (new.columns, new.table_id) == (old.columns, old.table_id)
    assert new.file_id != old.file_id
    with pytest.raises(StagingReplaced):
        await check(before)
    await check(await setting.uploader.upload(slice_, bytes_chunks(b"rows")))


async def _stored_token(provider: KeboolaFileProvider) -> tuple[str, bytes]:
    prepared = await provider.prepare(SOURCE, SINK, datetime(2001, 1, 1, tzinfo=UTC), token=MASTER)
    (record,) = [item for item in prepared.records if item[0] == token_record_key(SINK_KEY)]
    return record
