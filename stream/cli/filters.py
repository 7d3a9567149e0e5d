"""Filters of records, in a small subset of jq. Pure.

``.user.name == "Ada" and (.count > 3 or not .paid)``: paths begin with a dot and refer to the body,
or with ``$`` and refer to the request (``$ip``, ``$headers.user-agent``). Values are compared with
``== != < <= > >= contains startswith``; a path alone tests whether its value is neither null nor
false. There are no function calls, and the time is linear in the length of the text.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

__all__ = ["FilterFault", "compile_filter"]

MAX_CHARACTERS = 4096
MAX_DEPTH = 50

Condition = Callable[[Any, Mapping[str, Any]], Any]
"""Returns a value, given the body and the record."""

_TOKEN = re.compile(
    r"""\s*(?:
    (?P<path>[.$](?:[\w-]+|"(?:[^"\\]|\\.)*")?(?:\.(?:[\w-]+|"(?:[^"\\]|\\.)*")|\[\d{1,9}\]|\["(?:[^"\\]|\\.)*"\])*)
    |(?P<text>"(?:[^"\\]|\\.)*")
    |(?P<number>-?\d+(?:\.\d+)?(?:[eE][+-]?\d{1,3})?)
    |(?P<operator>==|!=|<=|>=|<|>|\(|\))
    |(?P<word>[a-z]+)
    )""",
    re.VERBOSE,
)
_STEP = re.compile(r'[\w-]+|"(?:[^"\\]|\\.)*"|\[\d+\]')
_LITERALS = {"true": True, "false": False, "null": None}
_MISSING = object()


class FilterFault(Exception):
    """An invalid condition; the message says where and why."""


def compile_filter(text: str) -> Callable[[Mapping[str, Any]], bool]:
    """Return a function that tests whether a record meets the condition *text*.

    Raises FilterFault: the condition is invalid.
    """
    if len(text) > MAX_CHARACTERS:
        raise FilterFault(f"The filter is longer than {MAX_CHARACTERS} characters.")
    parser = _Parser(text)
    condition = parser.whole()

    def meets(record: Mapping[str, Any]) -> bool:
        body: Any = record.get("body")
        if isinstance(body, str) and not record.get("isBase64"):
            with suppress(ValueError, RecursionError):  # not a JSON value, so it is a string
                body = json.loads(body)
        return _is_true(condition(body, record))

    return meets


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens: list[tuple[str, str, int]] = []
        place = 0
        while text[place:].strip():
            match = _TOKEN.match(text, place)
            if match is None or match.lastgroup is None:
                raise FilterFault(self._at("can't read this", place))
            kind = match.lastgroup
            self._tokens.append((kind, match[kind], match.start(kind)))
            place = match.end()
        self._next = 0

    def _at(self, problem: str, place: int) -> str:
        rest = self._text[place : place + 20].strip()
        return f'The filter: {problem}: "{rest}".' if rest else f"The filter: {problem} at its end."

    def _peek(self) -> tuple[str, str, int]:
        if self._next < len(self._tokens):
            return self._tokens[self._next]
        return ("end", "", len(self._text))

    def _take(self, *words: str) -> str:
        """Return the next token if it is one of *words*; otherwise an empty string."""
        kind, value, _ = self._peek()
        if kind in ("operator", "word") and value in words:
            self._next += 1
            return value
        return ""

    def whole(self) -> Condition:
        condition = self._any(0)
        kind, _, place = self._peek()
        if kind != "end":
            raise FilterFault(self._at("unexpected", place))
        return condition

    def _any(self, depth: int) -> Condition:
        found = [self._all(depth)]
        while self._take("or"):
            found.append(self._all(depth))
        if len(found) == 1:
            return found[0]
        return lambda body, record: any(_is_true(one(body, record)) for one in found)

    def _all(self, depth: int) -> Condition:
        found = [self._one(depth)]
        while self._take("and"):
            found.append(self._one(depth))
        if len(found) == 1:
            return found[0]
        return lambda body, record: all(_is_true(one(body, record)) for one in found)

    def _one(self, depth: int) -> Condition:
        if depth > MAX_DEPTH:
            raise FilterFault("The filter is nested too deeply.")
        if self._take("not"):
            inner = self._one(depth + 1)
            return lambda body, record: not _is_true(inner(body, record))
        # Here, jq's select(…) means the same as the condition in its parentheses.
        if self._take("select") and self._peek()[1] != "(":
            raise FilterFault(self._at("expected (", self._peek()[2]))
        if self._take("("):
            inside = self._any(depth + 1)
            if not self._take(")"):
                raise FilterFault(self._at("expected )", self._peek()[2]))
            return inside
        left = self._operand()
        name = self._take(*_OPERATORS)
        if not name:
            return left
        right, compare = self._operand(), _OPERATORS[name]
        return lambda body, record: compare(left(body, record), right(body, record))

    def _operand(self) -> Condition:
        kind, value, place = self._peek()
        self._next += 1
        if kind == "path":
            return _path(value)
        if kind in ("text", "number"):
            try:
                literal = json.loads(value)
            except ValueError:
                raise FilterFault(self._at("not a JSON value", place)) from None
            return lambda body, record: literal
        if kind == "word" and value in _LITERALS:
            constant = _LITERALS[value]
            return lambda body, record: constant
        if kind == "word":
            raise FilterFault(self._at("a path begins with a dot, and a string has quotes", place))
        raise FilterFault(self._at("expected a path or a value", place))


def _path(text: str) -> Condition:
    steps: list[str | int] = []
    for step in _STEP.findall(text):
        if step.startswith("["):
            steps.append(int(step[1:-1]))
        elif step.startswith('"'):
            steps.append(json.loads(step))
        else:
            steps.append(step)
    of_record = text.startswith("$")

    def value(body: Any, record: Mapping[str, Any]) -> Any:
        found: Any = record if of_record else body
        for step in steps:
            if isinstance(step, int):
                found = found[step] if isinstance(found, list) and step < len(found) else _MISSING
            else:
                found = _member(found, step, of_record)
        return found

    return value


def _member(found: Any, name: str, ignore_case: bool) -> Any:
    if not isinstance(found, Mapping):
        return _MISSING
    if name in found or not ignore_case:
        return found.get(name, _MISSING)
    # Header names are case-insensitive.
    return next((value for key, value in found.items() if key.lower() == name.lower()), _MISSING)


def _is_true(value: Any) -> bool:
    return value is not _MISSING and value is not None and value is not False


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def ordered(left: Any, right: Any) -> bool:
        numbers = _is_number(left) and _is_number(right)
        return (numbers or (isinstance(left, str) and isinstance(right, str))) and compare(
            left, right
        )

    return ordered


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _equal(left: Any, right: Any) -> bool:
    if isinstance(left, bool) != isinstance(right, bool):
        return False
    left, right = (None if x is _MISSING else x for x in (left, right))
    return bool(left == right)


def _contains(left: Any, right: Any) -> bool:
    if isinstance(left, str):
        return isinstance(right, str) and right in left
    return isinstance(left, list) and right in left


_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "==": _equal,
    "!=": lambda left, right: not _equal(left, right),
    "<": _ordered(operator.lt),
    "<=": _ordered(operator.le),
    ">": _ordered(operator.gt),
    ">=": _ordered(operator.ge),
    "contains": _contains,
    "startswith": lambda left, right: (
        isinstance(left, str) and isinstance(right, str) and left.startswith(right)
    ),
}
