"""Template columns, which are Jsonnet snippets evaluated with the record's data.

Most snippets consist of one call of a record function. They are rendered here: the function is
called directly, and its result is formatted as the engine would format it. All other snippets run
in a separate process (`stream.templates`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from stream.errors import UserError
from stream.mapping.functions import FUNCTIONS, to_json
from stream.record.context import RecordContext
from stream.record.jsontree import text_bytes

__all__ = ["cell_text", "check_language", "direct_cell", "printed_path"]

_CALL = re.compile(
    rf"\s*(?P<name>{'|'.join(FUNCTIONS)})\s*\(\s*"
    r"(?:(?P<first>'[^'\\]*'|\"[^\"\\]*\")\s*"
    r"(?:,\s*(?P<second>'[^'\\]*'|\"[^\"\\]*\"|null|true|false)\s*)?)?\)\s*"
)
_WORDS: dict[str, Any] = {"null": None, "true": True, "false": False}


def check_language(language: str) -> None:
    """Check that *language* is the only supported one. Raises UserError."""
    if language != "jsonnet":
        raise UserError(f'unsupported language "{language}", only "jsonnet" is supported')


def direct_cell(content: str, raw_string: bool) -> Callable[[RecordContext], bytes] | None:
    """Return a function from a record to the text of the cell; ``None`` if it needs the engine.

    The function raises UserError with the text of the cause.
    """
    match = _CALL.fullmatch(content)
    if match is None:
        return None
    _, names, function = FUNCTIONS[match["name"]]
    arguments = [_literal(text) for text in match.group("first", "second") if text is not None]
    if len(arguments) > len(names):
        return None
    return lambda record: cell_text(function(record, *arguments), raw_string)


def printed_path(content: str) -> str | None:
    """Return the path of the value of the body that a template of `direct_cell` prints.

    It is ``None`` for templates that print nothing of the body.
    """
    match = _CALL.fullmatch(content)
    if match is None or match["name"] not in ("Body", "BodyStr"):
        return None
    path = None if match["first"] is None else _literal(match["first"])
    return path if isinstance(path, str) and match["name"] == "Body" else ""


def _literal(text: str) -> Any:
    return _WORDS[text] if text in _WORDS else text[1:-1]


def cell_text(value: Any, raw_string: bool) -> bytes:
    """Return the text of a template's result. Raises UserError: a number is too large.

    :param raw_string: whether a string is rendered without JSON's quotes; everything else is
        rendered as JSON.
    """
    if raw_string and isinstance(value, str):
        return text_bytes(value)
    return text_bytes(to_json(value))
