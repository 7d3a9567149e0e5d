"""The cell of a path column, which is the value at a path in the parsed body. Pure."""

from __future__ import annotations

from collections.abc import Callable

import orjson

from stream.errors import UserError
from stream.record.context import RecordContext
from stream.record.jsontree import text_bytes
from stream.record.lookup import Paths

__all__ = ["path_cell", "path_value"]


def path_cell(
    path: str, raw_string: bool, default_value: str | None, paths: Paths
) -> Callable[[RecordContext], bytes]:
    """Return the function that renders the text of the cell.

    This function raises UserError if there is no value or no parsed body.

    :param path: e.g. ``user.tags[0]``.
    :param raw_string: whether a string is rendered without JSON's quotes and escapes.
    :param default_value: rendered like a string of the body if the path has no value.
    :param paths: all paths of the mapping, which are looked up together.
    """
    value = path_value(path, paths, raw_string=raw_string)
    default: bytes | None = None
    if default_value is not None:
        default = text_bytes(default_value) if raw_string else orjson.dumps(default_value)

    def render(record: RecordContext) -> bytes:
        found = value(record)
        if found is not None:
            return found
        if default is not None:
            return default
        raise UserError(f'path "{path}" not found in the body')

    return render


def path_value(
    path: str, paths: Paths, *, raw_string: bool
) -> Callable[[RecordContext], bytes | None]:
    """Return a function that returns the value at *path* as JSON; ``None`` if there is none.

    This function raises UserError if there is no parsed body.

    :param paths: all paths of the mapping, which are looked up together.
    :param raw_string: whether a string is rendered without JSON's quotes and escapes.
    """
    place = paths.place(path)
    return lambda record: record.values(paths).text(place, raw_string=raw_string)
