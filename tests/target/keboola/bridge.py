"""The whole bridge to the Storage API, with a sandbox over real HTTP."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
from twisted.internet import reactor as _reactor
from twisted.python.threadpool import ThreadPool

from stream.encryption import encryptor_from
from stream.etcd import EtcdClient, Session
from stream.ops.metrics.registry import Metrics
from stream.sandbox import ObjectStaging, SandboxService
from stream.settings import Settings
from stream.target.keboola import SinkToken, StorageApi, StorageApiError
from stream.target.keboola.events import EventSender
from stream.target.keboola.imports import FileImporter
from stream.target.keboola.provider import KeboolaFileProvider
from stream.target.keboola.target import KeboolaTarget
from stream.target.keboola.uploads import SliceUploader
from stream.target.protocol import TargetContext
from tests.sandbox.api import MASTER, Api
from tests.storage.histories.world import TABLE, Storage
from tests.target.world import Fault, World, changes_with

__all__ = ["BUCKET_ID", "SECRET_KEY", "TABLE_ID", "Bridge", "RecordingApi", "running_bridge"]

reactor: Any = _reactor
TABLE_ID = TABLE.table_id
BUCKET_ID = "in.c-bucket"
SECRET_KEY = b"k" * 32


class RecordingApi(StorageApi):
    """A client that records its objects.

    :ivar tokens: all created tokens, in order.
    :ivar file_ids: ids of all created staging files.
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


@attrs.define(kw_only=True)
class Bridge(World):
    """The bridge and its sandbox.

    :ivar sandbox: the sandbox's API with the user's token.
    """

    target: KeboolaTarget
    api: RecordingApi
    sandbox: Api

    @property
    def provider(self) -> KeboolaFileProvider:
        return self.target.provider

    @property
    def uploader(self) -> SliceUploader:
        return self.target.uploader

    @property
    def importer(self) -> FileImporter:
        return self.target.importer

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
        """Return all values in etcd."""
        found: dict[str, bytes] = {}
        for where in ("definition/", "storage/"):
            found |= {kv.key: kv.value for kv in (await self.storage.client.range(where)).kvs}
        return found


async def _cells(sandbox: Api) -> list[str]:
    """Return the first cells of all rows. Raises LookupError if the table doesn't exist."""
    answer = await sandbox.branch("GET", f"tables/{TABLE_ID}/data-preview?limit=1000")
    if answer.status == 404:
        raise LookupError(answer.text)
    assert answer.status == 200, answer.text
    return [row[0] for row in csv.reader(io.StringIO(answer.text, newline=""))][1:]


def _faults(bridge: Bridge) -> dict[str, Fault]:
    """See `tests.target.test_contract.FAULTS`."""

    def answered(route: str, **fault: Any) -> Fault:
        @asynccontextmanager
        async def broken() -> AsyncIterator[None]:
            await bridge.sandbox.fault(route, **fault)
            yield

        return broken

    @asynccontextmanager
    async def dropped() -> AsyncIterator[None]:
        assert (await bridge.sandbox.branch("DELETE", f"tables/{TABLE_ID}")).status < 300
        yield
        table = {
            "name": TABLE_ID.rpartition(".")[2],
            "columns": [{"name": "body", "basetype": "STRING"}],
            "primaryKeysNames": [],
        }
        made = await bridge.sandbox.branch("POST", f"buckets/{BUCKET_ID}/tables-definition", table)
        await bridge.sandbox.done(made)

    return {
        "table dropped": dropped,
        "rights revoked": answered("importTable", status=403),
        "server unavailable": answered("job", status=400, message="the backend is unavailable"),
    }


@asynccontextmanager
async def running_bridge(
    etcd: EtcdClient, path: Path, objects: ObjectStaging | None = None
) -> AsyncIterator[Bridge]:
    """A sandbox and a bridge to it, with a source and no sink.

    :param objects: the store in which the sandbox stages files.
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
    storage = Storage(etcd)
    target = KeboolaTarget(
        TargetContext(
            settings=Settings(),
            reactor=reactor,
            client=etcd,
            session=session,
            encryptor=encryptor_from("aes", SECRET_KEY),
            pool=pool,
            metrics=Metrics(),
            now=lambda: storage.now,
        ),
        api,
        EventSender(api, 5.0, reactor),
    )
    bridge = Bridge(
        storage=storage,
        target=target,
        changes=changes_with(storage, target),
        table=TABLE,
        read=lambda: _cells(bridge.sandbox),
        api=api,
        sandbox=Api(sandbox.url),
    )
    bridge.faults = _faults(bridge)
    pool.start()
    try:
        await bridge.create_source()
        yield bridge
    finally:
        await api.close()
        await session.stopService()
        await sandbox.stopService()
        pool.stop()
