"""Definitions in a real etcd, with hooks that record their calls."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import TypeVar

import pytest

from stream.definition import lifecycle
from stream.definition.entity import By, KeboolaTable, Sink, Source, TableSink
from stream.definition.key import BranchKey, SinkKey, SourceKey
from stream.definition.repository import Definitions
from stream.definition.transaction import Change
from stream.etcd import AtomicTxn, EtcdClient, atomic
from stream.mapping.columns import BodyColumn, Mapping, UuidColumn
from stream.values.utctime import parse_time

T = TypeVar("T")

BY = By("user", token_id="1", user_name="Ann")
START = parse_time("2024-01-15T10:30:00.000Z")
BRANCH = BranchKey(123, 456)
SOURCE = BRANCH.source("my-source")
SINK = SOURCE.sink("my-sink")
TABLE = TableSink(
    type="keboola",
    keboola=KeboolaTable("in.c-bucket.table"),
    mapping=Mapping((UuidColumn(name="id"), BodyColumn(name="body"))),
)


class RecordingHooks:
    """Hooks that record their calls.

    :ivar calls: event and sink id, in order.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []

    def reads(self, key: SinkKey) -> Sequence[str]:
        return ()

    async def sink_activated(self, change: Change, source: Source, sink: Sink) -> None:
        self.calls.append(("activated", sink.key.sink_id))

    async def sink_deactivated(self, change: Change, sink: Sink) -> None:
        self.calls.append(("deactivated", sink.key.sink_id))

    async def sink_modified(self, change: Change, source: Source, sink: Sink) -> None:
        self.calls.append(("modified", sink.key.sink_id))

    async def sink_deleted(self, change: Change, sink: Sink) -> None:
        self.calls.append(("deleted", sink.key.sink_id))


class World:
    """Runs one change after the other, with a second between them."""

    def __init__(self, client: EtcdClient) -> None:
        self.client = client
        self.hooks = RecordingHooks()
        self.now: datetime = START

    async def change(self, body: Callable[[Change, Definitions], Awaitable[T]]) -> T:
        self.now += timedelta(seconds=1)
        self.hooks.calls.clear()

        async def attempt(txn: AtomicTxn) -> T:
            return await body(Change(txn, self.now, BY), Definitions(self.hooks))

        return await atomic(self.client, attempt)

    async def create_source(self, key: SourceKey = SOURCE, secret: str = "s" * 48) -> Source:
        return await self.change(
            lambda change, definitions: definitions.create_source(
                change,
                lifecycle.new_source(
                    key, type="http", name="Name", secret=secret, at=change.now, by=change.by
                ),
            )
        )

    async def create_sink(self, key: SinkKey = SINK) -> Sink:
        return await self.change(
            lambda change, definitions: definitions.create_sink(
                change,
                lifecycle.new_sink(key, name="Name", table=TABLE, at=change.now, by=change.by),
            )
        )

    async def keys(self, prefix: str) -> list[str]:
        """Return the rest of all keys below *prefix*."""
        found = await self.client.range(prefix)
        return [stored.key.removeprefix(prefix) for stored in found.kvs]


@pytest.fixture
def world(etcd: EtcdClient) -> World:
    return World(etcd)
