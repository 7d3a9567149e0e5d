"""The writer's register, controlled by the test instead of etcd."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import attrs

from stream.storage.model.entity import Slice
from stream.storage.model.key import SliceKey
from stream.storage.network.interface import SourceLife
from stream.storage.writer.register import WrittenSlice

__all__ = ["LIFE", "FakeRegister"]

LIFE = SourceLife("source-1", 7)
"""The current life of a source node, in tests with a constant one."""


async def _always(_: SliceKey) -> bool:
    return True


@attrs.define
class FakeRegister:
    """A register that the test controls.

    :ivar slices: all known slices by key.
    :ivar may_be_written: whether a slice is in a state that accepts rows.
    :ivar lives: numbers of the lives of source nodes other than the usual one.
    """

    slices: dict[SliceKey, Slice]
    may_be_written: Callable[[SliceKey], Awaitable[bool]] = _always
    lives: dict[str, int] = attrs.Factory(dict)

    @classmethod
    def of(
        cls, *slices: Slice, may_be_written: Callable[[SliceKey], Awaitable[bool]] = _always
    ) -> FakeRegister:
        return cls({slice_.key: slice_ for slice_ in slices}, may_be_written)

    async def look_up(self, key: SliceKey, node_id: str) -> tuple[WrittenSlice | None, int]:
        slice_ = self.slices.get(key)
        life = await self.life_of(node_id)
        if slice_ is None or not await self.may_be_written(key):
            return None, life
        return WrittenSlice(slice_.local, slice_.encoding.compression.type), life

    async def life_of(self, node_id: str) -> int:
        return self.lives.get(node_id, LIFE.number)
