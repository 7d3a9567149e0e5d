"""The states of a connection to a writer and of a file behind it: tables without I/O."""

from __future__ import annotations

import enum
from collections.abc import Mapping

__all__ = [
    "CONNECTION_TRANSITIONS",
    "REMOTE_FILE_TRANSITIONS",
    "ConnectionEvent",
    "ConnectionState",
    "RemoteFileEvent",
    "RemoteFileState",
]


class ConnectionState(enum.Enum):
    """The states of a connection to a writer."""

    GREETING = "greeting"
    """Neither end knows the other yet; nothing is opened."""
    ACCEPTED = "accepted"
    REFUSED = "refused"
    """The greeting failed; the connection is being cut."""
    LOST = "lost"


class ConnectionEvent(enum.Enum):
    """The events that move a connection from state to state."""

    GREETED = "greeted"
    REFUSED = "refused"
    LOST = "lost"


CONNECTION_TRANSITIONS: Mapping[ConnectionState, Mapping[ConnectionEvent, ConnectionState]] = {
    ConnectionState.GREETING: {
        ConnectionEvent.GREETED: ConnectionState.ACCEPTED,
        ConnectionEvent.REFUSED: ConnectionState.REFUSED,
        ConnectionEvent.LOST: ConnectionState.LOST,
    },
    ConnectionState.ACCEPTED: {ConnectionEvent.LOST: ConnectionState.LOST},
    ConnectionState.REFUSED: {ConnectionEvent.LOST: ConnectionState.LOST},
    ConnectionState.LOST: {},
}
"""State to event to the next state. An event that isn't there is ignored in that state."""


class RemoteFileState(enum.Enum):
    """The states of a file that is open on a writer."""

    OPEN = "open"
    """Takes appends."""
    CLOSING = "closing"
    """Takes no more; the writer closes it behind the last one that it took."""
    GONE = "gone"
    """The writer has closed it, or gave it up, or nobody knows."""


class RemoteFileEvent(enum.Enum):
    """The events that move such a file from state to state."""

    CLOSE = "close"
    """The pipeline doesn't need it any more."""
    CLOSED = "closed"
    """The writer has answered that it is closed, or didn't answer in time."""
    LOST = "lost"
    """The writer gave it up, or the connection is lost."""


REMOTE_FILE_TRANSITIONS: Mapping[RemoteFileState, Mapping[RemoteFileEvent, RemoteFileState]] = {
    RemoteFileState.OPEN: {
        RemoteFileEvent.CLOSE: RemoteFileState.CLOSING,
        RemoteFileEvent.LOST: RemoteFileState.GONE,
    },
    RemoteFileState.CLOSING: {
        RemoteFileEvent.CLOSED: RemoteFileState.GONE,
        RemoteFileEvent.LOST: RemoteFileState.GONE,
    },
    RemoteFileState.GONE: {},
}
"""The same for a file."""
