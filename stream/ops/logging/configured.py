"""The log that the settings describe."""

from __future__ import annotations

from typing import Any

from stream.ops.logging.control import LogControl, parse_levels
from stream.settings import Settings

__all__ = ["configured_log"]


def configured_log(settings: Settings) -> LogControl:
    """Return the log that *settings* describe.

    Raises UserError: they name a namespace without loggers.
    """
    levels = {"twisted": "warn", "log_legacy": "warn"}
    if not settings.log.access_log:
        levels["stream.api.http.server"] = "warn"
    if settings.etcd.debug_log:
        levels["stream.etcd.transport"] = "debug"
    form: Any = None if settings.log.format == "auto" else settings.log.format
    # Processes that share the address or the log file also share the output.
    is_shared = settings.source.http.share_port or settings.log.file
    return LogControl(
        settings.log.file,
        form,
        "debug" if settings.debug_log else "info",
        {**levels, **parse_levels(settings.log.levels)},
        node=settings.node_id if is_shared else "",
    )
