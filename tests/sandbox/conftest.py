"""A running sandbox for each test that uses it, and a client with its master token."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet import reactor

from stream.sandbox import FixedToken, SandboxService
from tests.sandbox.api import BUCKET, MASTER, Api

GUEST = "guest-token-for-tests"
READER = "reader-token-for-tests"


def make_service(path: Path, listen: str = "127.0.0.1:0") -> SandboxService:
    return SandboxService(
        reactor,
        listen=listen,
        path=str(path),
        token=MASTER,
        project_id=123,
        branch_id=456,
        extra_tokens=[
            FixedToken(GUEST, id="2", description="Guest", role="guest"),
            FixedToken(
                READER,
                id="3",
                description="Reader",
                is_master=False,
                bucket_permissions={BUCKET: "read"},
            ),
        ],
    )


@pytest_twisted.async_yield_fixture
async def service(tmp_path: Path) -> AsyncIterator[SandboxService]:
    service = make_service(tmp_path)
    await service.startService()
    yield service
    await service.stopService()


@pytest.fixture
def api(service: SandboxService) -> Api:
    return Api(service.url)
