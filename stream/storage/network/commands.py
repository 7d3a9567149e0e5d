"""The protocol between source nodes and writers: AMP over one TCP connection for each pair.

```
source                                writer
  -> Challenge ()                     <- nonce
  -> Hello (version, node, proof)     <- version, epoch          nothing else is accepted before
  -> Open (slice, node, resume)       <- handle, length
  -> Append (handle, offset, …)       <- end                     once the wanted level is reached
  -> Close (handle)                   <-
  -> Ping ()                          <-
                                      -> Draining ()             please flush and leave
                                      -> Lost (handle, reason)   the file can't be used any more
```

A handle is random and bound to its connection. An append tells where it goes, so one that is
repeated after a broken connection is recognised. The proof is an HMAC over the nonce and the node's
name with the shared secret, empty if none is configured.
"""

from __future__ import annotations

import hmac
from typing import Any

from twisted.protocols import amp

from stream.storage.network.interface import (
    NoSpace,
    SliceSealed,
    WriterDraining,
    WriterError,
    WriterUnavailable,
    WrongOffset,
)

__all__ = [
    "MAX_APPEND_BYTES",
    "PROTOCOL_VERSION",
    "Append",
    "Challenge",
    "Close",
    "Draining",
    "Hello",
    "Lost",
    "Open",
    "Ping",
    "Unauthorized",
    "from_wire",
    "proof",
    "to_wire",
]

PROTOCOL_VERSION = 1

_PART_BYTES = 65_000
_MAX_PARTS = 64
MAX_APPEND_BYTES = _PART_BYTES * _MAX_PARTS
"""More than the largest group: one row of the largest size, incompressible."""


class BigBytes(amp.Argument):
    """Bytes spread over numbered keys, since one value of AMP has at most 65,535 bytes."""

    def toBox(self, name: bytes, strings: Any, objects: Any, proto: Any) -> None:
        value: bytes = objects[amp._wireNameToPythonIdentifier(name)]
        count = max(1, -(-len(value) // _PART_BYTES))
        if count > _MAX_PARTS:
            raise amp.TooLong(False, True, value, name.decode())
        strings[name] = b"%d" % count
        for index in range(count):
            start = index * _PART_BYTES
            strings[b"%s.%d" % (name, index)] = value[start : start + _PART_BYTES]

    def fromBox(self, name: bytes, strings: Any, objects: Any, proto: Any) -> None:
        count = int(strings[name])
        if not 1 <= count <= _MAX_PARTS:
            raise ValueError("a value has too many parts")
        objects[amp._wireNameToPythonIdentifier(name)] = b"".join(
            strings[b"%s.%d" % (name, index)] for index in range(count)
        )


class Unauthorized(Exception):
    """Another version, another secret, or no greeting at all."""


class NoSpaceOnWire(Exception):
    pass


class SealedOnWire(Exception):
    pass


class DrainingOnWire(Exception):
    pass


class UnavailableOnWire(Exception):
    pass


class WrongOffsetOnWire(Exception):
    """Its text is the length of the file."""


_ERRORS = {
    NoSpaceOnWire: b"NO_SPACE",
    SealedOnWire: b"SEALED",
    DrainingOnWire: b"DRAINING",
    UnavailableOnWire: b"UNAVAILABLE",
    WrongOffsetOnWire: b"WRONG_OFFSET",
    Unauthorized: b"UNAUTHORIZED",
}

_KINDS: dict[type[WriterError], type[Exception]] = {
    NoSpace: NoSpaceOnWire,
    SliceSealed: SealedOnWire,
    WriterDraining: DrainingOnWire,
    WriterUnavailable: UnavailableOnWire,
}


def to_wire(error: WriterError) -> Exception:
    """The error that AMP carries for *error*."""
    if isinstance(error, WrongOffset):
        return WrongOffsetOnWire(str(error.length))
    return _KINDS.get(type(error), UnavailableOnWire)(str(error))


def from_wire(error: BaseException) -> WriterError:
    """What a failed call means to a pipeline; anything unknown is a lost connection."""
    if isinstance(error, WrongOffsetOnWire):
        return WrongOffset(int(str(error)))
    for kind, on_wire in _KINDS.items():
        if isinstance(error, on_wire):
            return kind(str(error))
    return WriterUnavailable(str(error) or type(error).__name__)


def proof(secret: str, nonce: bytes, node_id: str) -> bytes:
    """What a node shows to prove that it knows the secret."""
    if not secret:
        return b""
    return hmac.digest(secret.encode(), nonce + node_id.encode(), "sha256")


class Challenge(amp.Command):
    arguments = []
    response = [(b"nonce", amp.String())]


class Hello(amp.Command):
    arguments = [
        (b"version", amp.Integer()),
        (b"node", amp.Unicode()),
        (b"proof", amp.String()),
    ]
    response = [(b"version", amp.Integer()), (b"epoch", amp.String())]
    errors = _ERRORS


class Open(amp.Command):
    arguments = [
        (b"slice", BigBytes()),
        (b"node", amp.Unicode()),
        (b"resume", amp.Integer()),
    ]
    response = [(b"handle", amp.String()), (b"length", amp.Integer())]
    errors = _ERRORS


class Append(amp.Command):
    arguments = [
        (b"handle", amp.String()),
        (b"offset", amp.Integer()),
        (b"level", amp.Integer()),
        (b"crc", amp.Integer()),
        (b"data", BigBytes()),
    ]
    response = [(b"end", amp.Integer())]
    errors = _ERRORS


class Close(amp.Command):
    arguments = [(b"handle", amp.String())]
    response = []
    errors = _ERRORS


class Ping(amp.Command):
    arguments = []
    response = []


class Draining(amp.Command):
    arguments = []
    response = []


class Lost(amp.Command):
    arguments = [
        (b"handle", amp.String()),
        (b"kind", amp.String()),
        (b"reason", amp.Unicode()),
    ]
    response = []


_KIND_NAMES = {
    NoSpace: b"NO_SPACE",
    SliceSealed: b"SEALED",
    WriterDraining: b"DRAINING",
    WriterUnavailable: b"UNAVAILABLE",
}


def kind_name(error: WriterError) -> bytes:
    """How `Lost` names the kind of an error."""
    return _KIND_NAMES.get(type(error), b"UNAVAILABLE")


def error_of(kind: bytes, reason: str) -> WriterError:
    """The error that `Lost` describes."""
    kinds = {name: cls for cls, name in _KIND_NAMES.items()}
    return kinds.get(kind, WriterUnavailable)(reason)
