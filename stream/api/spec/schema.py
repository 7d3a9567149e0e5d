"""Schemas of requests and answers, used for checks and for the documentation.

A schema *reads* a decoded JSON value, which checks types, and then *checks* it: presence, lengths
and allowed values, in the wording and order that clients of the API rely on.
`stream.api.spec.openapi` makes the published files from the same declarations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from stream.errors import MAX_FAULTS, Fault, UserError, shortened
from stream.settings.nearest import closest
from stream.values.duration import Duration

__all__ = [
    "ANYTHING",
    "Anything",
    "Array",
    "Boolean",
    "DecodeError",
    "DurationText",
    "Integer",
    "Member",
    "Number",
    "Object",
    "Schema",
    "Text",
    "problems_error",
    "quoted",
]

_ESCAPES = {
    '"': '\\"',
    "\\": "\\\\",
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
}


class DecodeError(UserError):
    """The body isn't JSON, or has values of the wrong type."""

    name = "decodePayload"


def problems_error(problems: Sequence[Fault]) -> UserError:
    """Return all *problems* in one error with the name of the first.

    Problems beyond `MAX_FAULTS` are only counted. Problems in different parts of the request are
    also listed one by one. Members of the answer contain the explanation of a problem that needs
    one.
    """
    shown = problems[:MAX_FAULTS]
    texts = [problem.message for problem in shown]
    if len(problems) > len(shown):
        texts.append(f"and {len(problems) - len(shown)} more problems")
    message = "; ".join(texts)
    first = problems[0]
    if len({problem.param for problem in problems}) > 1:
        return UserError(message, status=400, name=first.name, faults=shown)
    details = [problem.detail for problem in problems if problem.detail]
    return UserError(
        message,
        status=400,
        name=first.name,
        param=first.param if details else "",
        detail="; ".join(details),
    )


def quoted(text: str) -> str:
    """Return *text* as a string literal, shortened if it is long."""
    return '"' + "".join(_escaped(char) for char in shortened(text)) + '"'


def _escaped(char: str) -> str:
    if char in _ESCAPES:
        return _ESCAPES[char]
    if char.isprintable():
        return char
    code = ord(char)
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def missing(name: str, where: str) -> Fault:
    """Return the problem of a missing required member or parameter *name*."""
    param = f"{where}.{name}" if where.partition(".")[0] == "body" else name
    return Fault("missingField", f'"{name}" is missing from {where}', param)


def _too_short(path: str, shown: str, length: int, minimum: int) -> Fault:
    return _wrong_length(path, shown, length, f"greater or equal than {minimum}")


def _too_long(path: str, shown: str, length: int, maximum: int) -> Fault:
    return _wrong_length(path, shown, length, f"lesser or equal than {maximum}")


def _wrong_length(path: str, shown: str, length: int, limit: str) -> Fault:
    message = f"length of {path} must be {limit} but got value {shown} (len={length})"
    return Fault("invalidLength", message, path)


@attrs.frozen(kw_only=True)
class Schema:
    """The base of all schemas: a value of the API, its check and its documentation.

    :ivar type: JSON Schema type of the values; empty for any.
    :ivar nullable: whether the documentation says that null is allowed.
    """

    type: str = ""
    description: str = ""
    example: Any = None
    nullable: bool = False

    def read(self, value: Any, path: str) -> Any:
        """Return *value* without unknown members.

        Raises DecodeError: a value has the wrong type.

        :param path: path of the value, starting with ``body``.
        """
        return value

    def check(self, value: Any, path: str) -> Iterator[Fault]:
        """Return what is wrong with a value that `read` returned."""
        return iter(())

    def unknown(self, value: Any, path: str) -> Iterator[Fault]:
        """Return the unknown members of *value*, which `read` leaves out."""
        return iter(())


@attrs.frozen(kw_only=True)
class Anything(Schema):
    """Any JSON value."""


ANYTHING = Anything()


@attrs.frozen(kw_only=True)
class Text(Schema):
    """A string.

    :ivar enum: allowed values, empty for all.
    :ivar min_length: minimum number of characters.
    :ivar max_length: maximum number of characters.
    :ivar format: JSON Schema format, used only in the documentation.
    :ivar pattern: regular expression, used only in the documentation.
    """

    type: str = "string"
    enum: tuple[str, ...] = ()
    min_length: int | None = None
    max_length: int | None = None
    format: str = ""
    pattern: str = ""
    default: str | None = None

    def read(self, value: Any, path: str) -> str:
        if not isinstance(value, str):
            raise _wrong_type(value, path, self)
        return value

    def check(self, value: Any, path: str) -> Iterator[Fault]:
        if self.enum and value not in self.enum:
            allowed = ", ".join(f'"{item}"' for item in self.enum)
            yield Fault(
                "invalidEnumValue",
                f"value of {path} must be one of {allowed} but got value {quoted(value)}",
                path,
            )
        if self.min_length is not None and len(value) < self.min_length:
            yield _too_short(path, quoted(value), len(value), self.min_length)
        if self.max_length is not None and len(value) > self.max_length:
            yield _too_long(path, quoted(value), len(value), self.max_length)


@attrs.frozen(kw_only=True)
class DurationText(Text):
    """A duration such as ``10s`` in a parameter of the URL.

    :ivar maximum: the longest allowed duration in seconds.
    """

    maximum: int

    def check(self, value: Any, path: str) -> Iterator[Fault]:
        if not value:
            return
        try:
            seconds = Duration.parse(value).seconds
        except ValueError:
            message = f"invalid value {quoted(value)} for {quoted(path)}, must be a duration"
            yield Fault("invalidFieldType", message, path, "a number with its unit, such as 10s")
            return
        if not 0 <= seconds <= self.maximum:
            message = f"{path} must be between 0s and {self.maximum}s but got value {value}"
            yield Fault("invalidRange", message, path)


