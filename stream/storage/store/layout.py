"""The version of the data layout in etcd and on volumes.

Note [Layout version]: a cluster without a version has the layout of the original service, which
every version of this service reads. Before a version writes data that older versions can't read, it
must write the number of its layout to the key. Older versions then refuse to start.
"""

from __future__ import annotations

import attrs
from twisted.application.service import Service

from stream.errors import UserError
from stream.etcd import EtcdClient
from stream.values.codec import Record, decode

__all__ = ["LAYOUT_KEY", "LAYOUT_VERSION", "Layout", "LayoutGuard", "check_layout"]

LAYOUT_KEY = "storage/layout"
LAYOUT_VERSION = 1


@attrs.frozen
class Layout(Record):
    """The stored layout version.

    :ivar written_by: version of the service that wrote the record; informational.
    """

    version: int = LAYOUT_VERSION
    written_by: str = ""


def check_layout(value: bytes) -> None:
    """Check that the layout isn't newer than this service. Raises UserError."""
    try:
        layout = decode(Layout, value)
    except ValueError as error:
        raise _refusal(f"can't be read: {error}") from None
    if layout.version > LAYOUT_VERSION:
        by = f", written by {layout.written_by}" if layout.written_by else ""
        raise _refusal(
            f"has version {layout.version}{by}, but this service supports only {LAYOUT_VERSION}"
        )


def _refusal(reason: str) -> UserError:
    return UserError(
        f'the layout of the data in etcd ("{LAYOUT_KEY}") {reason}',
        name="layoutTooNew",
        status=500,
        detail="start the version of the service that wrote it, or a newer one",
    )


class LayoutGuard(Service):
    """Prevents a process from starting on data that it can't read."""

    def __init__(self, client: EtcdClient) -> None:
        self._client = client

    async def startService(self) -> None:
        """Check the layout. Raises UserError if it is newer than this service."""
        super().startService()
        stored = await self._client.get(LAYOUT_KEY)
        if stored is not None:
            check_layout(stored.value)
