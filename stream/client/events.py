"""A parser of server-sent events. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import attrs

from stream.client.errors import ClientError

__all__ = ["MAX_EVENT_BYTES", "Event", "events_of"]

MAX_EVENT_BYTES = 16 * 1024 * 1024


@attrs.frozen
class Event:
    """One event.

    :ivar id: id of the event; empty if it has none.
    """

    name: str
    data: str
    id: str = ""


def events_of(parts: Iterable[bytes]) -> Iterator[Event]:
    """Iterate over the events in *parts* of any size; leave out an incomplete one at the end.

    Raises ClientError: an event is larger than `MAX_EVENT_BYTES`.
    """
    name, last_id, size = "message", "", 0
    data: list[str] = []
    for line in _lines(parts):
        size += len(line)
        if size > MAX_EVENT_BYTES:
            raise ClientError("An event from the service is too large.")
        if not line:
            if data:
                yield Event(name, "\n".join(data), last_id)
            name, data, size = "message", [], 0
            continue
        field, _, value = line.partition(b":")
        text = value.removeprefix(b" ").decode(errors="replace")
        if field == b"event":
            name = text
        elif field == b"data":
            data.append(text)
        elif field == b"id":
            last_id = text


def _lines(parts: Iterable[bytes]) -> Iterator[bytes]:
    rest: list[bytes] = []
    held = 0
    for part in parts:
        first, *others = part.split(b"\n")
        rest.append(first)
        held += len(first)
        if held > MAX_EVENT_BYTES:
            raise ClientError("An event from the service is too large.")
        for other in others:
            yield b"".join(rest).removesuffix(b"\r")
            rest, held = [other], len(other)
