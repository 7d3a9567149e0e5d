"""A sink with an Iceberg table: a catalog in SQLite or over REST, data in a folder or in S3."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest

from stream.definition.entity import TableSink
from stream.etcd import EtcdClient
from tests.mounting import full_disk, read_only
from tests.storage.samples import MAPPING
from tests.target.iceberg.rest import shared_rest_catalog
from tests.target.lake.workers import share_workers
from tests.target.parquet.world import declared, shared_store
from tests.target.postgres.world import with_type
from tests.target.world import Fault, World, changes_with, context_of, started

__all__ = ["IcebergWorld", "iceberg_world", "rest_world", "s3_warehouse_world"]


@attrs.define(kw_only=True)
class IcebergWorld(World):
    """A sink's Iceberg table.

    :ivar properties: pyiceberg's properties of the catalog.
    :ivar identifier: the identifier of the table.
    """

    properties: Mapping[str, str]
    identifier: tuple[str, str]

    def catalog(self) -> Any:
        """Return the catalog of pyiceberg."""
        from pyiceberg.catalog import load_catalog

        return load_catalog("lake", **self.properties)

    def loaded(self) -> Any:
        """Return the table. Raises LookupError if there is none."""
        from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError

        try:
            return self.catalog().load_table(self.identifier)
        except (NoSuchTableError, NoSuchNamespaceError):
            raise LookupError("there is no table") from None

    def rows(self) -> list[dict[str, Any]]:
        """Return all rows with pyiceberg."""
        rows: list[dict[str, Any]] = self.loaded().scan().to_arrow().to_pylist()
        return rows


@asynccontextmanager
async def iceberg_world(
    etcd: EtcdClient, path: Path, catalog: Mapping[str, str] | None = None, **options: Any
) -> AsyncIterator[IcebergWorld]:
    """A source without a sink; the table of a new sink is in a separate namespace.

    :param catalog: the catalog, in SQLite by default.
    """
    pytest.importorskip("pyiceberg", reason="pyiceberg is not installed, see the extra `iceberg`")
    from stream.target.iceberg.target import IcebergTarget

    if catalog is None:
        warehouse = path / "warehouse"
        warehouse.mkdir(exist_ok=True)
        catalog = {
            "type": "sql",
            "uri": f"sqlite:///{path}/catalog.db?timeout=60",
            "warehouse": warehouse.as_uri(),
        }
    settings = declared(path, {"lake": {"type": "iceberg", "catalog": dict(catalog), **options}})
    async with context_of(etcd, settings) as (storage, context):
        target = IcebergTarget(context)
        share_workers(target)
        namespace = f"test_{secrets.token_hex(6)}"

        async def read() -> list[str]:
            return [row["body"] for row in world.rows()]

        world = IcebergWorld(
            storage=storage,
            target=target,
            changes=changes_with(storage, target),
            table=TableSink(
                type="iceberg",
                options={"connection": "lake", "namespace": namespace, "table": "events"},
                mapping=with_type(MAPPING),
            ),
            read=read,
            properties={k: v for k, v in catalog.items() if k != "credentialFile"},
            identifier=(namespace, "events"),
        )
        world.faults = _faults(world)
        async with started(target):
            await world.create_source()
            yield world


@asynccontextmanager
async def rest_world(etcd: EtcdClient, path: Path) -> AsyncIterator[IcebergWorld]:
    """A source as in `iceberg_world`, with Apache Iceberg's REST catalog."""
    async with iceberg_world(etcd, path, {"type": "rest", "uri": shared_rest_catalog()}) as running:
        yield running


@asynccontextmanager
async def s3_warehouse_world(etcd: EtcdClient, path: Path) -> AsyncIterator[IcebergWorld]:
    """A source as in `iceberg_world`, with a warehouse in S3, whose keys are in the credential
    file.
    """
    staging = shared_store("moto")
    keys = {"s3.access-key-id": staging.key_id, "s3.secret-access-key": staging.secret}
    credentials = path / "catalog.json"
    credentials.write_text(json.dumps(keys))
    catalog = {
        "type": "sql",
        "uri": f"sqlite:///{path}/catalog.db?timeout=60",
        "warehouse": f"s3://{staging.bucket}/warehouse",
        "s3.endpoint": staging.endpoint,
        "s3.region": staging.region,
        "credentialFile": str(credentials),
    }
    async with iceberg_world(etcd, path, catalog) as running:
        running.properties = {**running.properties, **keys}
        yield running


def _faults(world: IcebergWorld) -> dict[str, Fault]:
    """See `tests.target.test_contract.FAULTS`."""
    target: Any = world.target

    @asynccontextmanager
    async def dropped() -> AsyncIterator[None]:
        world.catalog().drop_table(world.identifier)
        yield

    @asynccontextmanager
    async def missing() -> AsyncIterator[None]:
        with world.loaded().update_schema() as update:
            update.rename_column("body", "old")
        yield
        with world.loaded().update_schema() as update:
            update.rename_column("old", "body")

    @asynccontextmanager
    async def unavailable() -> AsyncIterator[None]:
        (catalog,) = target._connections.values()
        plain = {**catalog.plain, "uri": "http://127.0.0.1:1"}
        if catalog.plain["type"] == "sql":
            plain["uri"] = "sqlite:////no/such/folder/catalog.db"
        target._connections = {"lake": attrs.evolve(catalog, plain=plain)}
        yield
        target._connections = {"lake": catalog}

    def on_disk(broken: Callable[[Path], AbstractContextManager[None]]) -> Fault:
        @asynccontextmanager
        async def fault() -> AsyncIterator[None]:
            with broken(Path(world.properties["warehouse"].removeprefix("file://"))):
                yield

        return fault

    return {
        "rights revoked": on_disk(read_only),
        "disk full": on_disk(full_disk),
        "table dropped": dropped,
        "column missing": missing,
        "server unavailable": unavailable,
    }
