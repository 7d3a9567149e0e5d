"""Which records take longer to be read than others can wait."""

from __future__ import annotations

from stream.record.context import RecordContext
from stream.record.headers import BodyKind

__all__ = ["LARGE_BYTES", "takes_long"]

LARGE_BYTES = 256 * 1024
"""Of a body: beyond it, it may take more than a few milliseconds to be read."""

_READ_KINDS = frozenset({BodyKind.JSON, BodyKind.FORM})


def takes_long(record: RecordContext) -> bool:
    """Whether the body of *record* may take long to be read.

    Such a body is read in a process of its own (`stream.mapping.render.Renderer.plan_for`).
    """
    return (
        len(record.body) > LARGE_BYTES
        and record.headers.kind in _READ_KINDS
        and not record.signal  # it is parsed already
    )
