"""The format of requests to etcd's JSON gateway.

This is the only module that uses txaioetcd, whose types assemble keys, comparisons and operations.
Subclasses in this module add what the types lack: comparisons of a range, leases by number, sorting
and limits.

Note [Types alone]: for its client and its object maps, txaioetcd imports a database, numpy and
treq. Stream doesn't use them, and their import takes a tenth of the startup time. So the types are
imported without running the initialisation of the package; during the import, an empty package with
the same path replaces it.
"""

from __future__ import annotations

import sys
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import attrs

_PACKAGE = "txaioetcd"


@contextmanager
def _without_initialisation() -> Iterator[None]:
    """Return a context that imports modules of txaioetcd alone; see Note [Types alone]."""
    if _PACKAGE in sys.modules:
        yield
        return
    spec = find_spec(_PACKAGE)
    package = ModuleType(_PACKAGE)
    package.__path__ = [] if spec is None else list(spec.submodule_search_locations or ())
    sys.modules[_PACKAGE] = package
    try:
        yield
    finally:
        del sys.modules[_PACKAGE]


with _without_initialisation():
    from txaioetcd._types import (
        Comp,
        CompCreated,
        CompModified,
        KeySet,
        OpDel,
        OpGet,
        OpSet,
        Transaction,
    )

__all__ = [
    "KeyValue",
    "compare_created",
    "compare_modified",
    "delete_operation",
    "delete_range_operation",
    "encoded",
    "get_operation",
    "key_set",
    "key_value",
    "put_operation",
    "require_key",
    "require_prefix",
    "transaction",
]


@attrs.frozen
class KeyValue:
    """A key with its value and revisions.

    :ivar key: the key without the namespace.
    :ivar lease: id of the lease that the key belongs to; 0 if there is none.
    """

    key: str
    value: bytes = attrs.field(repr=False)
    create_revision: int
    mod_revision: int
    version: int
    lease: int


def key_value(plain: Mapping[str, Any], namespace: str) -> KeyValue:
    """Return a key-value pair of an answer, which omits zero values."""
    return KeyValue(
        key=b64decode(plain["key"]).decode().removeprefix(namespace),
        value=b64decode(plain.get("value", "")),
        create_revision=int(plain.get("create_revision", 0)),
        mod_revision=int(plain.get("mod_revision", 0)),
        version=int(plain.get("version", 0)),
        lease=int(plain.get("lease", 0)),
    )


def require_key(key: str) -> str:
    """Return *key* if it names one key: with a slash at the end, it would name a prefix."""
    if not key or key.endswith("/"):
        raise ValueError(f'"{key}" is not the name of one key')
    return key


def require_prefix(prefix: str) -> str:
    """Return *prefix* if it ends with a slash or is empty, which means the whole namespace."""
    if prefix and not prefix.endswith("/"):
        raise ValueError(f'the prefix "{prefix}" has no slash at the end')
    return prefix


def key_set(key: str) -> KeySet:
    """Return the set of one key, or of all keys below *key* if it is empty or ends with a slash."""
    if not key:
        return KeySet(b"\0", range_end=b"\0")
    return KeySet(key.encode(), prefix=True if key.endswith("/") else None)


class _RangeCompare(CompModified):  # type: ignore[misc]
    """A comparison that must hold for every key of a range."""

    def __init__(self, keys: KeySet, compare: str, mod_revision: int) -> None:
        super().__init__(keys.key, compare, mod_revision)
        self._keys = keys

    def _marshal(self) -> dict[str, Any]:
        return {**super()._marshal(), **self._keys._marshal()}


class _LeasedSet(OpSet):  # type: ignore[misc]
    """A put with a lease that is given by its number."""

    def __init__(self, key: bytes, value: bytes, lease_id: int) -> None:
        super().__init__(key, value)
        self._lease_id = lease_id

    def _marshal(self) -> dict[str, Any]:
        marshalled: dict[str, Any] = super()._marshal()
        if self._lease_id:
            marshalled["request_put"]["lease"] = self._lease_id
        return marshalled


def compare_modified(key: str, operator: str, revision: int) -> Comp:
    """Return a comparison of the last modification of a key, or of all keys below a prefix.

    :param operator: ``==``, ``<`` or ``>``, applied to *revision*. A key that doesn't exist has
        revision 0.
    """
    if not key or key.endswith("/"):
        return _RangeCompare(key_set(key), operator, revision)
    return CompModified(key.encode(), operator, revision)


def compare_created(key: str, operator: str, revision: int) -> Comp:
    """Return a comparison of a key's create revision with *revision*."""
    return CompCreated(key.encode(), operator, revision)


def put_operation(key: str, value: bytes, lease_id: int = 0) -> OpSet:
    """Return the operation of a transaction that writes a key."""
    return _LeasedSet(key.encode(), value, lease_id)


class _LimitedGet(OpGet):  # type: ignore[misc]
    """A read of a range with options that txaioetcd lacks."""

    def __init__(self, keys: KeySet, options: Mapping[str, Any]) -> None:
        super().__init__(keys)
        self._options = options

    def _marshal(self) -> dict[str, Any]:
        marshalled: dict[str, Any] = super()._marshal()
        marshalled["request_range"] |= self._options
        return marshalled


def get_operation(key: str, **options: Any) -> OpGet:
    """Return the operation of a transaction that reads a key, or all keys below a prefix.

    :param options: further members of the request, such as ``limit``.
    """
    return _LimitedGet(key_set(key), options) if options else OpGet(key_set(key))


def delete_operation(key: str) -> OpDel:
    """Return the operation that deletes a key, or all keys below *key* if it ends with a slash."""
    return OpDel(key_set(key))


def delete_range_operation(prefix: str, spared: Sequence[str]) -> list[OpDel]:
    """Return operations that delete all keys below *prefix* except the sorted keys *spared*."""
    whole = key_set(prefix)._marshal()
    start, end = b64decode(whole["key"]), b64decode(whole["range_end"])
    operations = []
    for key in spared:
        operations.append(OpDel(KeySet(start, range_end=key.encode())))
        start = key.encode() + b"\0"
    return [*operations, OpDel(KeySet(start, range_end=end))]


def transaction(
    compare: list[Comp], success: list[Any], failure: list[Any] | None = None
) -> dict[str, Any]:
    """Return the request of a transaction."""
    marshalled: dict[str, Any] = Transaction(compare, success, failure or [])._marshal()
    return marshalled


def encoded(text: str) -> str:
    """Return a key in the encoding of the gateway."""
    return b64encode(text.encode()).decode()
