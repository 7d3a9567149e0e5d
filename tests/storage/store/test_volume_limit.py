"""The maximum number of volumes of a sink."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted

from stream.etcd import EtcdClient
from stream.storage.store.volume_limit import (
    ALWAYS_POSSIBLE,
    OPERATIONS_PER_VOLUME,
    VolumeLimit,
)


class Client:
    """An etcd with a maximum number of operations.

    :ivar asked: number of requests.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.asked = 0

    async def takes_operations(self, count: int) -> bool:
        self.asked += 1
        return count <= self._most


@pytest_twisted.ensureDeferred
async def test_the_limit_of_etcd(etcd: EtcdClient) -> None:
    """The limit is 128 by default."""
    assert await etcd.takes_operations(128)
    assert not await etcd.takes_operations(129)
    assert not await etcd.takes_operations(5000)


@pytest_twisted.ensureDeferred
async def test_few_volumes_are_always_allowed() -> None:
    """etcd isn't queried, since the default is enough for them."""
    client: Any = Client(0)
    assert [await VolumeLimit(client).of(wanted) for wanted in (0, 1, ALWAYS_POSSIBLE)] == [
        *(0, 1, ALWAYS_POSSIBLE)
    ]
    assert not client.asked
    assert OPERATIONS_PER_VOLUME * (ALWAYS_POSSIBLE + 1) <= 128


@pytest.mark.parametrize(("most", "volumes"), [(128, ALWAYS_POSSIBLE), (1024, 100)])
@pytest_twisted.ensureDeferred
async def test_the_limit_is_cached(most: int, volumes: int) -> None:
    """Once the limit is known, etcd isn't queried again."""
    client: Any = Client(most)
    limit = VolumeLimit(client)
    assert await limit.of(100) == volumes
    assert await limit.of(volumes) == volumes
    assert client.asked == 1
