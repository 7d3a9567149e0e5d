"""A mapping in stored records: inline if it is small, by reference if it is large.

A sink, its versions, its files and all their slices have the same mapping. A large one is stored
once (`stream.definition.mappings`), and the records refer to it by its hash.

Note [Two forms]: a record has one of two forms of the member ``mapping``. ``{"columns": […]}`` is
the mapping itself. The original service writes this form; Stream writes it for mappings of at most
`INLINE_BYTES`. ``{"hash": …}`` is the reference to a larger mapping. Both forms can be read,
regardless of size. A writer of a record with a reference stores the mapping in the same
transaction, unless it exists.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping as AnyMapping
from functools import lru_cache
from typing import Any

import attrs
import orjson

from stream.mapping.columns import Column, Mapping
from stream.values.codec import Record, encode, from_plain, register, to_plain

__all__ = ["INLINE_BYTES", "StoredMapping", "stored_mapping"]

INLINE_BYTES = 4096
"""Maximum size of an inline mapping as JSON.

Up to a hundred records that contain it are written in one transaction, and etcd accepts 1.5 MiB.
"""

_KNOWN_TEXTS = 512
"""Maximum number of cached parsed mappings. All slices of a sink have the same text."""


@attrs.frozen
class StoredMapping(Record):
    """A mapping in a record, which equals every other mapping with the same columns.

    :ivar hash: SHA-256 of the mapping's JSON in hexadecimal digits.
    :ivar content: the mapping; ``None`` if only the reference is known.
    :ivar is_new: whether the mapping may not be stored under its hash yet.
    :ivar size: size of the mapping's JSON in bytes, 0 if only the reference is known.
    """

    hash: str
    content: Mapping | None = attrs.field(default=None, eq=False, repr=False)
    is_new: bool = attrs.field(default=False, eq=False)
    size: int = attrs.field(default=0, eq=False)

    @classmethod
    def of(cls, mapping: Mapping) -> StoredMapping:
        """Return the reference to *mapping*, which is assumed not to be stored yet."""
        data = encode(mapping)
        return cls(hashlib.sha256(data).hexdigest(), mapping, is_new=True, size=len(data))

    def resolved(self, content: Mapping) -> StoredMapping:
        """Return the same reference with *content*, which was read by its hash."""
        return attrs.evolve(self, content=content, size=len(encode(content)))

    @property
    def is_inline(self) -> bool:
        """Whether records contain the mapping itself; see Note [Two forms]."""
        return 0 < self.size <= INLINE_BYTES

    @property
    def must_be_stored(self) -> bool:
        """Whether a record with the reference must be written together with the mapping."""
        return self.is_new and not self.is_inline

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
    """Return the reference to *mapping*; return *mapping* if it is a reference already."""
    return mapping if isinstance(mapping, StoredMapping) else StoredMapping.of(mapping)


def _read(plain: Any, _: type) -> StoredMapping:
    """Read either form; see Note [Two forms]."""
    if isinstance(plain, AnyMapping) and isinstance(plain.get("hash"), str):
        unknown = {name: member for name, member in plain.items() if name != "hash"}
        return StoredMapping(plain["hash"], unknown=unknown)
    return _inline(orjson.dumps(plain))


@lru_cache(maxsize=_KNOWN_TEXTS)
def _inline(text: bytes) -> StoredMapping:
    return StoredMapping.of(from_plain(Mapping, orjson.loads(text)))


def _write(stored: StoredMapping) -> dict[str, Any]:
    """Write the form that suits the size; see Note [Two forms]."""
    if stored.is_inline:
        plain: dict[str, Any] = to_plain(stored.mapping)
        return plain
    return {"hash": stored.hash, **stored.unknown}


register(StoredMapping, _write, _read)
