"""The remote resources of a new file, and the interface of their provider."""

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
    """Remote resources created for a file before the transaction that opens it.

    :ivar table: the table of the file.
    :ivar provider: provider of staging and target.
    :ivar expiration: when the upload credentials expire; ``None`` for never.
    :ivar records: keys and values to be put together with the file.
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

        :param token: token of the user; ``None`` in the background, where the sink's own stored
            token is used.
        """

    async def renew(self, sink: Sink, file: FileKey) -> PreparedFile:
        """Create other staging storage for an open or closed file of *sink*.

        Raises UserError: nothing was created for the file before.
        """

    async def discard(self, prepared: PreparedFile) -> None:
        """Undo `prepare` or `renew`: the caller assumes that the file doesn't use the resources.

        Errors are only logged. If the file does use them, they are kept.
        """

    async def committed(self, prepared: PreparedFile) -> None:
        """Remove what the resources replace, after the file's commit; errors are only logged."""

    async def deactivated(self, change: Change, sink: Sink, *, token: str | None) -> None:
        """Delete what a disabled or deleted sink no longer needs.

        :param token: token of the user.
        """

    async def deleted(self, change: Change, sink: Sink) -> None:
        """The sink was deleted."""
