"""The check of a column's path when it is defined.

Stored paths were checked earlier, or are older than this check. A lookup accepts any text as a
path.
"""

from __future__ import annotations

import re

from stream.errors import UserError, shortened

__all__ = ["check_path"]

_MAX_INDEX_DIGITS = 18
_STEP = re.compile(r"[^.\[\]]+")
_INDEX = re.compile(r"\[([^\]]*)\]?")
_PLAIN = re.compile(r"\w[^.\[\]*]*+(?:\[[0-9]{1,17}\])*+(?:\.[^.\[\]*]++(?:\[[0-9]{1,17}\])*+)*+")
_QUOTED = re.compile(r"""\s*(["'])(.*)\1\s*""", re.DOTALL)
_EXAMPLE = 'a path has a form like "user.tags[0].name"'
_ROOTS = {"$": "JSONPath", "@": "JSONPath", "#": "a JSON pointer"}


def check_path(path: str) -> None:
    """Check *path*. Raises UserError, with a hint, if it can never match a value.

    Keys are separated by dots; items of arrays are numbers in brackets. A key may contain all other
    characters.
    """
    found = _fault(path)
    if found is not None:
        problem, hint = found
        raise UserError(f'path "{shortened(path)}" is not valid: {problem}', detail=hint)


def _fault(path: str) -> tuple[str, str] | None:
    if not path:
        return "it is empty", f'{_EXAMPLE}; use a column of type "body" for the whole body'
    if path[0] == "/" or path.startswith("#/"):
        return (
            "it starts like a JSON pointer",
            f'separate keys with dots: "{_from_pointer(path)}"',
        )
    if path[0] == ".":
        return "it starts with a dot", _without(path.lstrip("."))
    position = 0
    while position < len(path):
        if path[position] == "[":
            match = _INDEX.match(path, position)
            assert match is not None
            fault = _index_fault(path, match)
        else:
            match = _STEP.match(path, position)
            fault = _step_fault(path, position, match)
        if fault is not None:
            return fault
        assert match is not None
        position = match.end()
        if position == len(path):
            return None
        if path[position] == ".":
            position += 1
            if position == len(path):
                return "it ends with a dot", _without(path.rstrip("."))
            if path[position] in ".[":
                return f"there is no key after the dot at character {position}", _EXAMPLE
        elif path[position] == "]":
            return f'there is a "]" without a "[" at character {position + 1}', _EXAMPLE
        elif path[position] != "[":
            return f"a dot is missing after the bracket at character {position}", _EXAMPLE
    return None


def _step_fault(path: str, position: int, match: re.Match[str] | None) -> tuple[str, str] | None:
    if match is None:
        return f'there is a "]" without a "[" at character {position + 1}', _EXAMPLE
    step = match[0]
    if position == 0 and step in _ROOTS:
        rest = path[len(step) :].lstrip(".")
        return f'"{step}" is valid in {_ROOTS[step]}, but not here', _without(rest)
    if step == "*":
        return "a wildcard doesn't select a single value", f"{_EXAMPLE}; a template can do more"
    if match.end() < len(path) and path[match.end()] == "]":
        return f'there is a "]" without a "[" at character {match.end() + 1}', _EXAMPLE
    return None


def _index_fault(path: str, match: re.Match[str]) -> tuple[str, str] | None:
    index = match[1]
    place = match.start() + 1
    if not match[0].endswith("]"):
        return f'the "[" at character {place} is not closed', _EXAMPLE
    if index.isascii() and index.isdigit():
        if len(index) >= _MAX_INDEX_DIGITS:
            return f"the number in brackets at character {place} is too large", _EXAMPLE
        return None
    quoted = _QUOTED.fullmatch(index)
    if quoted is not None:
        dotted = f"{path[: match.start()]}.{quoted[2]}".lstrip(".")
        if "." in quoted[2]:
            return "a path can't contain a key with a dot", "use a template instead"
        return (
            f"only a number may be in the brackets at character {place}",
            f'separate keys with dots: "{shortened(dotted)}"',
        )
    if index.strip() == "*":
        return "a wildcard doesn't select a single value", f"{_EXAMPLE}; a template can do more"
    if index.startswith("-"):
        return "items are counted from the beginning; the first is [0]", _EXAMPLE
    return f"only a number may be in the brackets at character {place}", _EXAMPLE


def _from_pointer(path: str) -> str:
    steps = path.lstrip("#").strip("/").split("/")
    dotted = "".join(f"[{step}]" if step.isdigit() else f".{step}" for step in steps)
    return shortened(dotted.lstrip("."))


def _without(rest: str) -> str:
    """Return a hint to write *rest* instead if it is a plain path; otherwise an example."""
    return f'write "{shortened(rest)}"' if _PLAIN.fullmatch(rest) else _EXAMPLE
