"""The order of the steps of a change, and the steps skipped after a failure."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted

from stream.definition import lifecycle
from stream.definition.change.making import Author, DefinitionChange, DefinitionChanges
from stream.definition.entity import Sink
from stream.definition.key import SourceKey
from stream.definition.repository import Definitions
from stream.definition.transaction import Change
from stream.errors import UserError
from stream.etcd import AtomicTxn, EtcdClient
from tests.storage.histories.world import (
    BY,
    SINK_KEY,
    SOURCE_KEY,
    TABLE,
    RecordingProvider,
    Storage,
)


class Steps(RecordingProvider):
    """Records the steps in `steps`; is also the lock and the readers."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[str] = []

    async def lock(self, name: str, *, timeout: float) -> Any:
        self.steps.append(f"lock {name}")
        return self

    async def __aenter__(self) -> Steps:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.steps.append("unlock")

    async def release(self) -> None:
        self.steps.append("release")

    async def follow(self, source: SourceKey, txn: AtomicTxn) -> None:
        assert bool(txn.written_at) is txn.has_changed("definition/")
        self.steps.append(f"follow {source}")

    async def prepare(self, *arguments: Any, **options: Any) -> Any:
        self.steps.append("prepare")
        return await super().prepare(*arguments, **options)

    async def committed(self, prepared: Any) -> None:
        self.steps.append("committed")
        await super().committed(prepared)

    async def discard(self, prepared: Any) -> None:
        self.steps.append("discard")
        await super().discard(prepared)


def _changes(client: EtcdClient, steps: Steps) -> DefinitionChanges[Any]:
    storage = Storage(client)
    return DefinitionChanges(
        client, storage.repository, steps, storage.tick, locks=steps, readers=steps
    )


async def _create_source(changes: DefinitionChanges[Any]) -> None:
    creation = DefinitionChange(
        key=SOURCE_KEY,
        write=lambda change, definitions: definitions.create_source(
            change,
            lifecycle.new_source(
                SOURCE_KEY, type="http", name="S", secret="s" * 48, at=change.now, by=BY
            ),
        ),
    )
    await changes.make(creation, Author(BY))


async def _create_sink(change: Change, definitions: Definitions) -> Sink:
    new = lifecycle.new_sink(SINK_KEY, name="S", table=TABLE, at=change.now, by=BY)
    return await definitions.create_sink(change, new)


@pytest_twisted.ensureDeferred
async def test_all_steps_in_order(
    etcd: EtcdClient,
) -> None:
    steps = Steps()
    changes = _changes(etcd, steps)
    await _create_source(changes)
    assert steps.steps == [f"follow {SOURCE_KEY}"]
    steps.steps.clear()

    async def after(sink: Sink) -> None:
        steps.steps.append(f"after {sink.key.sink_id}")

    creation = DefinitionChange(key=SINK_KEY, write=_create_sink, makes_tables=True, after=after)
    await changes.make(creation, Author(BY, "token"), lambda: steps.steps.append("written"))
    assert steps.steps == [
        f"lock api.source.sinks.{SOURCE_KEY}",
        "prepare",
        "committed",
        f"follow {SOURCE_KEY}",
        "written",
        f"after {SINK_KEY.sink_id}",
        "unlock",
    ]


@pytest_twisted.ensureDeferred
async def test_a_change_refused_after_the_preparation(
    etcd: EtcdClient,
) -> None:
    steps = Steps()
    changes = _changes(etcd, steps)
    await _create_source(changes)
    steps.steps.clear()

    async def refused_at_last(change: Change, definitions: Definitions) -> Sink:
        sink = await _create_sink(change, definitions)
        if "prepare" in steps.steps:
            raise UserError("refused")
        return sink

    refused = DefinitionChange(key=SINK_KEY, write=refused_at_last, makes_tables=True)
    with pytest.raises(UserError, match="refused"):
        await changes.make(refused, Author(BY, "token"), lambda: steps.steps.append("written"))
    assert steps.steps == [f"lock api.source.sinks.{SOURCE_KEY}", "prepare", "discard", "unlock"]


@pytest_twisted.ensureDeferred
async def test_a_failure_after_the_commit(etcd: EtcdClient) -> None:
    steps = Steps()
    changes = _changes(etcd, steps)
    await _create_source(changes)

    async def after(sink: Sink) -> None:
        raise UserError("the tables can't be deleted")

    creation = DefinitionChange(key=SINK_KEY, write=_create_sink, after=after)
    with pytest.raises(UserError, match="tables"):
        await changes.make(creation, Author(BY, "token"), lambda: steps.steps.append("written"))
    assert steps.steps[-1] == "written"
    found = await changes.make(
        DefinitionChange(
            key=SINK_KEY, write=lambda change, definitions: definitions.sink(change, SINK_KEY)
        ),
        Author(BY),
    )
    assert found.key == SINK_KEY
