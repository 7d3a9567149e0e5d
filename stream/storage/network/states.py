"""State machines of a connection to a writer and of a remote file: tables without I/O."""

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
    """The greeting isn't finished; no file can be opened."""
    ACCEPTED = "accepted"
    REFUSED = "refused"
    """The greeting failed; the connection is being closed."""
    LOST = "lost"


class ConnectionEvent(enum.Enum):
    """The events that change the state of a connection."""

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
"""The next state by state and event; events that aren't listed for a state are ignored."""


class RemoteFileState(enum.Enum):
    """The states of a file that is open on a writer."""

    OPEN = "open"
    """Accepts appends."""
    CLOSING = "closing"
    """Accepts no more appends; the writer closes the file after the last one."""
    GONE = "gone"
    """The file is closed, lost, or its state is unknown."""


class RemoteFileEvent(enum.Enum):
    """The events that change the state of a remote file."""

    CLOSE = "close"
    """The pipeline no longer needs the file."""
    CLOSED = "closed"
    """The writer has confirmed that the file is closed, or hasn't answered in time."""
    LOST = "lost"
    """The writer has given up the file, or the connection is lost."""


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
"""The next state of a file by state and event."""
