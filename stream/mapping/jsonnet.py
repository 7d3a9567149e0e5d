"""Template columns: Jsonnet snippets evaluated with the record's data.

They run in a process of their own (`stream.mapping.engine`). Snippets that are no more than one
call of a record function, which most are, never get there: the call is made directly and printed
the same way.
"""

from __future__ import annotations

import atexit
import json
import re
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import rjsonnet

from stream.errors import UserError
from stream.mapping.engine import Engine, EngineError, Program
from stream.mapping.free_variables import unknown_variable, without_tailstrict
from stream.mapping.functions import FUNCTIONS, to_json
from stream.mapping.standard import STANDARD_CALLBACKS, standard_extension
from stream.record.context import RecordContext
from stream.record.jsontree import text_bytes

__all__ = ["check_template", "compile_template"]

_FILE = "template"
_DEFINITIONS = {
    name: f"local {name}({signature}) = std.native('{name}')({', '.join(names)});"
    for name, (signature, names, _) in FUNCTIONS.items()
}
_TRACE = re.compile(
    r"\n {4}(?:template:.*|<std>:.*|during .*|field <.*|argument <.*|array index \d+"
    r"|function <.*|.* manifestification)(?=\n|$)"
)
_PLACE = re.compile(r"\n {4}template:(\d+):(\d+)(?:-(\d+))?")
_NOT_DEFINED = "variable is not defined: "
_CALL = re.compile(
    rf"\s*(?P<name>{'|'.join(FUNCTIONS)})\s*\(\s*"
    r"(?:(?P<first>'[^'\\]*'|\"[^\"\\]*\")\s*"
    r"(?:,\s*(?P<second>'[^'\\]*'|\"[^\"\\]*\"|null|true|false)\s*)?)?\)\s*"
)
_WORDS: dict[str, Any] = {"null": None, "true": True, "false": False}

_engine = Engine()
atexit.register(_engine.close)

Evaluate = Callable[[RecordContext], Any]


def compile_template(language: str, content: str, raw_string: bool) -> Callable[..., bytes]:
    """A function from a record to the text of the cell.

    :param raw_string: a string is rendered as its text, everything else as JSON.

    The function raises UserError with the cause's text, and so does this one for another language.
    """
    if language != "jsonnet":
        raise UserError(f'unsupported language "{language}", only "jsonnet" is supported')
    evaluate = _direct_call(content) or _evaluation(content)

    def render(record: RecordContext) -> bytes:
        value = evaluate(record)
        if raw_string and isinstance(value, str):
            return text_bytes(value)
        return text_bytes(to_json(value))

    return render


def _direct_call(content: str) -> Evaluate | None:
    """The call that *content* is, or ``None`` if it is more than that."""
    match = _CALL.fullmatch(content)
    if match is None:
        return None
    _, names, function = FUNCTIONS[match["name"]]
    arguments = [_literal(text) for text in match.group("first", "second") if text is not None]
    if len(arguments) > len(names):
        return None
    return lambda record: function(record, *arguments)


def _literal(text: str) -> Any:
    return _WORDS[text] if text in _WORDS else text[1:-1]


def _evaluation(content: str) -> Evaluate:
    # What the snippet can't use needn't be defined.
    used = {name: FUNCTIONS[name] for name in FUNCTIONS if name in content}
    definitions = " ".join([standard_extension(content), *(_DEFINITIONS[name] for name in used)])
    standard = {name: f for name, f in STANDARD_CALLBACKS.items() if name in definitions}
    natives = {
        **{name: names for name, (_, names, _) in used.items()},
        **{name: names for name, (names, _) in standard.items()},
    }
    program = Program(definitions, without_tailstrict(content), natives)

    def evaluate(record: RecordContext) -> Any:
        def call(name: str, arguments: Sequence[Any]) -> Any:
            if name in used:
                return used[name][2](record, *arguments)
            return standard[name][1](*arguments)

        try:
            result = _engine.evaluate(program, call)
        except EngineError as error:
            raise UserError(_reason(str(error))) from None
        try:
            return json.loads(result, parse_int=float)
        except ValueError:
            raise UserError("overflow") from None  # a number beyond all doubles
        except RecursionError:
            raise UserError("max stack frames exceeded.") from None

    return evaluate


def _reason(text: str) -> str:
    """The engine's *text* without its trace, in the words users know."""
    if "imports are not enabled" in text:
        return "imports are not enabled"
    message = _TRACE.sub("", text).removeprefix("runtime error: ")
    if message.startswith("stack overflow"):
        return "max stack frames exceeded."
    if message.startswith(_NOT_DEFINED):
        return "Unknown variable: " + message.removeprefix(_NOT_DEFINED)
    return message


def _refuse_import(directory: str, name: str) -> NoReturn:
    raise RuntimeError("imports are not enabled")


def check_template(content: str) -> None:
    """Read the snippet without running it.

    Raises UserError with the place and the fault, e.g. ``1:1-8 Unknown variable: Invalid``.
    """
    # A function that lacks an argument is read, but not called.
    snippet = f"\nfunction(missing)\n{content}"
    try:
        rjsonnet.evaluate_snippet(_FILE, snippet, import_callback=_refuse_import)
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
