"""A sink with Parquet files, in a folder or in an object store that all tests share."""

from __future__ import annotations

import atexit
import base64
import json
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import attrs
import obstore
import pytest
from obstore.store import LocalStore

from stream.definition.entity import TableSink
from stream.etcd import EtcdClient
from stream.sandbox import ObjectStaging
from stream.settings import Settings
from stream.settings.connections import Connections
from tests.mounting import full_disk, read_only
from tests.staging.servers import SERVERS, bucket_options, credentials_of, running_server
from tests.storage.samples import MAPPING
from tests.target.lake.workers import share_workers
from tests.target.postgres.world import with_type
from tests.target.world import Fault, World, changes_with, context_of, started

__all__ = [
    "ParquetWorld",
    "azure_world",
    "declared",
    "gcs_world",
    "parquet_world",
    "s3_connection",
    "s3_world",
    "shared_store",
]


@attrs.define(kw_only=True)
class ParquetWorld(World):
    """A sink's table of Parquet files.

    :ivar root: URL of the folder of all tables.
    :ivar path: path of the table below it.
    :ivar store: opens a store of obstore, whose folder ``lake`` is the root.
    """

    root: str
    path: str
    store: Callable[[], Any]

    def objects(self) -> dict[str, bytes]:
        """Return all objects of the table by their names below its path."""
        below, store = f"lake/{self.path}", self.store()
        return {
            found["path"].removeprefix(f"{below}/"): bytes(
                obstore.get(store, found["path"]).bytes()
            )
            for page in obstore.list(store, below)
            for found in page
        }

    def remove(self) -> None:
        """Remove all objects of the table."""
        for name in self.objects():
            obstore.delete(self.store(), f"lake/{self.path}/{name}")

    def rows(self) -> list[dict[str, Any]]:
        """Return all rows of all Parquet files with pyarrow."""
        import pyarrow.parquet as pq
        from pyarrow import BufferReader

        return [
            row
            for name, body in self.objects().items()
            if name.endswith(".parquet")
            for row in pq.ParquetFile(BufferReader(body)).read().to_pylist()
        ]

    def manifests(self) -> list[dict[str, Any]]:
        """Return the complete objects in all manifests."""
        return [
            json.loads(body)
            for name, body in self.objects().items()
            if name.startswith("_manifest/") and "pending" not in name
        ]


@cache
def shared_store(name: str) -> ObjectStaging:
    """Return a server that runs until the end of the tests, and its bucket.

    :param name: a name in `tests.staging.servers.SERVERS`.
    """
    (server,) = (server for server in SERVERS if server.name == name)
    running = ExitStack()
    folder = Path(running.enter_context(TemporaryDirectory(prefix="stream-objects-")))
    staging = running.enter_context(running_server(server, folder / "data"))
    atexit.register(running.close)
    return staging


def _connection(name: str, path: Path, prefix: str) -> dict[str, Any]:
    """Return a connection to a folder of a shared store; its keys are written to a file below
    *path*.
    """
    staging = shared_store(name)
    keys = path / "credentials.json"
    keys.write_text(credentials_of(staging))
    return {**bucket_options(staging, prefix), "credentialFile": str(keys)}


def s3_connection(path: Path, prefix: str) -> dict[str, Any]:
    """Return a connection to a folder of the shared S3."""
    return _connection("moto", path, prefix)


def declared(path: Path, connections: Mapping[str, Any]) -> Settings:
    """Return settings with these connections, and staging below *path*."""
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
        world.remove()
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

    @asynccontextmanager
    async def refused() -> AsyncIterator[None]:
        (archive,) = target._connections.values()
        if archive.address.scheme == "file":
            with read_only(Path(archive.address.prefix)):
                yield
            return
        keys = Path(archive.address.credential_file)
        wrong = keys.with_name("wrong.json")
        wrong.write_text(json.dumps({"accountKey": base64.b64encode(b"wrong").decode()}))
        address = attrs.evolve(archive.address, credential_file=str(wrong))
        target._connections = {"archive": attrs.evolve(archive, address=address)}
        yield
        target._connections = {"archive": archive}

    @asynccontextmanager
    async def full() -> AsyncIterator[None]:
        (archive,) = target._connections.values()
        with full_disk(Path(archive.address.prefix)):
            yield

    return {
        "table dropped": dropped,
        "server unavailable": unavailable,
        "rights revoked": refused,
        "disk full": full,
    }


@asynccontextmanager
async def parquet_world(
    etcd: EtcdClient,
    path: Path,
    connection: Mapping[str, Any] | None = None,
    store: Callable[[], Any] | None = None,
) -> AsyncIterator[ParquetWorld]:
    """A source without a sink; the table of a new sink has a separate path.

    :param connection: a folder below *path* by default.
    :param store: opens a store of obstore, where the connection is the folder ``lake``.
    """
    pytest.importorskip("pyarrow", reason="pyarrow is not installed, see the extra `parquet`")
    from stream.target.parquet.target import ParquetTarget

    options = {"url": (path / "lake").as_uri(), **(connection or {})}
    folder = Path(options["url"].removeprefix("file://"))
    settings = declared(path, {"archive": {"type": "parquet", **options}})
    async with context_of(etcd, settings) as (storage, context):
        target = ParquetTarget(context)
        share_workers(target)
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
            store=store or (lambda: LocalStore(folder.parent)),
        )
        world.faults = _faults(world)
        async with started(target):
            await world.create_source()
            yield world


def _in_store(name: str) -> Callable[[EtcdClient, Path], AbstractAsyncContextManager[ParquetWorld]]:
    @asynccontextmanager
    async def world(etcd: EtcdClient, path: Path) -> AsyncIterator[ParquetWorld]:
        connection = _connection(name, path, "lake")
        store = shared_store(name)._open
        async with parquet_world(etcd, path, connection, store) as running:
            yield running

    return world


s3_world = _in_store("moto")
azure_world = _in_store("azurite")
gcs_world = _in_store("fake-gcs-server")
"""The same in a bucket."""
