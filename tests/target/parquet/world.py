"""A sink over Parquet files, in a folder or in an S3 (``moto``) that all tests share."""

from __future__ import annotations

import atexit
import json
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import attrs
import pytest
from twisted.internet.defer import maybeDeferred

from stream.definition.entity import TableSink
from stream.etcd import EtcdClient
from stream.settings import Settings
from stream.settings.connections import Connections
from tests.staging.servers import SERVERS, running_server
from tests.storage.samples import MAPPING
from tests.target.lake.workers import share_workers
from tests.target.postgres.world import with_type
from tests.target.world import Fault, World, changes_with, context_of

__all__ = ["BUCKET_KEYS", "ParquetWorld", "declared", "parquet_world", "s3_connection", "s3_world"]

BUCKET_KEYS = ("moto-key", "moto-secret-for-tests")


@attrs.define(kw_only=True)
class ParquetWorld(World):
    """:ivar root: URL of the folder of all tables.
    :ivar path: path of the table below it.
    """

    root: str
    path: str

    def objects(self) -> dict[str, bytes]:
        """All objects of the table by their names below its path."""
        filesystem, root = _filesystem(self.root)
        from pyarrow import fs

        selector = fs.FileSelector(f"{root}/{self.path}", recursive=True, allow_not_found=True)
        return {
            info.path.removeprefix(f"{root}/{self.path}/"): filesystem.open_input_file(
                info.path
            ).read()
            for info in filesystem.get_file_info(selector)
            if info.type is fs.FileType.File
        }

    def rows(self) -> list[dict[str, Any]]:
        """All rows of all Parquet files, as pyarrow reads them."""
        import pyarrow.parquet as pq
        from pyarrow import BufferReader

        return [
            row
            for name, body in self.objects().items()
            if name.endswith(".parquet")
            for row in pq.ParquetFile(BufferReader(body)).read().to_pylist()
        ]

    def manifests(self) -> list[dict[str, Any]]:
        """Return the complete objects of all manifests."""
        return [
            json.loads(body)
            for name, body in self.objects().items()
            if name.startswith("_manifest/") and "pending" not in name
        ]


def _filesystem(url: str) -> tuple[Any, str]:
    from pyarrow import fs

    if url.startswith("file://"):
        return fs.LocalFileSystem(), url.removeprefix("file://")
    endpoint, _ = shared_s3()
    key, secret = BUCKET_KEYS
    store = fs.S3FileSystem(
        access_key=key,
        secret_key=secret,
        endpoint_override=endpoint.removeprefix("http://"),
        scheme="http",
        region="us-east-1",
    )
    return store, url.removeprefix("s3://")


@cache
def shared_s3() -> tuple[str, str]:
    """The URL of a server that lives as long as the test run, and the name of its bucket."""
    (server,) = (server for server in SERVERS if server.name == "moto")
    running = ExitStack()
    folder = Path(running.enter_context(TemporaryDirectory(prefix="stream-moto-")))
    staging = running.enter_context(running_server(server, folder / "data"))
    atexit.register(running.close)
    return staging.endpoint, staging.bucket


def s3_connection(path: Path, prefix: str) -> dict[str, Any]:
    """A connection to a folder of the shared S3; its keys are written to a file below *path*."""
    endpoint, bucket = shared_s3()
    keys = path / "credentials.json"
    key, secret = BUCKET_KEYS
    keys.write_text(json.dumps({"accessKeyId": key, "secretAccessKey": secret}))
    return {
        "url": f"s3://{bucket}/{prefix}",
        "endpoint": endpoint,
        "region": "us-east-1",
        "credentialFile": str(keys),
    }


def declared(path: Path, connections: Mapping[str, Any]) -> Settings:
    """Settings with these connections, and staging below *path*."""
    settings = Settings()
    target = attrs.evolve(
        settings.target,
        connections=Connections.parse(connections),
        staging=attrs.evolve(settings.target.staging, url=(path / "staging").as_uri()),
    )
    return attrs.evolve(settings, target=target)


def _faults(world: ParquetWorld) -> dict[str, Fault]:
    """See `tests.target.test_contract.FAULTS`."""
    target: Any = world.target

    @asynccontextmanager
    async def dropped() -> AsyncIterator[None]:
        filesystem, root = _filesystem(world.root)
        filesystem.delete_dir(f"{root}/{world.path}")
        yield

    @asynccontextmanager
    async def unavailable() -> AsyncIterator[None]:
        (archive,) = target._connections.values()
        address = attrs.evolve(archive.address, endpoint="http://127.0.0.1:1")
        if archive.address.scheme == "file":
            address = attrs.evolve(archive.address, prefix=f"{archive.address.prefix}/no/folder")
        target._connections = {"archive": attrs.evolve(archive, address=address)}
        yield
        target._connections = {"archive": archive}

    return {"table dropped": dropped, "server unavailable": unavailable}


@asynccontextmanager
async def parquet_world(
    etcd: EtcdClient, path: Path, connection: Mapping[str, Any] | None = None
) -> AsyncIterator[ParquetWorld]:
    """A source and no sink yet; the sink's table has a path of its own.

    :param connection: a folder below *path* if it is left out.
    """
    pytest.importorskip("pyarrow", reason="pyarrow is not installed, see the extra `parquet`")
    from stream.target.parquet.target import ParquetTarget

    options = {"url": (path / "lake").as_uri(), **(connection or {})}
    settings = declared(path, {"archive": {"type": "parquet", **options}})
    async with context_of(etcd, settings) as (storage, context):
        target = ParquetTarget(context)
        share_workers(target)
        for service in (*target.services, *target.import_services):
            await maybeDeferred(service.startService)
        table = f"test/{secrets.token_hex(6)}"

        async def read() -> list[str]:
            if "_table.json" not in world.objects():
                raise LookupError("there is no table")
            return [row["body"] for row in world.rows()]

        world = ParquetWorld(
            storage=storage,
            target=target,
            changes=changes_with(storage, target),
            table=TableSink(
                type="parquet",
                options={"connection": "archive", "path": table},
                mapping=with_type(MAPPING),
            ),
            read=read,
            root=options["url"],
            path=table,
        )
        world.faults = _faults(world)
        await world.create_source()
        try:
            yield world
        finally:
            for service in (*target.import_services, *target.services):
                await maybeDeferred(service.stopService)


@asynccontextmanager
async def s3_world(etcd: EtcdClient, path: Path) -> AsyncIterator[ParquetWorld]:
    """The same in a bucket."""
    async with parquet_world(etcd, path, s3_connection(path, "lake")) as running:
        yield running
