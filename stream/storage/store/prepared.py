"""What a new file needs from outside the database, and who provides it."""

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
    """What the target's owner made remotely for a file, before the transaction that opens it.

    :ivar table: for which it was made.
    :ivar provider: of staging and target.
    :ivar expiration: until when the upload credentials are good; ``None`` for ever.
    :ivar records: keys and values to be put together with the file.
    """

    key: FileKey
    table: TableSink
    provider: str
    expiration: datetime | None
    records: tuple[tuple[str, bytes], ...] = attrs.field(repr=False)


class FileProvider(Protocol):
    """The owner of staging files and tables."""

    async def prepare(
        self, source: Source, sink: Sink, opened_at: datetime, *, token: str | None
    ) -> PreparedFile:
        """Make what a file of *sink* needs.

        :param token: of the user who asks; ``None`` in the background, where the sink's own
            stored token serves.
        """

    async def renew(self, sink: Sink, file: FileKey) -> PreparedFile:
        """Make other staging storage for a file of *sink* that is open or closed already.

        Raises UserError if nothing was made for the file before.
        """

    async def discard(self, prepared: PreparedFile) -> None:
        """The file doesn't use it, as far as the caller knows: undo `prepare` or `renew`.

        Errors are only logged. If the file uses it after all, it is left as it is.
        """

    async def committed(self, prepared: PreparedFile) -> None:
        """The file uses it: remove what it replaced; errors are only logged."""

    async def deactivated(self, change: Change, sink: Sink, *, token: str | None) -> None:
        """The sink was disabled or deleted: delete what it doesn't need any more.

        :param token: of the user who did it.
        """

    async def deleted(self, change: Change, sink: Sink) -> None:
        """The sink was deleted."""
