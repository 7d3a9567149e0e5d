"""Connection options that several targets share."""

from __future__ import annotations

from stream.errors import UserError
from stream.settings.connections import Connection
from stream.values.number import whole_number as parsed

__all__ = ["MAX_WORKERS", "whole_number"]

MAX_WORKERS = 16
"""Maximum number of concurrent import processes on one node."""


def whole_number(connection: Connection, option: str, default: int, most: int) -> int:
    """Return an option of *connection* that is an integer from 1 to *most*. Raises UserError."""
    number = parsed(str(connection.options.get(option, default)), least=1, most=most)
    if number is None:
        raise UserError(
            f'"{option}" of the connection "{connection.name}" in "target.connections" must be '
            f"from 1 to {most}"
        )
    return number
