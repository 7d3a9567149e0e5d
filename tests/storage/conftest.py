from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as _reactor

from stream.etcd import EtcdClient, Session
from tests.storage.histories.world import Storage

reactor: Any = _reactor


@pytest.fixture
def storage(etcd: EtcdClient) -> Storage:
    """Two volumes on two nodes, without definitions and files."""
    return Storage(etcd)


@pytest_twisted.async_yield_fixture()
async def session(etcd: EtcdClient) -> AsyncIterator[Session]:
    """A started session, for locks."""
    made = Session(etcd, ttl=30, reactor=reactor)
    await made.startService()
    yield made
    await made.stopService()
