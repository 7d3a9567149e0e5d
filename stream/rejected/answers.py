"""Answers of a source node to questions about its rejected records. Everything here blocks.

Questions and answers are plain JSON objects. A question names a sink and an operation:

========  ======================================================================================
``list``  return the newest records, all reasons, and the number of records
``get``   return one record
``fetch`` return some whole records, oldest first
``erase`` erase records
========  ======================================================================================

``list``, ``fetch`` and ``erase`` select records by ``ids``, or by ``reason``, ``column``, ``since``
and ``until`` (milliseconds since the epoch); without these members they select all records.
``without`` contains the IDs of records that are treated as erased.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import attrs

from stream.definition.key import SinkKey
from stream.record.context import datetime_text
from stream.rejected.files import RejectedFiles, Stored, Summary
from stream.rejected.record import Outline, listed_headers, read_frame

__all__ = ["MAX_FETCHED_BYTES", "MAX_LISTED", "MAX_REASONS", "Selection", "answer"]

MAX_LISTED = 1000
MAX_REASONS = 100
MAX_FETCHED_BYTES = 8 * 1024 * 1024
"""Maximum size of the whole records in one answer; a larger record is sent alone."""


@attrs.frozen(kw_only=True)
class Selection:
    """A selection of rejected records.

    :ivar ids: IDs of the records; ``None`` for any.
    :ivar reason: reason of the rejection; empty for any.
    :ivar column: column in which the error occurred; empty for any.
    :ivar since: earliest receive time, milliseconds since the epoch.
    :ivar until: receive time before which the records were received, milliseconds since the epoch.
    :ivar without: IDs of excluded records.
    """

    ids: frozenset[str] | None = None
    reason: str = ""
    column: str = ""
    since: int | None = None
    until: int | None = None
    without: frozenset[str] = frozenset()

    @classmethod
    def read(cls, plain: dict[str, Any]) -> Selection:
        """Return the selection in the members of a question."""
        ids = plain.get("ids")
        return cls(
            ids=None if ids is None else frozenset(ids),
            reason=plain.get("reason") or "",
            column=plain.get("column") or "",
            since=plain.get("since"),
            until=plain.get("until"),
            without=frozenset(plain.get("without") or ()),
        )

    def plain(self) -> dict[str, Any]:
        """Return the members of a question that describe the selection."""
        members: dict[str, Any] = {}
        if self.ids is not None:
            members["ids"] = sorted(self.ids)
        if self.reason:
            members["reason"] = self.reason
        if self.column:
            members["column"] = self.column
        if self.since is not None:
            members["since"] = self.since
        if self.until is not None:
            members["until"] = self.until
        if self.without:
            members["without"] = sorted(self.without)
        return members

    def has_reason(self, reason: str, column: str) -> bool:
        """Return whether records of this reason and column may be selected."""
        return (not self.reason or reason == self.reason) and (
            not self.column or column == self.column
        )

    def has(self, outline: Outline) -> bool:
        """Return whether the record is selected."""
        return (
            outline.id not in self.without
            and (self.ids is None or outline.id in self.ids)
            and self.has_reason(outline.reason, outline.column)
            and (self.since is None or outline.at >= self.since)
            and (self.until is None or outline.at < self.until)
        )


def answer(
    files: RejectedFiles | None,
    question: dict[str, Any],
    node_id: str,
    now: float,
    max_age: Callable[[SinkKey], float],
) -> dict[str, Any]:
    """Answer *question*.

    Raises OSError: the disk fails. Raises ValueError or KeyError: the question is invalid.

    :param files: files of the rejected records; ``None`` if the node keeps none.
    :param now: seconds since the epoch.
    :param max_age: returns the maximum age of a sink's records in seconds.
    """
    project, branch, source, sink = question["sink"].split("/")
    key = SinkKey(int(project), int(branch), source, sink)
    selection = Selection.read(question)
    oldest = int((now - max_age(key)) * 1000)
    kind = question["kind"]
    if kind == "list":
        return _list(
            files, key, selection, node_id, min(int(question["limit"]), MAX_LISTED), oldest
        )
    if kind == "get":
        only = frozenset({question["id"]})
        found = _young(files.newest_first(key, only), oldest) if files else iter(())
        return {"record": _get(found, node_id)}
    if kind == "fetch":
        found = files.oldest_first(key, question.get("after", "")) if files else iter(())
        return _fetch(_young(found, oldest), selection, int(question["limit"]))
    if kind == "erase":
        return {"erased": files.erase(key, selection.has, selection.ids) if files else 0}
    raise ValueError(f'unknown kind of question "{kind}"')


def _young(found: Iterator[Stored], oldest: int) -> Iterator[Stored]:
    return (stored for stored in found if stored.outline.at >= oldest)


def _list(
    files: RejectedFiles | None,
    key: SinkKey,
    selection: Selection,
    node_id: str,
    limit: int,
    oldest: int,
) -> dict[str, Any]:
    """List records and reasons.

    The reasons count all records of the time range, regardless of the selected reason and column.

    A segment is read only if more records are to be shown, or if only a part of it is selected.
    """
    since = max(oldest, selection.since or 0)
    selection = attrs.evolve(selection, since=since)
    listed = _Listed(node_id, limit)
    for path in files.segments(key) if files else ():
        summary = files.summary(path) if files else None
        if summary is None or summary.newest < since:
            continue
        is_whole = (
            summary.oldest >= since
            and (selection.until is None or summary.newest < selection.until)
            and selection.ids is None
            and not selection.without
        )
        if is_whole and (len(listed.records) >= limit or not _has_reason(summary, selection)):
            listed.take_summary(summary, selection)
        else:
            listed.take_records(RejectedFiles.of_segment(path, selection.ids), selection)
    return listed.answer()


def _has_reason(summary: Summary, selection: Selection) -> bool:
    return any(selection.has_reason(reason, column) for reason, column in summary.reasons)


class _Listed:
    """Collects the records of a list."""

    def __init__(self, node_id: str, limit: int) -> None:
        self.records: list[dict[str, Any]] = []
        self._node_id = node_id
        self._limit = limit
        self._reasons: dict[tuple[str, str], dict[str, Any]] = {}
        self._total = 0

    def take_summary(self, summary: Summary, selection: Selection) -> None:
        """Count all records of a segment without showing any."""
        for (reason, column), known in summary.reasons.items():
            self._count(known.last, known.count)
            if selection.has_reason(reason, column):
                self._total += known.count

    def take_records(self, found: Iterable[Stored], selection: Selection) -> None:
        """Count the selected records, and show them until the list is full."""
        of_any_reason = attrs.evolve(selection, reason="", column="")
        for stored in found:
            outline = stored.outline
            if not of_any_reason.has(outline):
                continue
            self._count(outline, 1)
            if selection.has(outline):
                self._total += 1
                if len(self.records) < self._limit:
                    view = outline.view(self._node_id)
                    self.records.append({**view, "headers": listed_headers(stored.line)})

    def _count(self, outline: Outline, count: int) -> None:
        """Count a record. Records come newest first, so the first message is the latest one."""
        reason = self._reasons.get((outline.reason, outline.column))
        if reason is None:
            reason = self._reasons[outline.reason, outline.column] = {
                "reason": outline.reason,
                "column": outline.column,
                "count": 0,
                "lastTime": datetime_text(outline.at).decode(),
                "message": outline.message,
            }
        reason["count"] += count

    def answer(self) -> dict[str, Any]:
        """Return the answer."""
        most = sorted(self._reasons.values(), key=lambda reason: -reason["count"])
        return {"records": self.records, "reasons": most[:MAX_REASONS], "total": self._total}


def _get(found: Iterator[Stored], node_id: str) -> dict[str, Any] | None:
    for stored in found:
        return read_frame(stored.line, stored.outline).view(node_id)
    return None


def _fetch(found: Iterator[Stored], selection: Selection, limit: int) -> dict[str, Any]:
    """Fetch whole records.

    :returns: ``frames``, their positions ``cursors``, and ``after``, the position for the next
        question, which is empty at the end.
    """
    meant = (stored for stored in found if selection.has(stored.outline))
    frames: list[str] = []
    cursors: list[str] = []
    size = 0
    for stored in islice(meant, limit + 1):
        if len(frames) == limit or (frames and size + len(stored.line) > MAX_FETCHED_BYTES):
            return {"frames": frames, "cursors": cursors, "after": cursors[-1]}
        frames.append(stored.line.decode())
        size += len(stored.line)
        cursors.append(stored.cursor)
    return {"frames": frames, "cursors": cursors, "after": ""}
