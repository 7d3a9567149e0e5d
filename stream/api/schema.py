"""What requests and answers look like: declared once, used for checking and for the documentation.

A schema *reads* a decoded JSON value, which is about types, and then *checks* it, which is about
presence, lengths and allowed values. Both use the wording and the order of checks that clients of
the API know. `stream.api.openapi` makes the published files from the same declarations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from stream.errors import UserError

__all__ = [
    "ANYTHING",
    "Anything",
    "Array",
    "Boolean",
    "DecodeError",
    "Integer",
    "Member",
    "Object",
    "Problem",
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
    """The body isn't JSON, or not of the right types."""

    name = "decodePayload"


@attrs.frozen
class Problem:
    """One thing that is wrong with a request.

    :ivar name: of the error.
    :ivar text: without capital letter and dot.
    """

    name: str
    text: str


def problems_error(problems: list[Problem]) -> UserError:
    """All *problems* in one error, which has the name of the first."""
    return UserError(
        "; ".join(problem.text for problem in problems), status=400, name=problems[0].name
    )


def quoted(text: str) -> str:
    """*text* as a string literal."""
    return '"' + "".join(_escaped(char) for char in text) + '"'


def _escaped(char: str) -> str:
    if char in _ESCAPES:
        return _ESCAPES[char]
    if char.isprintable():
        return char
    code = ord(char)
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def missing(name: str, where: str) -> Problem:
    """The required member or parameter *name* isn't there."""
    return Problem("missingField", f'"{name}" is missing from {where}')


def _too_short(path: str, shown: str, length: int, minimum: int) -> Problem:
    limit = f"greater or equal than {minimum}"
    return Problem(
        "invalidLength", f"length of {path} must be {limit} but got value {shown} (len={length})"
    )


def _too_long(path: str, shown: str, length: int, maximum: int) -> Problem:
    limit = f"lesser or equal than {maximum}"
    return Problem(
        "invalidLength", f"length of {path} must be {limit} but got value {shown} (len={length})"
    )


@attrs.frozen(kw_only=True)
class Schema:
    """:ivar type: of JSON values, in the words of JSON Schema; empty for any.
    :ivar go_type: as named in errors about types.
    :ivar nullable: for the documentation: null may stand here.
    """

    type: str = ""
    go_type: str = ""
    description: str = ""
    example: Any = None
    nullable: bool = False

    def read(self, value: Any, path: str) -> Any:
        """*value* without what isn't known here. Raises `DecodeError`.

        :param path: of the value, from the name of the outermost object.
        """
        return value

    def check(self, value: Any, path: str) -> Iterator[Problem]:
        """What is wrong with a value that `read` returned.

        :param path: of the value, from ``body``.
        """
        return iter(())

    def check_absent(self, path: str) -> Iterator[Problem]:
        """What is wrong, beside the absence itself, if a required value isn't there."""
        return iter(())


@attrs.frozen(kw_only=True)
class Anything(Schema):
    """Any JSON value."""


ANYTHING = Anything()


@attrs.frozen(kw_only=True)
class Text(Schema):
    """:ivar enum: allowed values, empty for all.
    :ivar min_length: characters.
    :ivar max_length: characters.
    :ivar format: for the documentation.
    :ivar pattern: for the documentation.
    """

    type: str = "string"
    go_type: str = "string"
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

    def check(self, value: Any, path: str) -> Iterator[Problem]:
        if self.enum and value not in self.enum:
            allowed = ", ".join(f'"{item}"' for item in _told(self.enum, path))
            yield Problem(
                "invalidEnumValue",
                f"value of {path} must be one of {allowed} but got value {quoted(value)}",
            )
        if self.min_length is not None and len(value) < self.min_length:
            yield _too_short(path, quoted(value), len(value), self.min_length)
        if self.max_length is not None and len(value) > self.max_length:
            yield _too_long(path, quoted(value), len(value), self.max_length)


def _told(enum: tuple[str, ...], path: str) -> list[str]:
    """Allowed values as clients are told them.

    Within an array, the value ``body`` has always been told as the path of the array's item;
    clients compare whole messages.
    """
    item = path.rpartition(".")[0]
    return [item if value == "body" and item.endswith("]") else value for value in enum]


