"""The state of slices and source nodes in etcd that the writer needs to open a file.

A source node sends only the names of the slice and of itself. The slice's path and compression, its
state, and the life that holds the node's name are read from etcd. Reads are linearizable: they
reflect everything that was written before they began.

A source node may open thousands of files at a time, and each is looked up twice. The files that
wait at the same time are looked up in one request. It is sent again if it has no answer soon, so
that a connection that never answers doesn't delay the files until the source node gives them up.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Protocol

import attrs
import orjson
from twisted.internet.defer import ensureDeferred

from stream.concurrency.gathered import Gathered
from stream.concurrency.hedged import hedged
from stream.etcd import EtcdClient, EtcdUnavailable, KeyValue
from stream.storage.model import prefix
from stream.storage.model.entity import LocalSlice, Slice
from stream.storage.model.key import SliceKey
from stream.storage.model.state import Level, SliceState
from stream.values.codec import decode

__all__ = ["WRITABLE", "EtcdRegister", "Register", "WrittenSlice", "state_of"]

WRITABLE = frozenset({SliceState.WRITING, SliceState.CLOSING})
"""States in which rows may be appended."""

LOOKED_UP_TOGETHER = 50
"""Maximum number of slices in one request; each needs up to two reads."""
REQUESTS_AT_ONCE = 4
"""Maximum number of concurrent requests, without repetitions."""
ASK_AGAIN_SECONDS = 2.0
"""Seconds without an answer after which a request is sent again; far above those of a slow etcd."""


@attrs.frozen
class WrittenSlice:
    """A slice in a state in which rows may be appended."""

    local: LocalSlice
    compression: str


class Register(Protocol):
    """Provides the state that the writer checks."""

    async def look_up(self, key: SliceKey, node_id: str) -> tuple[WrittenSlice | None, int]:
        """Return the slice, or ``None`` if it accepts no rows, and the current life of the node.

        Raises an exception if the state can't be read.
        """

    async def life_of(self, node_id: str) -> int:
        """Return the number of the life that holds the name of a source node; 0 if none does."""


class EtcdRegister:
    """The `Register` in etcd."""

    def __init__(self, client: EtcdClient) -> None:
        self._client = client
        self._together: Gathered[tuple[SliceKey, str], tuple[WrittenSlice | None, int]] = Gathered(
            self._look_up_together, most=LOOKED_UP_TOGETHER, at_once=REQUESTS_AT_ONCE
        )

    async def look_up(self, key: SliceKey, node_id: str) -> tuple[WrittenSlice | None, int]:
        return await self._together.ask((key, node_id))

    async def _look_up_together(
        self, asked: Sequence[tuple[SliceKey, str]]
    ) -> list[tuple[WrittenSlice | None, int] | Exception]:
        """Return the slices and lives. A record that can't be read is the failure of its slice."""
        keys = [_keys(key, node_id) for key, node_id in asked]
        wanted = list(dict.fromkeys(chain.from_iterable(keys)))
        found, _ = await hedged(
            lambda: ensureDeferred(self._client.get_many(wanted)),
            ASK_AGAIN_SECONDS,
            self._client.reactor,
            (EtcdUnavailable,),
        )
        results: list[tuple[WrittenSlice | None, int] | Exception] = []
        for slice_key, life_key in keys:
            try:
                results.append((_written(found[slice_key]), _number(found[life_key])))
            except Exception as error:
                results.append(error)
        return results

    async def life_of(self, node_id: str) -> int:
        return _number(await self._client.get(f"{prefix.SOURCE_LIFE}{node_id}"))


def _keys(key: SliceKey, node_id: str) -> tuple[str, str]:
    return f"{prefix.slice_level(Level.LOCAL)}{key}", f"{prefix.SOURCE_LIFE}{node_id}"


def state_of(kv: KeyValue) -> SliceState:
    """Return the state of a stored slice without checking the rest of the record."""
    return SliceState(orjson.loads(kv.value)["state"])


def _written(kv: KeyValue | None) -> WrittenSlice | None:
    if kv is None:
        return None
    slice_ = decode(Slice, kv.value)
    if slice_.state not in WRITABLE:
        return None
    return WrittenSlice(slice_.local, slice_.encoding.compression.type)


def _number(kv: KeyValue | None) -> int:
    return 0 if kv is None else kv.create_revision
