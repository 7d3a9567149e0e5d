"""The probe of a connection to a store."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytest_twisted

from stream.errors import UserError
from stream.etcd import EtcdClient
from stream.target.parquet.target import ParquetTarget
from tests.target.parquet.world import declared, s3_connection
from tests.target.world import context_of

ensure = pytest_twisted.ensureDeferred


@ensure
async def test_probe(etcd: EtcdClient, tmp_path: Path) -> None:
    """An existing bucket and an existing folder are available; the message contains no address."""
    connections = {
        "bucket": {"type": "parquet", **s3_connection(tmp_path, "probe")},
        "folder": {"type": "parquet", "url": (tmp_path / "lake").as_uri()},
        "missing": {"type": "parquet", "url": (tmp_path / "not" / "there").as_uri()},
    }
    async with context_of(etcd, declared(tmp_path, connections)) as (_, context):
        target = ParquetTarget(context)
        await target.probe("bucket")
        await target.probe("folder")
        with pytest.raises(UserError) as caught:
            await target.probe("missing")
    assert str(caught.value) == "the store does not answer, or rejects the credentials"
