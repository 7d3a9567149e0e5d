"""The codec between attrs values and JSON, for stored records and API answers.

Field names become lowerCamelCase, in the order of the attributes. ``None`` is omitted. `field`
changes this for an attribute: it sets another name, omits empty values, or flattens the value into
the parent (as for the keys of entities).

Note [Other versions]: a stored value may have been written by another version of the service, with
fewer or more members. If a member is absent or ``null``, or is an empty string where no string is
expected, the attribute gets its default. So every attribute of a stored value has a default, unless
the value is meaningless without it (its key, its state). A `Record` keeps unknown members and
writes them after the known ones, at every depth.

Note [Other forms]: a number, a flag, a duration or a size may be stored as a number or as a string,
and a time may have any fraction and any zone. They are always written in this service's own format.
A value of another type is an error and never converted: the string ``"false"`` isn't true, and a
string isn't a list of its characters.
"""

from __future__ import annotations

import collections.abc
import enum
import math
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import lru_cache
from types import MappingProxyType, NoneType, UnionType
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import attrs
import cattrs
import orjson

from stream.values.bytesize import ByteSize
from stream.values.duration import Duration
from stream.values.utctime import NO_TIME, format_time, parse_any_time

__all__ = [
    "Record",
    "decode",
    "encode",
    "field",
    "from_plain",
    "known_part",
    "register",
    "register_text",
    "register_union",
    "to_plain",
]

T = TypeVar("T")
_OPTIONS = "stream.codec"
_UNKNOWN = "unknown"
_NOTHING: Mapping[str, Any] = MappingProxyType({})


@attrs.frozen(kw_only=True)
class Record:
    """A stored value that keeps unknown members; see Note [Other versions].

    Two records are equal if their known members are equal.

    :ivar unknown: unknown members by name, as plain JSON values.
    """

    unknown: Mapping[str, Any] = attrs.field(default=_NOTHING, eq=False, repr=False)


def field(
    *,
    name: str | None = None,
    omit_empty: bool = False,
    keep_none: bool = False,
    empty_text: bool = False,
    flatten: bool = False,
    **attributes: Any,
) -> Any:
    """An attrs field with instructions for the codec.

    :param name: the member's name; by default the attribute's name in lowerCamelCase.
    :param omit_empty: whether to omit the member if its value is false, zero or empty.
    :param keep_none: whether to write ``None`` as ``null`` (by default the member is omitted).
    :param empty_text: whether to write ``None`` as ``""`` (the zero time).
    :param flatten: whether to put the members of this value (of an attrs class) into the parent's
        object.
    :param attributes: passed on to `attrs.field`.
    """
    metadata = dict(attributes.pop("metadata", {}))
    metadata[_OPTIONS] = {
        "name": name,
        "omit_empty": omit_empty,
        "keep_none": keep_none,
        "empty_text": empty_text,
        "flatten": flatten,
    }
    return attrs.field(metadata=metadata, **attributes)


@attrs.frozen
class _Member:
    """The JSON form of one attribute.

    Its functions are looked up once per class, since records are read and written often.

    :ivar argument: the attribute's name as a parameter of ``__init__``.
    :ivar is_argument: whether ``__init__`` accepts it; otherwise all instances have the same value.
    :ivar optional: whether the value may be ``None``.
    :ivar may_be_empty: whether an empty string is a value; otherwise it means that there is no
        value.
    :ivar read: converts a JSON value, given the type.
    :ivar write: converts a value to JSON; ``None`` if it is its own JSON value.
    """

    attribute: str
    argument: str
    is_argument: bool
    name: str
    type: Any
    read: Callable[[Any, Any], Any]
    write: Callable[[Any], Any] | None
    required: bool
    optional: bool
    may_be_empty: bool
    omit_empty: bool
    keep_none: bool
    empty_text: bool
    flatten: bool


@attrs.frozen
class _Form:
    """The members of a class.

    :ivar names: names of all members, including those of flattened parts.
    :ivar keeps_unknown: whether the class is a `Record`, which keeps unknown members.
    """

    members: tuple[_Member, ...]
    names: frozenset[str]
    keeps_unknown: bool


_forms: dict[type, _Form] = {}


def _camel(name: str) -> str:
    head, *rest = name.strip("_").split("_")
    return head + "".join(part.capitalize() for part in rest)


def _form(cls: type) -> _Form:
    form = _forms.get(cls)
    if form is None:
        form = _forms[cls] = _form_of(cls)
    return form


