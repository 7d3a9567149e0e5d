"""Compiled versions of the hottest parts of the ingestion path, if they are built.

They are written in Rust (``native/`` in the repository; ``make native`` builds them, and wheels and
images include them). Each is equivalent to Python code, which handles the unusual cases. So
everything works without them, with half the records a second.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stream.native._native import (
        Body,
        Connections,
        DiskThread,
        JsonPaths,
        LogExport,
        RowPlan,
        Waiting,
        count_rows,
        json_fault,
        json_text,
        split_json,
    )

__all__ = [
    "Body",
    "Connections",
    "DiskThread",
    "JsonPaths",
    "LogExport",
    "RowPlan",
    "Waiting",
    "count_rows",
    "is_built",
    "json_fault",
    "json_text",
    "split_json",
]

SWITCH = "STREAM_NATIVE"
"""The environment variable that disables them with the value ``off``."""

is_built = False
"""Whether the compiled module exists and may be used."""

if os.environ.get(SWITCH, "on") != "off":
    try:
        from stream.native._native import (
            Body,
            Connections,
            DiskThread,
            JsonPaths,
            LogExport,
            RowPlan,
            Waiting,
            count_rows,
            json_fault,
            json_text,
            split_json,
        )
    except ImportError:
        pass
    else:
        is_built = True
