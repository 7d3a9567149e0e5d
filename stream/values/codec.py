"""attrs values ↔ JSON, in the form stored records and API answers have.

Field names become lowerCamelCase; members follow the order of the attributes; ``None`` is left out.
An attribute can ask for more through `field`: another name, being left out when empty, or being
flattened into its parent (keys of entities are).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, TypeVar, cast, get_type_hints

import attrs
import cattrs
import orjson

from stream.values.bytesize import ByteSize
from stream.values.duration import Duration
from stream.values.utctime import format_time, parse_time

__all__ = ["decode", "encode", "field", "from_plain", "register", "register_union", "to_plain"]

T = TypeVar("T")
_OPTIONS = "stream.codec"


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

    :param name: the member's name, if it isn't the attribute's name in lowerCamelCase.
    :param omit_empty: leave the member out when its value is false, zero or empty.
    :param keep_none: write ``None`` as ``null`` (by default the member is left out).
    :param empty_text: write ``None`` as ``""`` (the zero time).
    :param flatten: put the members of this value (an attrs class) into the parent's object.
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
    attribute: str
    name: str
    type: Any
    required: bool
    omit_empty: bool
    keep_none: bool
    empty_text: bool
    flatten: bool


_known: dict[type, tuple[_Member, ...]] = {}


def _camel(name: str) -> str:
    head, *rest = name.strip("_").split("_")
    return head + "".join(part.capitalize() for part in rest)


def _members(cls: type) -> tuple[_Member, ...]:
    if cls in _known:
        return _known[cls]
    hints = get_type_hints(cls)
    members = []
    for attribute in attrs.fields(cast(Any, cls)):
        options = attribute.metadata.get(_OPTIONS, {})
        members.append(
            _Member(
                attribute=attribute.name,
                name=options.get("name") or _camel(attribute.name),
                type=hints[attribute.name],
                required=attribute.default is attrs.NOTHING,
                omit_empty=options.get("omit_empty", False),
                keep_none=options.get("keep_none", False),
                empty_text=options.get("empty_text", False),
                flatten=options.get("flatten", False),
            )
        )
    _known[cls] = tuple(members)
    return _known[cls]


_converter = cattrs.Converter(forbid_extra_keys=False)


def _is_empty(value: object) -> bool:
    return value is None or value is False or (not isinstance(value, bool) and not value)


def _unstructure_attrs(value: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for member in _members(type(value)):
        item = getattr(value, member.attribute)
        if member.flatten:
            if item is not None:
                plain.update(_unstructure_attrs(item))
            continue
        if item is None and member.empty_text:
            plain[member.name] = ""
            continue
        if item is None and not member.keep_none:
            continue
        if member.omit_empty and _is_empty(item):
            continue
        plain[member.name] = _converter.unstructure(item)
    return plain


def _structure_attrs(plain: Any, cls: type[T]) -> T:
    if not isinstance(plain, Mapping):
        raise ValueError(f"expected an object for {cls.__name__}, found {type(plain).__name__}")
    arguments: dict[str, Any] = {}
    for member in _members(cls):
        argument = member.attribute.lstrip("_")
        if member.flatten:
            arguments[argument] = _converter.structure(plain, member.type)
        elif member.name in plain:
            item = plain[member.name]
            arguments[argument] = None if item is None else _converter.structure(item, member.type)
        elif member.required:
            raise ValueError(f'"{member.name}" is missing in {cls.__name__}')
    return cls(**arguments)


def _structure_time(text: Any, _: type) -> datetime | None:
    return parse_time(text) if text else None


def register(cls: type, write: Callable[[Any], Any], read: Callable[[Any, Any], Any]) -> None:
    """Define how values of *cls* are written and read.

    :param write: from a value to what stands for it in JSON.
    :param read: from what stands for it, and *cls*, to the value; raises ValueError.
    """
    _converter.register_unstructure_hook(cls, write)
    _converter.register_structure_hook(cls, read)


_converter.register_unstructure_hook_func(attrs.has, _unstructure_attrs)
_converter.register_structure_hook_func(attrs.has, _structure_attrs)
register(datetime, format_time, _structure_time)
register(Duration, str, lambda text, _: Duration.parse(text))
register(ByteSize, str, lambda text, _: ByteSize.parse(text))
_converter.register_unstructure_hook_func(
    lambda cls: isinstance(cls, type) and issubclass(cls, enum.Enum), lambda member: member.value
)
_converter.register_unstructure_hook_func(lambda cls: cls is Any, _converter.unstructure)


def register_union(union: Any, read: Callable[[Any], Any]) -> None:
    """Define how to read a member of *union* (attrs classes), which only its content distinguishes.

    :param read: the value that a plain object describes; raises ValueError.
    """
    _converter.register_structure_hook(union, lambda plain, _: read(plain))


def to_plain(value: Any) -> Any:
    """*value* as dicts, lists, strings, numbers, booleans and ``None``."""
    return _converter.unstructure(value)


def from_plain(cls: type[T], plain: Any) -> T:
    """The *cls* that *plain* describes; unknown members are ignored. Raises ValueError."""
    try:
        return _converter.structure(plain, cls)
    except (cattrs.BaseValidationError, TypeError, KeyError) as error:
        raise ValueError(f"invalid {cls.__name__}: {error}") from error


def encode(value: Any) -> bytes:
    """*value* as compact JSON."""
    return orjson.dumps(to_plain(value))


def decode(cls: type[T], data: bytes) -> T:
    """Read what `encode` wrote. Raises ValueError."""
    return from_plain(cls, orjson.loads(data))