def _form_of(cls: type) -> _Form:
    hints = get_type_hints(cls)
    keeps_unknown = issubclass(cls, Record)
    members = []
    names: set[str] = set()
    for attribute in attrs.fields(cast(Any, cls)):
        if keeps_unknown and attribute.name == _UNKNOWN:
            continue
        options = attribute.metadata.get(_OPTIONS, {})
        hint = hints[attribute.name]
        member = _Member(
            attribute=attribute.name,
            argument=attribute.alias,
            is_argument=attribute.init,
            name=options.get("name") or _camel(attribute.name),
            type=hint,
            read=_converter.get_structure_hook(hint),
            write=_writer(hint),
            required=attribute.default is attrs.NOTHING,
            optional=hint is Any or NoneType in get_args(hint),
            may_be_empty=bool({Any, str} & _kinds(hint)),
            omit_empty=options.get("omit_empty", False),
            keep_none=options.get("keep_none", False),
            empty_text=options.get("empty_text", False),
            flatten=options.get("flatten", False),
        )
        members.append(member)
        names |= _form(hint).names if member.flatten else {member.name}
    return _Form(tuple(members), frozenset(names), keeps_unknown)


def _origin(hint: Any) -> Any:
    return get_origin(hint)


def _kinds(hint: Any) -> set[Any]:
    """Return the types of a union, or the type itself."""
    return set(get_args(hint)) if _origin(hint) in (Union, UnionType) else {hint}


_converter = cattrs.Converter(forbid_extra_keys=False, detailed_validation=False)
_PLAIN = (str, int, bool, float)


def _writer(hint: Any) -> Callable[[Any], Any] | None:
    """Return the function that writes values of the type *hint* other than ``None``."""
    kinds = [kind for kind in get_args(hint) if kind is not NoneType]
    kind = kinds[0] if NoneType in get_args(hint) and len(kinds) == 1 else hint
    if kind in _PLAIN:
        return None
    if isinstance(kind, type) and not get_args(kind):
        return _converter.get_unstructure_hook(kind)
    return _converter.unstructure


def _is_empty(value: object) -> bool:
    return value is False or (not isinstance(value, bool) and not value)


