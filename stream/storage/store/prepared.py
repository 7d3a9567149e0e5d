"""The remote resources of a new file, and the interface of the provider that creates them."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

import attrs

from stream.definition.entity import Sink, Source, TableSink
from stream.definition.transaction import Change
from stream.storage.model.key import FileKey

__all__ = ["FileProvider", "PreparedFile"]


@attrs.frozen
class PreparedFile:
    """The remote resources that were created for a file before the transaction that opens it.

    :ivar table: name of the table that the file is imported into.
    :ivar provider: name of the provider of staging and target.
    :ivar expiration: when the upload credentials expire; ``None`` for never.
    :ivar records: keys and values that are written in the same transaction as the file.
    """

    key: FileKey
    table: TableSink
    provider: str
    expiration: datetime | None
    records: tuple[tuple[str, bytes], ...] = attrs.field(repr=False)


class FileProvider(Protocol):
    """The provider of staging files and tables."""

    async def prepare(
        self, source: Source, sink: Sink, opened_at: datetime, *, token: str | None
    ) -> PreparedFile:
        """Create the resources that a file of *sink* needs.

        :param token: token of the user. Background operations pass ``None``; the sink's own stored
            token is then used.
        """

    async def renew(self, sink: Sink, file: FileKey) -> PreparedFile:
        """Create other staging storage for an open or closed file of *sink*.

        Raises UserError: no resources were created for the file before.
        """

    async def discard(self, prepared: PreparedFile) -> None:
        """Undo `prepare` or `renew` when the file is assumed not to use the resources.

        If the file does use the resources, they are kept. Errors are only logged.
        """

    async def committed(self, prepared: PreparedFile) -> None:
        """Remove the resources that these replace after the commit; errors are only logged."""

    async def deactivated(self, change: Change, sink: Sink, *, token: str | None) -> None:
        """Delete what a disabled or deleted sink no longer needs.

        :param token: token of the user.
        """

    async def deleted(self, change: Change, sink: Sink) -> None:
        """Delete what belonged to a sink that was deleted."""
