"""The declaration of an API operation: its route, parameters and answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import attrs

from stream.api.spec.schema import Boolean, Integer, Object, Schema
from stream.authority.rights import Right
from stream.errors import Fault, shortened
from stream.values.number import MAX_INT64, MIN_INT64, whole_number

__all__ = ["MAX_WAIT_SECONDS", "Operation", "Outcome", "Parameter", "Parameters"]

MAX_WAIT_SECONDS = 50
"""Maximum wait for a task; less than the minute after which many proxies time out."""

_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})

Parameters = dict[str, Any]


@attrs.frozen(kw_only=True)
class Parameter:
    """A parameter in the path or in the query.

    :ivar schema: schema of a string, an integer or a boolean; its default replaces a missing value.
    """

    name: str
    place: Literal["path", "query"]
    schema: Schema
    description: str = ""

    def read(self, raw: str, values: Parameters) -> Iterator[Fault]:
        """Add the value of *raw* to *values*; return what is wrong with it."""
        if raw == "" and self.place == "query":
            values[self.name] = getattr(self.schema, "default", None)
            return
        value: Any = raw
        if isinstance(self.schema, Integer):
            value, problem = _integer(raw)
            if problem:
                yield self._wrong_type(raw, "integer")
        elif isinstance(self.schema, Boolean):
            value = raw in _TRUE
            if not value and raw not in _FALSE:
                yield self._wrong_type(raw, "boolean")
        values[self.name] = value
        yield from self.schema.check(value, self.name)

    def _wrong_type(self, raw: str, expected: str) -> Fault:
        return Fault(
            "invalidFieldType",
            f'invalid value "{shortened(raw)}" for "{self.name}", must be a {expected}',
            self.name,
        )


def _integer(raw: str) -> tuple[int, bool]:
    """Return the integer and whether *raw* isn't one; a value out of range is clamped."""
    value = whole_number(raw, least=MIN_INT64)
    if value is not None:
        return value, False
    digits = raw[1:] if raw[:1] in ("+", "-") else raw
    if not (digits.isascii() and digits.isdigit()):
        return 0, True
    return (MIN_INT64 if raw[0] == "-" else MAX_INT64), True


@attrs.frozen(kw_only=True)
class Outcome:
    """The answer to a caller that has waited for the end of a successful task.

    :ivar shows: id of the operation whose answer is returned; empty for the task itself.
    :ivar result: schema of the answer.
    """

    status: int = 200
    shows: str = ""
    result: Schema


@attrs.frozen(kw_only=True)
class Operation:
    """The declaration of one operation: its route, parameters, body and answers.

    :ivar id: id of the operation, e.g. ``CreateSource``.
    :ivar path: path with parameters in braces; ``{*name}`` matches the rest of the path.
    :ivar task: type of the task that the operation starts; the answer is then 202.
    :ivar outcome: the answer after that task has ended, for a caller that waits.
    :ivar public: whether no token is needed.
    :ivar any_token: whether a token is needed, but no right.
    :ivar right: the right that the token needs; required unless *public* or *any_token* is set.
    :ivar body: schema of the request's body; ``None`` if there is no body or any body is accepted.
    :ivar result: schema of the answer; ``None`` if it has no body.
    :ivar content_type: media type of an answer that isn't JSON.
    :ivar errors: names and statuses of errors, in addition to those that every operation has.
    """

    id: str
    method: Literal["GET", "POST", "PATCH", "PUT", "DELETE"]
    path: str
    summary: str
    description: str = ""
    tag: Literal["documentation", "configuration", "test", "internal"] = "configuration"
    task: str = ""
    outcome: Outcome | None = None
    public: bool = False
    any_token: bool = False
    right: Right | None = None
    parameters: tuple[Parameter, ...] = ()
    body: Object | None = None
    raw_body: bool = False
    result: Schema | None = None
    content_type: str = "application/json"
    status: int = 200
    errors: tuple[tuple[int, str], ...] = ()
    published: bool = True

    def __attrs_post_init__(self) -> None:
        if sum((self.public, self.any_token, self.right is not None)) != 1:
            raise ValueError(
                f"{self.id} must be public, take any token, or name the right that a token needs"
            )

    @property
    def waits(self) -> bool:
        """Whether callers can wait for a task."""
        return any(parameter.name == "wait" for parameter in self.parameters)

    def read_parameters(
        self, path: Mapping[str, str], query: Mapping[str, str]
    ) -> tuple[Parameters, list[Fault]]:
        """Return the values of all parameters, and what is wrong with them."""
        values: Parameters = {}
        problems: list[Fault] = []
        for parameter in self.parameters:
            given = path if parameter.place == "path" else query
            problems += parameter.read(given.get(parameter.name, ""), values)
        return values, problems
