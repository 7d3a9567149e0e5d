"""Parsing of server-sent events."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.client import events
from stream.client.errors import ClientError
from stream.client.events import Event, events_of

_STREAM = (
    b": comment\n\nevent: record\ndata: {}\n\n"
    b"id: 7\r\nevent: file\r\ndata: a\r\ndata:b\r\n\r\n"
    b"data: \xc3\xa9\n\nevent: end\n\ndata: unfinished\n"
)
_EVENTS = [Event("record", "{}"), Event("file", "a\nb", "7"), Event("message", "é", "7")]


@given(cuts=st.lists(st.integers(0, len(_STREAM)), max_size=10))
def test_events(cuts: list[int]) -> None:
    """The events don't depend on how the stream is split."""
    places = [0, *sorted(cuts), len(_STREAM)]
    parts = [_STREAM[a:b] for a, b in pairwise(places)]
    assert list(events_of(parts)) == _EVENTS


def test_an_endless_event(monkeypatch: pytest.MonkeyPatch) -> None:
    """Collecting it ends at a limit."""
    monkeypatch.setattr(events, "MAX_EVENT_BYTES", 100)
    for endless in (iter(lambda: b"x", None), iter(lambda: b"data: x\n", None)):
        with pytest.raises(ClientError, match="too large"):
            list(events_of(endless))
