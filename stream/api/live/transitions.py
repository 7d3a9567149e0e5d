"""The conversion of changes of files and slices to events. Pure.

Only files and slices that aren't imported yet are followed (levels local and staging): imported
ones are kept for a day, and there may be very many of them. So a file or slice that disappears from
both levels was either imported or deleted; its record says which.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import attrs

from stream.storage.model.key import FileKey, SliceKey
from stream.storage.model.retry import NO_RETRY, Retry
from stream.storage.model.state import FileState, SliceState
from stream.values.codec import field
from stream.values.utctime import format_time

__all__ = ["DELETED", "FileInPipeline", "SliceInPipeline", "transition"]

DELETED = "deleted"
"""The shown state of a file or slice whose record was deleted."""


@attrs.frozen(kw_only=True)
class FileInPipeline:
    """The part of a file that is shown; see `stream.storage.model.entity.File`."""

    key: FileKey = field(flatten=True)
    retry: Retry = field(flatten=True, default=NO_RETRY)
    state: FileState
    closing_at: datetime | None = None
    importing_at: datetime | None = None
    imported_at: datetime | None = None

    @property
    def since(self) -> datetime:
        """When the file reached its current state."""
        return self.imported_at or self.importing_at or self.closing_at or self.key.file_opened_at


@attrs.frozen(kw_only=True)
class SliceInPipeline:
    """The part of a slice that is shown; see `stream.storage.model.entity.Slice`."""

    key: SliceKey = field(flatten=True)
    retry: Retry = field(flatten=True, default=NO_RETRY)
    state: SliceState
    closing_at: datetime | None = None
    uploading_at: datetime | None = None
    uploaded_at: datetime | None = None
    imported_at: datetime | None = None

    @property
    def since(self) -> datetime:
        """When the slice reached its current state."""
        return (
            self.imported_at
            or self.uploaded_at
            or self.uploading_at
            or self.closing_at
            or self.key.slice_opened_at
        )


Followed = FileInPipeline | SliceInPipeline

_COMES_FROM: Mapping[FileState | SliceState, str | None] = {
    FileState.WRITING: None,
    FileState.CLOSING: FileState.WRITING.value,
    FileState.IMPORTING: FileState.CLOSING.value,
    FileState.IMPORTED: FileState.IMPORTING.value,
    SliceState.WRITING: None,
    SliceState.CLOSING: SliceState.WRITING.value,
    # The step from "closing" doesn't change the level, so the slice would be known here. The
    # preceding state of an unknown slice is therefore "uploaded".
    SliceState.UPLOADING: SliceState.UPLOADED.value,
    SliceState.UPLOADED: SliceState.UPLOADING.value,
    SliceState.IMPORTED: SliceState.UPLOADED.value,
}
"""The state before each state, for a file or slice that was unknown at its level."""


def transition(
    now: Followed | None, before: Followed | None, at: datetime
) -> dict[str, Any] | None:
    """Return the event of a change; ``None`` if nothing visible has changed.

    :param now: ``None`` if the record was deleted.
    :param before: ``None`` if it was unknown.
    :param at: the time of a deletion.
    """
    known = now or before
    if known is None or (
        now is not None
        and before is not None
        and (now.state, now.retry) == (before.state, before.retry)
    ):
        return None
    view = _place(known.key)
    if now is None:
        return view | {
            "state": DELETED,
            "previousState": known.state.value,
            "time": format_time(at),
        }
    view["state"] = now.state.value
    view["previousState"] = before.state.value if before is not None else _COMES_FROM[now.state]
    retry = now.retry
    if retry.retry_attempt and retry.last_failed_at is not None:
        view["time"] = format_time(retry.last_failed_at)
        view["retry"] = {
            "attempt": retry.retry_attempt,
            "reason": retry.retry_reason,
            "after": None if retry.retry_after is None else format_time(retry.retry_after),
        }
    else:
        view["time"] = format_time(now.since)
    if isinstance(now, FileInPipeline) and now.imported_at and now.importing_at:
        view["seconds"] = round((now.imported_at - now.importing_at).total_seconds(), 3)
    return view


def _place(key: FileKey | SliceKey) -> dict[str, Any]:
    place = {
        "sourceId": key.source_id,
        "sinkId": key.sink_id,
        "fileId": format_time(key.file_opened_at),
    }
    if isinstance(key, SliceKey):
        place["sliceId"] = key.slice_id
    return place
