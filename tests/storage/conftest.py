from __future__ import annotations

import pytest

from stream.etcd import EtcdClient
from tests.storage.world import Storage


@pytest.fixture
def storage(etcd: EtcdClient) -> Storage:
    """Two volumes on two nodes, no definitions, no files."""
    return Storage(etcd)
