"""Jsonnet snippets as the engine reads them; used in the engine's process only.

Nothing here has a bound on its time: the grammar of the engine takes hours for a few characters.
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
    """A template with what it uses.

    :ivar definitions: Jsonnet that is put before it.
    :ivar record_functions: what it calls of `FUNCTIONS`: parameters and the function itself.
    :ivar standard_functions: the same of the standard library; they don't get the record.
    """

    definitions: str
    content: str
    record_functions: Mapping[str, tuple[tuple[str, ...], Callable[..., Any]]]
    standard_functions: Mapping[str, tuple[tuple[str, ...], Callable[..., Any]]]


def prepare(content: str) -> Snippet:
    """The snippet of a template. Raises UserError: its brackets don't match."""
    content = without_surrogates(content)
    check_brackets(content)
    # What the snippet can't use needn't be defined.
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
    """The engine's *text* without its trace, in the words users know."""
    if IMPORTS in text:
        return IMPORTS
    message = _TRACE.sub("", text).removeprefix("runtime error: ")
    if message.startswith("stack overflow"):
        return "max stack frames exceeded."
    if message.startswith(_NOT_DEFINED):
        return "Unknown variable: " + message.removeprefix(_NOT_DEFINED)
    return message


def refuse_import(directory: str, name: str) -> NoReturn:
    """What the engine calls to import a file."""
    raise RuntimeError(IMPORTS)


def check_template(content: str) -> None:
    """Read the snippet without running it.

    Raises UserError with the place and the fault, e.g. ``1:1-8 Unknown variable: Invalid``.
    """
    content = without_surrogates(content)
    check_brackets(content)
    imported = first_import(content)
    if imported is not None:
        raise UserError(f"{imported.line}:{imported.start}-{imported.end} {IMPORTS}")
    # A function that lacks an argument is read, but not called.
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
