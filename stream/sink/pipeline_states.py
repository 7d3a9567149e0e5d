"""The states of a slice pipeline, and a table of the transitions between them. Pure.

```
OPENING ─── opened ────────▶ READY ─── lost, draining ──▶ STALLED ─── opened ──▶ READY
OPENING ─── grace over ────▶ STALLED
all but CLOSED ─── close ──▶ CLOSING ─── empty ──▶ CLOSED
all but CLOSED ─── sealed ─▶ CLOSED
```
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

__all__ = ["TRANSITIONS", "PipelineEvent", "PipelineState"]


class PipelineState(enum.Enum):
    """The states of a sink's pipeline on one source node."""

    OPENING = "opening"
    """The file isn't open yet; rows are accepted for a short grace period."""
    READY = "ready"
    STALLED = "stalled"
    """The file was lost and is being opened again; no rows are accepted."""
    CLOSING = "closing"
    """Pending rows are sent; no rows are accepted."""
    CLOSED = "closed"


class PipelineEvent(enum.Enum):
    """The events that move a pipeline from state to state."""

    OPENED = "opened"
    """The writer has opened the file."""
    GRACE_OVER = "grace over"
    """The grace period has ended without an open file."""
    DRAINING = "draining"
    """The writer is about to stop."""
    LOST = "lost"
    """The file was lost or could not be opened; it is being opened again."""
    SEALED = "sealed"
    """The slice accepts no more rows."""
    CLOSE = "close"
    """The sink stops using the slice."""
    EMPTY = "empty"
    """No rows are pending after `CLOSE`."""


_S, _E = PipelineState, PipelineEvent

TRANSITIONS: Mapping[PipelineState, Mapping[PipelineEvent, PipelineState]] = {
    _S.OPENING: {
        _E.OPENED: _S.READY,
        _E.GRACE_OVER: _S.STALLED,
        _E.LOST: _S.OPENING,
        _E.SEALED: _S.CLOSED,
        _E.CLOSE: _S.CLOSING,
    },
    _S.READY: {
        _E.DRAINING: _S.STALLED,
        _E.LOST: _S.STALLED,
        _E.SEALED: _S.CLOSED,
        _E.CLOSE: _S.CLOSING,
    },
    _S.STALLED: {
        _E.OPENED: _S.READY,
        _E.LOST: _S.STALLED,
        _E.SEALED: _S.CLOSED,
        _E.CLOSE: _S.CLOSING,
    },
    _S.CLOSING: {
        _E.OPENED: _S.CLOSING,
        _E.LOST: _S.CLOSING,
        _E.SEALED: _S.CLOSED,
        _E.CLOSE: _S.CLOSING,
        _E.EMPTY: _S.CLOSED,
    },
    _S.CLOSED: {},
}
"""The next state by state and event. All other events are ignored."""
