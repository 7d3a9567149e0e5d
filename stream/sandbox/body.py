"""Members of a JSON request body, each read with checks of its type and limits.

`Body` raises `UserError` (400, code ``storage.validation``), which names the member.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from stream.errors import UserError

__all__ = ["MAX_BODY_BYTES", "Body", "invalid"]

MAX_BODY_BYTES = 1024 * 1024
MAX_TEXT_CHARS = 64 * 1024
MAX_ITEMS = 2000  # SQLite's maximum number of columns in a table
_MAX_INTEGER = 2**63 - 1


def invalid(message: str) -> UserError:
    """Return the error for invalid content of a body."""
    return UserError(message, status=400, name="storage.validation")


class Body:
    """A JSON object sent by a client."""

    def __init__(self, members: Mapping[str, Any]) -> None:
        self._members = members

    @classmethod
    def parse(cls, data: bytes) -> Body:
        """Parse the object in *data*; an empty body is an empty object."""
        if not data:
            return cls({})
        try:
            members = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            raise invalid(f"the body is not valid JSON: {error.msg}") from error
        if not isinstance(members, dict):
            raise invalid("the body is not a JSON object")
        return cls(members)

    def __contains__(self, name: str) -> bool:
        return self._members.get(name) is not None

    def text(
        self, name: str, default: str | None = None, *, max_chars: int = MAX_TEXT_CHARS
    ) -> str:
        """Return a string; without a default it is required and must not be empty."""
        value = self._members.get(name)
        if value is None or (value == "" and default is None):
            if default is None:
                raise invalid(f'"{name}" is missing')
            return default
        if not isinstance(value, str):
            raise invalid(f'"{name}" is not a string')
        if len(value) > max_chars:
            raise invalid(f'"{name}" is longer than {max_chars} characters')
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        """Return a boolean, which may be sent as 0 or 1."""
        value = self._members.get(name, default)
        if value not in (0, 1):
            raise invalid(f'"{name}" is not a boolean')
        return bool(value)

    def integer(
        self, name: str, default: int | None = None, *, least: int = 0, most: int = _MAX_INTEGER
    ) -> int:
        """Return an integer between *least* and *most*."""
        value = self._members.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise invalid(f'"{name}" is not a whole number from {least} to {most}')
        return value

    def number(self, name: str, default: float, *, least: float, most: float) -> float:
        """Return a number between *least* and *most*."""
        value = self._members.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise invalid(f'"{name}" is not a number')
        if not least <= value <= most:
            raise invalid(f'"{name}" is not between {least} and {most}')
        return float(value)

    def texts(self, name: str) -> list[str]:
        """Return a list of strings; empty if it is missing."""
        values = self._list(name)
        for value in values:
            if not isinstance(value, str) or len(value) > MAX_TEXT_CHARS:
                raise invalid(
                    f'"{name}" has an item that is not a string of at most {MAX_TEXT_CHARS} '
                    "characters"
                )
        return values

    def objects(self, name: str) -> list[Body]:
        """Return a list of objects; empty if it is missing."""
        values = self._list(name)
        for value in values:
            if not isinstance(value, dict):
                raise invalid(f'"{name}" has an item that is not an object')
        return [Body(value) for value in values]

    def text_map(self, name: str) -> dict[str, str]:
        """Return an object of strings; empty if it is missing, or ``[]`` as some clients send."""
        value = self._members.get(name) or {}
        if not isinstance(value, dict) or len(value) > MAX_ITEMS:
            raise invalid(f'"{name}" is not an object')
        for item in value.values():
            if not isinstance(item, str):
                raise invalid(f'"{name}" has a member that is not a string')
        return value

    def _list(self, name: str) -> list[Any]:
        value = self._members.get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise invalid(f'"{name}" is not a list')
        if len(value) > MAX_ITEMS:
            raise invalid(f'"{name}" has more than {MAX_ITEMS} items')
        return value
