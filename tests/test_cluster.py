"""The processes that need connections to staging."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import attrs
import pytest

from stream.cluster import _staging
from stream.settings import Settings, TargetStagingSettings
from stream.settings.connections import Connections

URL = "s3://bucket/staging"


@pytest.mark.parametrize(
    ("components", "url", "address"),
    [
        (["storage-reader"], URL, URL),
        (["storage-coordinator"], URL, URL),
        (["api"], URL, URL),
        (["api"], "", None),
        (["http-source", "storage-writer"], URL, None),
    ],
)
def test_processes_that_upload_import_or_replay(
    components: list[str], url: str, address: str | None
) -> None:
    """Readers and coordinators have staging, the API only if it is configured, and other processes
    none.
    """
    settings = Settings()
    declared = Connections.parse({"warehouse": {"type": "postgres", "dsn": "postgresql://db"}})
    target = attrs.evolve(
        settings.target, connections=declared, staging=TargetStagingSettings(url=url)
    )
    cluster: Any = SimpleNamespace(work=SimpleNamespace(pool=None))
    found = _staging(attrs.evolve(settings, target=target), components, None, cluster)
    assert (found and f"s3://{found.address.bucket}/{found.address.prefix}") == address