@attrs.frozen(kw_only=True)
class Integer(Schema):
    """An integer, or a number without a fraction.

    :ivar minimum: the smallest allowed value.
    """

    type: str = "integer"
    minimum: int | None = None
    maximum: int | None = None
    default: int | None = None

    def check(self, value: Any, path: str) -> Iterator[Fault]:
        if self.minimum is not None and value < self.minimum:
            limit = f"greater or equal than {self.minimum}"
            yield Fault("invalidRange", f"{path} must be {limit} but got value {value}", path)
        if self.maximum is not None and value > self.maximum:
            limit = f"lesser or equal than {self.maximum}"
            yield Fault("invalidRange", f"{path} must be {limit} but got value {value}", path)


@attrs.frozen(kw_only=True)
class Number(Schema):
    """A number in an answer, with or without a fraction."""

    type: str = "number"


@attrs.frozen(kw_only=True)
class Boolean(Schema):
    """A boolean."""

    type: str = "boolean"
    default: bool | None = None

    def read(self, value: Any, path: str) -> bool:
        if not isinstance(value, bool):
            raise _wrong_type(value, path, self)
        return value


@attrs.frozen(kw_only=True)
class Array(Schema):
    """A list whose items have one schema.

    :ivar items: schema of all items.
    """

    type: str = "array"
    items: Schema
    min_items: int | None = None
    max_items: int | None = None

    def read(self, value: Any, path: str) -> list[Any]:
        if not isinstance(value, list):
            raise _wrong_type(value, path, self)
        if self.max_items is not None and len(value) > self.max_items:
            # Checked before the items are converted, because there may be any number of them.
            raise problems_error([_too_long(path, "[…]", len(value), self.max_items)])
        # A null item is read as the empty value of its type.
        return [
            self.items.read(_empty(self.items) if item is None else item, f"{path}[{index}]")
            for index, item in enumerate(value)
        ]

    def check(self, value: Any, path: str) -> Iterator[Fault]:
        if self.min_items is not None and len(value) < self.min_items:
            yield _too_short(path, "[]" if not value else "[…]", len(value), self.min_items)
        for index, item in enumerate(value):
            yield from self.items.check(item, f"{path}[{index}]")

    def unknown(self, value: Any, path: str) -> Iterator[Fault]:
        if isinstance(value, list):
            for index, item in enumerate(value):
                yield from self.items.unknown(item, f"{path}[{index}]")


@attrs.frozen
class Member:
    """A member of an object."""

    name: str
    schema: Schema
    required: bool = attrs.field(default=False, kw_only=True)


@attrs.frozen(kw_only=True)
class Object(Schema):
    """An object with declared members.

    :ivar name: the published name.
    :ivar members: members in the order of checks.
    """

    type: str = "object"
    name: str = ""
    members: tuple[Member, ...] = ()
    additional: Schema | None = None

    def read(self, value: Any, path: str) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise _wrong_type(value, path, self)
        given = {name.casefold(): item for name, item in value.items()} | dict(value)
        read = {}
        for member in self.members:
            name = member.name if member.name in given else member.name.casefold()
            if name not in given:
                continue
            item = given[name]
            # Null and absence differ only where any value is allowed.
            if item is not None or isinstance(member.schema, Anything):
                read[member.name] = member.schema.read(item, f"{path}.{member.name}")
        return read

    def check(self, value: Any, path: str) -> Iterator[Fault]:
        for member in self.members:
            if member.required and member.name not in value:
                yield missing(member.name, path)
        for member in self.members:
            member_path = f"{path}.{member.name}"
            if member.name in value:
                yield from member.schema.check(value[member.name], member_path)

    def unknown(self, value: Any, path: str) -> Iterator[Fault]:
        # `read` uses only one of several spellings of a name; values under the others may have any
        # type.
        if not isinstance(value, Mapping):
            return
        known = {member.name.casefold(): member for member in self.members}
        for name, item in value.items():
            member = known.get(name.casefold())
            if member is None:
                yield self._unknown_member(name, path)
            else:
                yield from member.schema.unknown(item, f"{path}.{member.name}")

    def _unknown_member(self, name: str, path: str) -> Fault:
        names = [member.name for member in self.members]
        meant = closest(name, names)
        hint = f"did you mean {quoted(meant)}?" if meant else f"known are {', '.join(names)}"
        message = f"member {quoted(name)} of {path} is not known: {hint}"
        return Fault("unknownMember", message, f"{path}.{shortened(name)}")


def _empty(schema: Schema) -> Any:
    if isinstance(schema, Object):
        return {}
    return [] if isinstance(schema, Array) else "" if isinstance(schema, Text) else None


_SHOWN_TYPES = {
    "string": "a string",
    "number": "a number",
    "integer": "an integer",
    "boolean": "true or false",
    "array": "an array",
    "object": "an object",
}


def _wrong_type(value: Any, path: str, schema: Schema) -> DecodeError:
    if isinstance(value, bool):
        found = "boolean"
    elif isinstance(value, int | float):
        found = "number"
    elif isinstance(value, str):
        found = "string"
    else:
        found = "array" if isinstance(value, list) else "object"
    shown = str(value).lower() if found == "boolean" else _SHOWN_TYPES[found]
    message = f"{path} must be {_SHOWN_TYPES[schema.type]} but got {shown}"
    return DecodeError(message, param=path)