@attrs.frozen(kw_only=True)
class Integer(Schema):
    """:ivar minimum: the least allowed value."""

    type: str = "integer"
    go_type: str = "int"
    minimum: int | None = None
    maximum: int | None = None
    default: int | None = None

    def check(self, value: Any, path: str) -> Iterator[Problem]:
        if self.minimum is not None and value < self.minimum:
            limit = f"greater or equal than {self.minimum}"
            yield Problem("invalidRange", f"{path} must be {limit} but got value {value}")
        if self.maximum is not None and value > self.maximum:
            limit = f"lesser or equal than {self.maximum}"
            yield Problem("invalidRange", f"{path} must be {limit} but got value {value}")


@attrs.frozen(kw_only=True)
class Boolean(Schema):
    type: str = "boolean"
    go_type: str = "bool"
    default: bool | None = None

    def read(self, value: Any, path: str) -> bool:
        if not isinstance(value, bool):
            raise _wrong_type(value, path, self)
        return value


@attrs.frozen(kw_only=True)
class Array(Schema):
    """:ivar items: of all items.
    :ivar alias: the items are of a type of their own with this name, which errors repeat.
    """

    type: str = "array"
    items: Schema
    min_items: int | None = None
    max_items: int | None = None
    alias: str = ""

    def read(self, value: Any, path: str) -> list[Any]:
        if not isinstance(value, list):
            raise _wrong_type(value, path, self)
        # A null item is read as the empty value of its type.
        return [
            self.items.read(_empty(self.items) if item is None else item, path) for item in value
        ]

    def check(self, value: Any, path: str) -> Iterator[Problem]:
        if self.min_items is not None and len(value) < self.min_items:
            yield _too_short(path, f"{self.go_type}{{}}", len(value), self.min_items)
        if self.max_items is not None and len(value) > self.max_items:
            yield _too_long(path, f"{self.go_type}{{...}}", len(value), self.max_items)
        for index, item in enumerate(value):
            item_path = f"{path}[{index}]"
            if self.alias:
                item_path += f".{self.alias}[*]"
            yield from self.items.check(item, item_path)

    def check_absent(self, path: str) -> Iterator[Problem]:
        if self.min_items:
            yield _too_short(path, f"{self.go_type}(nil)", 0, self.min_items)


@attrs.frozen
class Member:
    """A member of an object."""

    name: str
    schema: Schema
    required: bool = attrs.field(default=False, kw_only=True)


@attrs.frozen(kw_only=True)
class Object(Schema):
    """:ivar name: under which it is published and named in errors.
    :ivar members: in the order of checks.
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
            # Only where any value may stand, null isn't the same as absence.
            if item is not None or isinstance(member.schema, Anything):
                read[member.name] = member.schema.read(item, f"{path}.{member.name}")
        return read

    def check(self, value: Any, path: str) -> Iterator[Problem]:
        for member in self.members:
            if member.required and member.name not in value:
                yield missing(member.name, path)
        for member in self.members:
            member_path = f"{path}.{member.name}"
            if member.name in value:
                yield from member.schema.check(value[member.name], member_path)
            elif member.required:
                yield from member.schema.check_absent(member_path)


def _empty(schema: Schema) -> Any:
    if isinstance(schema, Object):
        return {}
    return [] if isinstance(schema, Array) else "" if isinstance(schema, Text) else None


def _wrong_type(value: Any, path: str, schema: Schema) -> DecodeError:
    if isinstance(value, bool):
        found = "bool"
    elif isinstance(value, int | float):
        found = "number"
    elif isinstance(value, str):
        found = "string"
    else:
        found = "array" if isinstance(value, list) else "object"
    expected = schema.go_type or (schema.name if isinstance(schema, Object) else schema.type)
    if "." in path:
        place = f"Go struct field {path} of type {expected}"
    else:
        place = f"Go value of type server.{path}"
    return DecodeError(f"json: cannot unmarshal {found} into {place}")
