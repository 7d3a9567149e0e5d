"""The state tables of a connection to a writer and of its files."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import TypeVar

from stream.storage.network.states import (
    CONNECTION_TRANSITIONS,
    REMOTE_FILE_TRANSITIONS,
    ConnectionEvent,
    ConnectionState,
    RemoteFileEvent,
    RemoteFileState,
)

S = TypeVar("S", bound=enum.Enum)
E = TypeVar("E", bound=enum.Enum)


def test_transitions_of_connections() -> None:
    """A dash is an ignored event: any event after the loss, and a second greeting."""
    assert _table(CONNECTION_TRANSITIONS, ConnectionState, ConnectionEvent) == {
        # event:    greeted     refused    lost
        "greeting": ["accepted", "refused", "lost"],
        "accepted": ["-", "-", "lost"],
        "refused": ["-", "-", "lost"],
        "lost": ["-", "-", "-"],
    }


def test_transitions_of_files() -> None:
    """A closed file can't be opened again, and ends once."""
    assert _table(REMOTE_FILE_TRANSITIONS, RemoteFileState, RemoteFileEvent) == {
        # event:   close    closed  lost
        "open": ["closing", "-", "gone"],
        "closing": ["-", "gone", "gone"],
        "gone": ["-", "-", "-"],
    }


def _table(
    transitions: Mapping[S, Mapping[E, S]], states: type[S], events: type[E]
) -> dict[str, list[str]]:
    return {
        state.value: [
            following.value if (following := transitions[state].get(event)) else "-"
            for event in events
        ]
        for state in states
    }
