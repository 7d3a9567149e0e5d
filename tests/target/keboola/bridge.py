"""The bridge to the Storage API as a whole, against a sandbox over real HTTP."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
from twisted.internet import reactor as _reactor
from twisted.python.threadpool import ThreadPool

from stream.definition import lifecycle
from stream.definition.change import Change
from stream.definition.repository import Definitions
from stream.encryption import encryptor_from
from stream.etcd import EtcdClient, Session
from stream.sandbox import ObjectStaging, SandboxService
from stream.staging import bytes_chunks
from stream.storage.model.entity import File, Slice
from stream.storage.model.state import FileState
from stream.storage.store.opening import DefinitionChanges
from stream.target.keboola import SinkToken, StorageApi, StorageApiError
from stream.target.keboola.events import EventSender
from stream.target.keboola.imports import FileImporter
from stream.target.keboola.provider import KeboolaFileProvider
from stream.target.keboola.quarantine import RowQuarantine
from stream.target.keboola.uploads import SliceUploader
from tests.sandbox.api import MASTER, Api
from tests.storage.histories.world import BY, SINK_KEY, SOURCE_KEY, TABLE, Storage

__all__ = ["BUCKET_ID", "SECRET_KEY", "TABLE_ID", "Bridge", "RecordingApi", "running_bridge"]

reactor: Any = _reactor
TABLE_ID = TABLE.keboola.table_id
BUCKET_ID = "in.c-bucket"
SECRET_KEY = b"k" * 32


class RecordingApi(StorageApi):
    """:ivar tokens: all that were made, in order.
    :ivar file_ids: of all staging files that were made.
    :ivar wait_fails: raised instead of the next wait for a job.
    """

    tokens: list[SinkToken]
    file_ids: list[int]
    wait_fails: Exception | None = None

    async def create_token(self, *arguments: Any, **options: Any) -> SinkToken:
        made = await super().create_token(*arguments, **options)
        self.tokens.append(made)
        return made

    async def prepare_file(self, *arguments: Any, **options: Any) -> Any:
        made = await super().prepare_file(*arguments, **options)
        self.file_ids.append(made.id)
        return made

    async def wait_job(self, *arguments: Any, **options: Any) -> Any:
        if self.wait_fails is not None:
            problem, self.wait_fails = self.wait_fails, None
            raise problem
        return await super().wait_job(*arguments, **options)


@attrs.define
class Bridge:
    """:ivar sandbox: calls of the sandbox with the user's token."""

    storage: Storage
    api: RecordingApi
    sandbox: Api
    provider: KeboolaFileProvider
    uploader: SliceUploader
    importer: FileImporter
    changes: DefinitionChanges

    async def do(self, method: str, *arguments: Any) -> Any:
        """Call a method of the definitions in a change of its own, as the user."""

        async def body(change: Change, definitions: Definitions) -> Any:
            return await getattr(definitions, method)(change, *arguments)

        return await self.changes.run(BY, body, token=MASTER)

    async def create_source(self) -> None:
        at = self.storage.tick()
        source = lifecycle.new_source(
            SOURCE_KEY, type="http", name="S", secret="s" * 48, at=at, by=BY
        )
        await self.do("create_source", source)

    async def create_sink(self) -> File:
        at = self.storage.tick()
        await self.do(
            "create_sink", lifecycle.new_sink(SINK_KEY, name="S", table=TABLE, at=at, by=BY)
        )
        (file,) = [f for f in await self.storage.files() if f.state is FileState.WRITING]
        return file

    async def rename(self) -> None:
        self.storage.tick()
        await self.do("update_sink", SINK_KEY, "", lambda sink: attrs.evolve(sink, name="new"))

    async def upload(self, slice_: Slice, rows: bytes) -> None:
        """A closed slice up to ``uploaded``, with its object and manifest."""
        await self.storage.count(slice_.key, rows.count(b"\n"))
        await self.storage.to_uploading(slice_.key)
        store = await self.uploader.upload(slice_, bytes_chunks(gzip.compress(rows)))
        async with self.uploader.listed(store, slice_):
            await self.storage.to_uploaded(slice_.key)

    async def importing_file(self, *rows: bytes) -> File:
        """A file with a slice for each of *rows*, all uploaded."""
        await self.create_sink()
        return await self.staged_file(*rows)

    async def staged_file(self, *rows: bytes) -> File:
        """The file that is open now, with a slice for each of *rows*, all uploaded."""
        (file,) = [f for f in await self.storage.files() if f.state is FileState.WRITING]
        slices = await self.storage.slices(file.key)
        while len(slices) < len(rows):
            opened = await self.storage.rotate_slice(slices[-1].key)
            assert opened is not None
            slices.append(opened)
        await self.storage.close_files()
        for slice_, part in zip(slices, rows, strict=True):
            await self.upload(slice_, part)
        return await self.storage.to_importing(file.key)

    async def is_valid(self, token: SinkToken) -> bool:
        try:
            await self.api.verify_token(token.token)
        except StorageApiError as error:
            assert error.status == 401
            return False
        return True

    async def staged(self, file_id: int) -> bool:
        return (await self.sandbox.branch("GET", f"files/{file_id}")).status == 200

    async def everything(self) -> dict[str, bytes]:
        """All that is stored in etcd."""
        found: dict[str, bytes] = {}
        for where in ("definition/", "storage/"):
            found |= {kv.key: kv.value for kv in (await self.storage.client.range(where)).kvs}
        return found


@asynccontextmanager
async def running_bridge(
    etcd: EtcdClient, path: Path, objects: ObjectStaging | None = None
) -> AsyncIterator[Bridge]:
    """A sandbox and a bridge to it, with a source and no sink.

    :param objects: the store where the sandbox lets files be staged.
    """
    sandbox = SandboxService(
        reactor,
        listen="127.0.0.1:0",
        path=str(path),
        token=MASTER,
        project_id=123,
        branch_id=456,
        objects=objects,
    )
    await sandbox.startService()
    session = Session(etcd, ttl=30, reactor=reactor)
    await session.startService()
    pool = ThreadPool(0, 2)
    api = RecordingApi(reactor, sandbox.url)
    api.tokens, api.file_ids = [], []
    encryptor = encryptor_from("aes", SECRET_KEY)
    events = EventSender(api, 5.0, reactor)
    storage = Storage(etcd)
    provider = KeboolaFileProvider(etcd, api, encryptor, reactor)
    bridge = Bridge(
        storage,
        api,
        Api(sandbox.url),
        provider,
        SliceUploader(etcd, session, encryptor, events, pool, reactor, lock_timeout=5.0),
        FileImporter(
            etcd,
            api,
            encryptor,
            events,
            RowQuarantine(etcd, api, encryptor, pool, reactor),
            reactor,
            job_timeout=60.0,
        ),
        DefinitionChanges(etcd, storage.repository, provider, storage.tick),
    )
    pool.start()
    try:
        await bridge.create_source()
        yield bridge
    finally:
        await api.close()
        await session.stopService()
        await sandbox.stopService()
        pool.stop()
