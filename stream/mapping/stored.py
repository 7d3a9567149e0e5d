"""A mapping as records keep it: by reference.

A sink, its versions, its files and all slices of these have the same mapping, which may be large.
So it is stored once (`stream.definition.mappings`), and the records name it by its hash.

Note [Two forms]: a record has one of two forms of the member ``mapping``. ``{"hash": …}`` is the
reference. ``{"columns": […]}`` is the mapping itself: the form of the original service, and ours
before mappings were stored once. Both are read; only references are written. Whoever writes a
record again stores its mapping in the same transaction.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping as AnyMapping
from typing import Any

import attrs

from stream.mapping.columns import Column, Mapping
from stream.values.codec import Record, encode, from_plain, register

__all__ = ["StoredMapping", "stored_mapping"]


@attrs.frozen
class StoredMapping(Record):
    """A mapping that a record refers to; equal to every other one with the same columns.

    :ivar hash: SHA-256 of the mapping's JSON in hexadecimal digits.
    :ivar content: the mapping; ``None`` if only the reference is known.
    :ivar is_new: whether the mapping isn't known to be stored by its hash.
    """

    hash: str
    content: Mapping | None = attrs.field(default=None, eq=False, repr=False)
    is_new: bool = attrs.field(default=False, eq=False)

    @classmethod
    def of(cls, mapping: Mapping) -> StoredMapping:
        """The reference to *mapping*, which isn't stored yet as far as known."""
        return cls(hashlib.sha256(encode(mapping)).hexdigest(), mapping, is_new=True)

    def resolved(self, content: Mapping) -> StoredMapping:
        """The same reference with the *content* that was read by its hash."""
        return attrs.evolve(self, content=content)

    @property
    def mapping(self) -> Mapping:
        """The content. Raises ValueError if only the reference is known."""
        if self.content is None:
            raise ValueError(f"the mapping {self.hash} was not read")
        return self.content

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns of `mapping`."""
        return self.mapping.columns


def stored_mapping(mapping: Mapping | StoredMapping) -> StoredMapping:
    """The reference to *mapping*, if it isn't one already."""
    return mapping if isinstance(mapping, StoredMapping) else StoredMapping.of(mapping)


def _read(plain: Any, _: type) -> StoredMapping:
    """See Note [Two forms]."""
    if isinstance(plain, AnyMapping) and isinstance(plain.get("hash"), str):
        unknown = {name: member for name, member in plain.items() if name != "hash"}
        return StoredMapping(plain["hash"], unknown=unknown)
    return StoredMapping.of(from_plain(Mapping, plain))


register(StoredMapping, lambda stored: {"hash": stored.hash, **stored.unknown}, _read)
