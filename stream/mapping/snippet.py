"""Jsonnet snippets as the engine parses them, used only in the engine's process.

Parsing has no time limit here: some short texts take the engine's parser hours.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import attrs
import rjsonnet

from stream.errors import UserError
from stream.mapping.free_variables import (
    check_brackets,
    first_import,
    unknown_variable,
    without_tailstrict,
)
from stream.mapping.functions import FUNCTIONS, without_surrogates
from stream.mapping.standard import STANDARD_CALLBACKS, standard_extension

__all__ = ["Snippet", "check_template", "prepare", "reason", "refuse_import"]

_FILE = "template"
IMPORTS = "imports are not enabled"
_TRACE = re.compile(
    r"\n {4}(?:template:.*|<std>:.*|during .*|field <.*|argument <.*|array index \d+"
    r"|function <.*|.* manifestification)(?=\n|$)"
)
_PLACE = re.compile(r"\n {4}template:(\d+):(\d+)(?:-(\d+))?")
_NOT_DEFINED = "variable is not defined: "


@attrs.frozen
class Snippet:
    """A template with the functions that it uses.

    :ivar definitions: Jsonnet code that is placed before the template.
    :ivar record_functions: the functions of `FUNCTIONS` that the template calls, with their
        parameters.
    :ivar standard_functions: the functions of the standard library that it calls; they don't
        receive the record.
    """

    definitions: str
    content: str
    record_functions: Mapping[str, tuple[tuple[str, ...], Callable[..., Any]]]
    standard_functions: Mapping[str, tuple[tuple[str, ...], Callable[..., Any]]]


def prepare(content: str) -> Snippet:
    """Return the snippet of a template. Raises UserError if its brackets don't match."""
    content = without_surrogates(content)
    check_brackets(content)
    # Only functions that the snippet may use are defined.
    used = {name: FUNCTIONS[name] for name in FUNCTIONS if name in content}
    extension = standard_extension(content)
    definitions = [
        f"local native_{name} = std.native('{name}'); "
        f"local {name}({signature}) = native_{name}({', '.join(names)});"
        for name, (signature, names, _) in used.items()
    ]
    return Snippet(
        " ".join([*definitions, extension]),
        without_tailstrict(content),
        {name: (names, function) for name, (_, names, function) in used.items()},
        {name: item for name, item in STANDARD_CALLBACKS.items() if name in extension},
    )


def reason(text: str) -> str:
    """Return the engine's *text* for users, without its trace."""
    if IMPORTS in text:
        return IMPORTS
    message = _TRACE.sub("", text).removeprefix("runtime error: ")
    if message.startswith("stack overflow"):
        return "max stack frames exceeded."
    if message.startswith(_NOT_DEFINED):
        return "Unknown variable: " + message.removeprefix(_NOT_DEFINED)
    return message


def refuse_import(directory: str, name: str) -> NoReturn:
    """Refuse an import; called by the engine."""
    raise RuntimeError(IMPORTS)


def check_template(content: str) -> None:
    """Parse the snippet without running it.

    Raises UserError with the position and the problem, e.g. ``1:1-8 Unknown variable: Invalid``.
    """
    content = without_surrogates(content)
    check_brackets(content)
    imported = first_import(content)
    if imported is not None:
        raise UserError(f"{imported.line}:{imported.start}-{imported.end} {IMPORTS}")
    # A function whose argument is missing is parsed but not called.
    snippet = f"\nfunction(missing)\n{content}"
    try:
        rjsonnet.evaluate_snippet(_FILE, snippet, import_callback=refuse_import)
    except (RuntimeError, ValueError) as error:
        if str(error).startswith("syntax error"):
            raise UserError(_syntax_fault(str(error))) from None
    unknown = unknown_variable(content, {"std", *FUNCTIONS})
    if unknown is not None:
        place = f"{unknown.line}:{unknown.start}-{unknown.end}"
        raise UserError(f"{place} Unknown variable: {unknown.name}")


def _syntax_fault(text: str) -> str:
    place = _PLACE.search(text)
    message = _TRACE.sub("", text).removeprefix("syntax error: ")
    if place is None:
        return message
    lines_before = 2
    return f"{max(int(place[1]) - lines_before, 1)}:{place[2]} {message}"
