"""Classification of records that take too long to parse in the reactor."""

from __future__ import annotations

from stream.record.context import RecordContext
from stream.record.headers import BodyKind

__all__ = ["LARGE_BYTES", "takes_long"]

LARGE_BYTES = 256 * 1024
"""Size in bytes above which parsing a body may take more than a few milliseconds."""

_READ_KINDS = frozenset({BodyKind.JSON, BodyKind.FORM})


def takes_long(record: RecordContext) -> bool:
    """Return whether parsing the body of *record* may take a long time.

    Such a body is parsed in a separate process (`stream.mapping.render.Renderer.plan_for`).
    """
    return (
        len(record.body) > LARGE_BYTES
        and record.headers.kind in _READ_KINDS
        and not record.signal  # an OTLP record is already parsed
    )
