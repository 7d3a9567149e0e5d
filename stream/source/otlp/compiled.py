"""Log exports that compiled code reads, prints and renders (`stream.native.LogExport`).

For log records in protobuf, the compiled code does the work of `stream.source.otlp.decode`,
`stream.source.otlp.flatten` and the mappings. It produces the same records with the same JSON, and
the same rows. It leaves every export with unusual content, and every record that it can't render,
to these modules. It refuses nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs

from stream import native
from stream.errors import UserError
from stream.mapping.render import Renderer
from stream.record.headers import RecordHeaders
from stream.source.interfaces import RowWriter, SinkWriter
from stream.source.otlp.decode import Encoding, Signal

if TYPE_CHECKING:
    from stream.native import RowPlan

__all__ = ["CompiledSink", "Printed", "compiled_sinks", "print_records", "read_logs"]

RECORDS_AT_ONCE = 256
"""Maximum number of records that are printed in one step."""

BYTES_AT_ONCE = 256 * 1024
"""Size of records and their rows at which a step ends, after a few hundred microseconds."""


@attrs.frozen(eq=False)
class CompiledSink:
    """An open sink whose rows compiled code renders.

    :ivar renderer: renderer of the rows, for `RowWriter.write_rows`.
    """

    opened: RowWriter
    renderer: Renderer
    plan: RowPlan


@attrs.frozen(eq=False)
class Printed:
    """Some printed records of an export.

    :ivar count: number of records.
    :ivar size: total size of the records' bodies in bytes.
    :ivar rows: rows of the records for each sink, ``None`` for sinks that aren't compiled; ``None``
        if the Python code must render all of them.
    :ivar bodies: bodies of the records; ``None`` if they weren't requested and nothing needs them.
    """

    count: int
    size: int
    rows: Sequence[bytes | None] | None
    bodies: Sequence[bytes] | None


def read_logs(signal: Signal, encoding: Encoding, body: bytes) -> native.LogExport | None:
    """Return the export in *body*; ``None`` to leave it to `stream.source.otlp.decode`."""
    if not native.is_built or signal is not Signal.LOGS or encoding is not Encoding.PROTOBUF:
        return None
    return native.LogExport.read(body)


def compiled_sinks(sinks: Sequence[SinkWriter], now_ms: int) -> list[CompiledSink | None]:
    """Return each of *sinks* that is open and has a compiled mapping, and ``None`` for others.

    :param now_ms: milliseconds since the epoch.
    """
    return [_compiled(sink, now_ms) for sink in sinks]


def _compiled(sink: SinkWriter, now_ms: int) -> CompiledSink | None:
    if sink.opened is None:
        return None
    try:
        opened = sink.open(now_ms)
        renderer = opened.renderer()
    except UserError:
        return None
    plan = renderer.native_of_maps
    return None if plan is None else CompiledSink(opened, renderer, plan)


def print_records(
    logs: native.LogExport,
    sinks: Sequence[CompiledSink | None],
    timestamp_ms: int,
    client_ip: str,
    headers: RecordHeaders,
    max_records: int,
    *,
    wants_bodies: bool,
) -> Printed | None:
    """Print the next records of *logs*, as many as one step allows.

    :returns: ``None`` if a bug in the compiled code requires the Python code to continue.
    """
    plans = [None if sink is None else sink.plan for sink in sinks]
    has_headers = any(plan is not None and plan.has_headers for plan in plans)
    printed = logs.print(
        plans,
        timestamp_ms,
        client_ip.encode(),
        headers.csv_cell if has_headers else b"",
        wants_bodies,
        max_records,
        BYTES_AT_ONCE,
    )
    return None if printed is None else Printed(*printed)