def _unstructure_attrs(value: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    form = _form(type(value))
    for member in form.members:
        item = getattr(value, member.attribute)
        if member.flatten:
            if item is not None:
                plain.update(_unstructure_attrs(item))
            continue
        if item is None:
            if member.empty_text:
                plain[member.name] = ""
            elif member.keep_none:
                plain[member.name] = None
        elif not (member.omit_empty and _is_empty(item)):
            plain[member.name] = item if member.write is None else member.write(item)
    if form.keeps_unknown:
        plain.update(value.unknown)
    return plain


def _structure_attrs(plain: Any, cls: type[T]) -> T:
    if not isinstance(plain, Mapping):
        raise ValueError(f"expected an object for {cls.__name__}, found {type(plain).__name__}")
    form = _form(cls)
    arguments: dict[str, Any] = {}
    for member in form.members:
        if not member.is_argument:
            continue
        if member.flatten:
            arguments[member.argument] = member.read(plain, member.type)
            continue
        item = plain.get(member.name)
        if item is not None and (item != "" or member.may_be_empty):
            arguments[member.argument] = member.read(item, member.type)
        elif member.required:
            if not member.optional or member.name not in plain:
                raise ValueError(f'"{member.name}" is missing in {cls.__name__}')
            arguments[member.argument] = None
    if form.keeps_unknown and not plain.keys() <= form.names:
        arguments[_UNKNOWN] = {name: item for name, item in plain.items() if name not in form.names}
    return cls(**arguments)


def _structure_time(text: Any, _: type) -> datetime:
    return NO_TIME if text == "" else parse_any_time(_text(text))


def _structure_time_or_none(text: Any, _: Any) -> datetime | None:
    return None if text is None or text == "" else parse_any_time(_text(text))


_INTEGER = re.compile(r"-?[0-9]{1,19}", re.ASCII)
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?", re.ASCII)
_INTEGERS = range(-(2**63), 2**64)
"""Integers that can be written."""
_FLAGS = {"true": True, "false": False, "1": True, "0": False}


def _unexpected(wanted: str, found: object) -> ValueError:
    return ValueError(f"expected {wanted}, found {type(found).__name__}")


def _text(plain: object, _: Any = None) -> str:
    """Return a string; a number is returned as it is written in JSON."""
    if isinstance(plain, str):
        return plain
    if isinstance(plain, int | float) and not isinstance(plain, bool):
        return orjson.dumps(plain).decode()
    raise _unexpected("a text", plain)


def _integer(plain: object, _: Any = None) -> int:
    if isinstance(plain, int) and not isinstance(plain, bool):
        return plain
    is_text = isinstance(plain, str) and _INTEGER.fullmatch(plain) is not None
    if is_text or (isinstance(plain, float) and plain.is_integer()):
        number = int(cast(Any, plain))
        if number in _INTEGERS:
            return number
    raise _unexpected("an integer", plain)


def _number(plain: object, _: Any = None) -> float:
    is_text = isinstance(plain, str) and _NUMBER.fullmatch(plain) is not None
    if is_text or (isinstance(plain, int | float) and not isinstance(plain, bool)):
        number = float(cast(Any, plain))
        if math.isfinite(number):
            return number
    raise _unexpected("a number", plain)


def _flag(plain: object, _: Any = None) -> bool:
    if isinstance(plain, bool):
        return plain
    found = _FLAGS.get(str(plain)) if isinstance(plain, int | str) else None
    if found is None:
        raise _unexpected("true or false", plain)
    return found


def _duration(plain: object, _: Any = None) -> Duration:
    """Return a duration; a number counts nanoseconds, as in Go's JSON."""
    if isinstance(plain, str):
        return _parsed_duration(plain)
    return Duration(_integer(plain))


def _size(plain: object, _: Any = None) -> ByteSize:
    """Return a size; a number counts bytes."""
    return _parsed_size(plain if isinstance(plain, str) else str(_integer(plain)))


def _tuple_reader(hint: Any) -> Callable[[Any, Any], tuple[Any, ...]]:
    element = get_args(hint)[0]
    read = _converter.get_structure_hook(element)

    def structure(plain: Any, _: Any) -> tuple[Any, ...]:
        if not isinstance(plain, list | tuple):
            raise _unexpected("a list", plain)
        return tuple(read(item, element) for item in plain)

    return structure


def _mapping_reader(hint: Any) -> Callable[[Any, Any], dict[str, Any]]:
    element = get_args(hint)[1]
    read = None if element is Any else _converter.get_structure_hook(element)

    def structure(plain: Any, _: Any) -> dict[str, Any]:
        if not isinstance(plain, Mapping):
            raise _unexpected("an object", plain)
        if read is None:
            return dict(plain)
        return {name: read(item, element) for name, item in plain.items()}

    return structure


def register(cls: type, write: Callable[[Any], Any], read: Callable[[Any, Any], Any]) -> None:
    """Define how values of *cls* are written and read.

    :param write: converts a value to its JSON value.
    :param read: converts a JSON value, given *cls*; raises ValueError.
    """
    _converter.register_unstructure_hook(cls, write)
    _converter.register_structure_hook(cls, read)


_converter.register_unstructure_hook_func(attrs.has, _unstructure_attrs)
_converter.register_structure_hook_func(attrs.has, _structure_attrs)
for _kind, _read in ((str, _text), (int, _integer), (float, _number), (bool, _flag)):
    _converter.register_structure_hook(_kind, _read)
_converter.register_structure_hook_factory(lambda hint: _origin(hint) is tuple, _tuple_reader)
_converter.register_structure_hook_factory(
    lambda hint: _origin(hint) in (dict, collections.abc.Mapping), _mapping_reader
)
register(datetime, format_time, _structure_time)
_converter.register_structure_hook(datetime | None, _structure_time_or_none)
_parsed_duration = lru_cache(maxsize=1024)(Duration.parse)
_parsed_size = lru_cache(maxsize=4096)(ByteSize.parse)
register(Duration, lru_cache(maxsize=1024)(str), _duration)
register(ByteSize, str, _size)
_converter.register_unstructure_hook_func(
    lambda cls: isinstance(cls, type) and issubclass(cls, enum.Enum), lambda member: member.value
)
_converter.register_unstructure_hook_func(lambda cls: cls is Any, _converter.unstructure)


def register_union(union: Any, read: Callable[[Any], Any]) -> None:
    """Define how a value of *union*, a union of attrs classes, is read.

    The value's content selects the class.

    :param read: returns the value that a JSON object describes; raises ValueError.
    """
    _converter.register_structure_hook(union, lambda plain, _: read(plain))


def to_plain(value: Any) -> Any:
    """Convert *value* to dicts, lists, strings, numbers, booleans and ``None``."""
    return _converter.unstructure(value)


def register_text(cls: type[T], read: Callable[[str], T]) -> None:
    """Let *read* convert strings to values of *cls*, an attrs class."""

    def structure(plain: Any, _: Any) -> T:
        return read(plain) if isinstance(plain, str) else _structure_attrs(plain, cls)

    _converter.register_structure_hook(cls, structure)


def known_part(value: T) -> T:
    """Return *value* without unknown members, at every depth."""
    if isinstance(value, tuple):
        return cast(T, tuple(map(known_part, value)))
    if not isinstance(value, Record):
        return value
    parts = {
        member.argument: known_part(getattr(value, member.attribute))
        for member in _form(type(value)).members
        if member.is_argument
    }
    return cast(T, attrs.evolve(cast(Any, value), **parts, unknown=_NOTHING))


def from_plain(cls: type[T], plain: Any) -> T:
    """Return the *cls* that *plain* describes; see Note [Other versions].

    Raises ValueError: it doesn't describe a value of the class.
    """
    try:
        return _converter.structure(plain, cls)
    except ValueError:
        raise
    except Exception as error:
        # A value of an unexpected type may fail anywhere; the caller should get only one type of
        # error.
        raise ValueError(f"invalid {cls.__name__}: {error}") from error


def encode(value: Any) -> bytes:
    """Encode *value* as compact JSON."""
    return orjson.dumps(to_plain(value))


def decode(cls: type[T], data: bytes) -> T:
    """Decode the result of `encode`.

    Raises ValueError: the text is invalid.
    """
    return from_plain(cls, orjson.loads(data))
