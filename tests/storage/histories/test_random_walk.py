"""Random operations on files and slices in any order keep the invariants of the model."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Coroutine
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import ensureDeferred

from stream.definition.entity import SettingOverride
from stream.errors import UserError
from stream.etcd import EtcdClient, Session
from stream.storage.model.entity import File, Slice
from stream.storage.model.state import FileState, SliceState
from tests.storage.histories.world import SINK, SOURCE, Storage

STEPS = 40
SINK_OF_TWO_VOLUMES = attrs.evolve(
    SINK, config=(SettingOverride("storage.level.local.volume.assignment.count", 2),)
)


@attrs.define
class Walk:
    """Random steps. Those that the state doesn't allow must be refused without changes.

    :ivar received: records that source nodes have counted.
    :ivar lost: records of deleted files that were never imported.
    """

    storage: Storage
    session: Session
    choice: random.Random
    received: int = 0
    lost: int = 0
    counted: dict[str, int] = attrs.Factory(dict)

    async def step(self) -> str:
        name = self.choice.choice(
            ["receive"] * 3
            + ["rotate_slice", "rotate_slice", "rotate_file", "close", "delete", "fail"]
            + ["advance_slice"] * 4
            + ["advance_file"] * 3
        )
        files, slices = await self.storage.files(), await self.storage.slices()
        if not any(file.state is FileState.WRITING for file in files):
            name = "open"
        with contextlib.suppress(UserError):
            await getattr(self, f"_{name}")(files, slices)
        return name

    async def _open(self, files: list[File], slices: list[Slice]) -> None:
        await self.storage.open_file(SINK_OF_TWO_VOLUMES, SOURCE)

    async def _close(self, files: list[File], slices: list[Slice]) -> None:
        await self.storage.close_files()

    async def _receive(self, files: list[File], slices: list[Slice]) -> None:
        """Report more records of an open slice, as a source node does."""
        writing = [slice_ for slice_ in slices if slice_.state is SliceState.WRITING]
        slice_ = self.choice.choice(writing)
        node = f"source-{self.choice.randrange(3)}"
        key, more = f"{slice_.key}/{node}", self.choice.randrange(1, 20)
        self.counted[key] = self.counted.get(key, 0) + more
        self.received += more
        await self.storage.count(slice_.key, self.counted[key], node)

    async def _rotate_slice(self, files: list[File], slices: list[Slice]) -> None:
        key = self.choice.choice(slices).key
        opened = await self._both(self.storage.rotate_slice(key), self.storage.rotate_slice(key))
        assert sum(result is not None for result in opened) <= 1

    async def _rotate_file(self, files: list[File], slices: list[Slice]) -> None:
        key = self.choice.choice(files).key
        opened = await self._both(self.storage.rotate_file(key), self.storage.rotate_file(key))
        assert sum(result is not None for result in opened) <= 1

    async def _both(self, *steps: Coroutine[Any, Any, object]) -> list[object]:
        """Run steps concurrently, and return the results of those that were not refused."""
        running = [ensureDeferred(step) for step in steps]
        results: list[object] = []
        for step in running:
            with contextlib.suppress(UserError):
                results.append(await step)
        return results

    async def _advance_slice(self, files: list[File], slices: list[Slice]) -> None:
        key = self.choice.choice(slices).key
        if self.choice.random() < 0.5:
            await self.storage.to_uploading(key)
        else:
            await self.storage.to_uploaded(key)

    async def _advance_file(self, files: list[File], slices: list[Slice]) -> None:
        closed = [file.key for file in files if file.state is not FileState.WRITING]
        key = self.choice.choice(closed or [files[0].key])
        if self.choice.random() < 0.5:
            await self.storage.finish_slices(key)
        if self.choice.random() < 0.5:
            await self.storage.to_importing(key)
        else:
            await self.storage.to_imported(key)

    async def _fail(self, files: list[File], slices: list[Slice]) -> None:
        file, slice_ = self.choice.choice(files), self.choice.choice(slices)
        repository, now = self.storage.repository, self.storage.now
        await self.storage.step(lambda txn: repository.file_failed(txn, file.key, "x", now))
        await self.storage.step(lambda txn: repository.slice_failed(txn, slice_.key, "x", now))

    async def _delete(self, files: list[File], slices: list[Slice]) -> None:
        closed = [file for file in files if file.state is not FileState.WRITING]
        if not closed:
            return
        file = self.choice.choice(closed)
        async with await self.session.lock("walk", timeout=10) as lock:
            statistics = await self.storage.repository.delete_file(
                self.storage.client, file.key, lock
            )
        if file.state is not FileState.IMPORTED:
            self.lost += statistics.records_count


@pytest.mark.parametrize("seed", range(6))
@pytest_twisted.ensureDeferred
async def test_the_invariants_hold(etcd: EtcdClient, seed: int) -> None:
    """After each of many random steps the records are consistent, and every received record is
    counted.
    """
    session = Session(etcd, ttl=30, reactor=reactor)
    await session.startService()
    storage = Storage(etcd)
    await storage.define(sink=SINK)
    walk = Walk(storage, session, random.Random(seed))
    taken = []
    try:
        for _ in range(STEPS):
            taken.append(await walk.step())
            await storage.check()
            assert await storage.records_count() == walk.received - walk.lost, taken
    finally:
        await session.stopService()
