"""What etcd says of slices and source nodes, as far as the writer needs it to open a file.

Nothing of it comes from the other end of a connection: that names a slice and itself, and etcd says
where the slice lies, how it is compressed, whether it is still written, and which life of the node
bears the node's name. Reads are linearizable: what was true before they began, they know.
"""

from __future__ import annotations

from typing import Protocol

import attrs
import orjson

from stream.etcd import EtcdClient, KeyValue
from stream.storage.model import prefix
from stream.storage.model.entity import LocalSlice, Slice
from stream.storage.model.key import SliceKey
from stream.storage.model.state import Level, SliceState
from stream.values.codec import decode

__all__ = ["WRITABLE", "EtcdRegister", "Register", "WrittenSlice", "state_of"]

WRITABLE = frozenset({SliceState.WRITING, SliceState.CLOSING})
"""States in which rows may come."""


@attrs.frozen
class WrittenSlice:
    """A slice in a state in which rows may come."""

    local: LocalSlice
    compression: str


class Register(Protocol):
    """Where the writer looks up what it is asked for."""

    async def look_up(self, key: SliceKey, node_id: str) -> tuple[WrittenSlice | None, int]:
        """The slice, ``None`` if it isn't written (any more), and the present life of the node.

        Raises an exception if it can't be found out.
        """

    async def life_of(self, node_id: str) -> int:
        """The number of the life that holds the name of a source node; 0 if none does."""


class EtcdRegister:
    """The `Register` in etcd."""

    def __init__(self, client: EtcdClient) -> None:
        self._client = client

    async def look_up(self, key: SliceKey, node_id: str) -> tuple[WrittenSlice | None, int]:
        slice_key = f"{prefix.slice_level(Level.LOCAL)}{key}"
        life_key = f"{prefix.SOURCE_LIFE}{node_id}"
        found, _ = await self._client.get_many([slice_key, life_key])
        return _written(found[slice_key]), _number(found[life_key])

    async def life_of(self, node_id: str) -> int:
        return _number(await self._client.get(f"{prefix.SOURCE_LIFE}{node_id}"))


def state_of(kv: KeyValue) -> SliceState:
    """The state of a stored slice; the rest of the record isn't checked."""
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
