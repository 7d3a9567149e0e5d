"""The history of files and slices, from the logs of all processes. Plain functions over values."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path

import attrs

from stream.values.utctime import parse_time

__all__ = ["Event", "Journal", "read_journal"]

_BEGINNINGS = (
    "rotated slice",
    "closed slice",
    "uploaded slice",
    "slice upload failed",
    "slice upload permanently failed",
    "slice rotation failed",
    "rotated file",
    "closed file",
    "started import job",
    "imported file",
    "file import failed",
    "file rotation failed",
)


@attrs.frozen
class Event:
    """An event of a file or slice in the logs.

    :ivar kind: the beginning of the message.
    :ivar key: key of the slice or file.
    :ivar by: name of the log.
    :ivar cause: the logged cause, if any.
    :ivar opened: key of the file or slice that a rotation opened.
    """

    kind: str
    key: str
    at: datetime
    by: str
    cause: str = ""
    opened: str = ""
    rows: int = 0
    job: str = ""
    is_empty: bool = False

    @property
    def file(self) -> str:
        """The key of the file."""
        return "/".join(self.key.split("/")[:5])


@attrs.frozen
class Journal:
    """The events of all logs.

    :ivar events: events in chronological order.
    """

    events: Sequence[Event]

    def of(self, kind: str) -> list[Event]:
        """Return the events of one kind, in order."""
        return [event for event in self.events if event.kind == kind]

    def file(self, key: str) -> list[Event]:
        """Return all events of a file and its slices."""
        return [event for event in self.events if event.file == key or event.opened == key]


def read_journal(logs: Iterable[Path], names: Mapping[str, str] | None = None) -> Journal:
    """Return all events of the logs; incomplete lines of killed processes are skipped.

    :param names: names of nodes by name of the log without the suffix.
    """
    known = names or {}
    found = [event for log in logs for event in _events(log, known.get(log.stem, log.stem))]
    return Journal(sorted(found, key=lambda event: event.at))


def _events(log: Path, by: str) -> Iterator[Event]:
    with log.open(errors="replace") as text:
        for line in text:
            if line.startswith("{") and line.endswith("}\n"):
                event = _event(json.loads(line), by)
                if event is not None:
                    yield event


def _event(line: dict[str, object], by: str) -> Event | None:
    message = str(line.get("message", ""))
    kind = next((text for text in _BEGINNINGS if message.startswith(text)), None)
    key = line.get("slice.id") or line.get("file.id")
    if kind is None or not key:
        return None
    return Event(
        kind,
        str(key),
        parse_time(str(line["time"])),
        by,
        cause=str(line.get("cause") or line.get("error") or line.get("reason") or ""),
        opened=str(line.get("opened", "")),
        rows=int(str(line.get("rows", 0))),
        job=str(line.get("job.id", "")),
        is_empty=bool(line.get("is_empty", False)),
    )
