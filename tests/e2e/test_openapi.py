"""The running API agrees with its OpenAPI document."""

from __future__ import annotations

from tests.e2e.openapi.run import run
from tests.e2e.processes import Deployment


def test_the_api_agrees_with_its_document(deployed: Deployment) -> None:
    """No generated request gets a server error or an answer that isn't in the document."""
    deployed.start("etcd", "sandbox", "api", "storage-writer")
    result = run(deployed, examples=2, seed=1)
    assert result.code == 0, result.output
    assert result.calls > 1000
