"""The protocol between source nodes and writers: AMP over one TCP connection for each pair.

```
source                                writer
  -> Challenge ()                     <- nonce
  -> Hello (version, node, life, …)   <- version, epoch, proof   nothing else is accepted before
  -> Open (slice, node, life, resume) <- handle, length
  -> Append (handle, offset, …)       <- end                     once the wanted level is reached
  -> Close (handle)                   <-
  -> Ping ()                          <-
  -> Enquire (attempts of requests)   <- what is stored of each
                                      -> Draining ()             please flush and leave
                                      -> Lost (handle, reason)   the file can no longer be used
```

``Open`` names the slice; the writer reads the path and the compression of its file from etcd. The
life must be the one that holds the node's name in etcd (`stream.etcd.claims`).

A handle is random and bound to its connection. ``Append`` contains the offset and the CRC-32 of its
data, so that an append that is repeated after a lost connection is recognized and a corrupted one
is refused. Each end proves that it knows the shared secret with an HMAC over both nonces and the
node's name and life; if no secret is configured, the proofs are empty.
"""

from __future__ import annotations

import hmac
import json
import struct
from collections.abc import Sequence
from typing import Any

from isal import isal_zlib
from twisted.protocols import amp

from stream.definition.key import SinkKey
from stream.storage.model.marks import ATTEMPT_BYTES, KEY_BYTES, SOURCE_BYTES
from stream.storage.network.interface import (
    UNKNOWN_OWNER,
    ContentConflict,
    Enquiry,
    Fenced,
    NoSpace,
    SliceSealed,
    SourceLife,
    StoredRows,
    Superseded,
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
    "Enquire",
    "Hello",
    "Lost",
    "Open",
    "Ping",
    "Unauthorized",
    "checksum",
    "decode_stored",
    "encode_enquiries",
    "encode_owners",
    "encode_stored",
    "enquiries_of",
    "from_wire",
    "source_proof",
    "to_wire",
    "writer_proof",
]

PROTOCOL_VERSION = 3

_OWNER = struct.Struct(f"<q{SOURCE_BYTES}s")

_PART_BYTES = 65_000
_MAX_PARTS = 64
MAX_APPEND_BYTES = _PART_BYTES * _MAX_PARTS
"""Maximum size of an append. The largest group, one incompressible row of the maximum size, is
smaller.
"""


class BigBytes(amp.Argument):
    """Bytes split over numbered keys, since an AMP value is at most 65,535 bytes long."""

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
        if self.optional and name not in strings:
            objects[amp._wireNameToPythonIdentifier(name)] = b""
            return
        count = int(strings[name])
        if not 1 <= count <= _MAX_PARTS:
            raise ValueError("a value has too many parts")
        objects[amp._wireNameToPythonIdentifier(name)] = b"".join(
            strings[b"%s.%d" % (name, index)] for index in range(count)
        )


class Unauthorized(Exception):
    """The other end has a different version, a different secret, or hasn't sent its greeting."""


class NoSpaceOnWire(Exception):
    """`NoSpace` on the wire: the volume has no space left."""


class SealedOnWire(Exception):
    """`SliceSealed` on the wire: the slice may no longer be written."""


class DrainingOnWire(Exception):
    """`WriterDraining` on the wire: the writer is about to stop."""


class UnavailableOnWire(Exception):
    """`WriterUnavailable` on the wire."""


class ConflictOnWire(Exception):
    """`ContentConflict` on the wire: other bytes are stored at the position."""


class FencedOnWire(Exception):
    """`Fenced` on the wire: a later life of the node has taken over."""


class SupersededOnWire(Exception):
    """`Superseded` on the wire: another attempt of a request may have been made."""


class WrongOffsetOnWire(Exception):
    """`WrongOffset` on the wire; its message is the length of the file."""


_ERRORS = {
    NoSpaceOnWire: b"NO_SPACE",
    SealedOnWire: b"SEALED",
    DrainingOnWire: b"DRAINING",
    UnavailableOnWire: b"UNAVAILABLE",
    WrongOffsetOnWire: b"WRONG_OFFSET",
    ConflictOnWire: b"CONFLICT",
    FencedOnWire: b"FENCED",
    SupersededOnWire: b"SUPERSEDED",
    Unauthorized: b"UNAUTHORIZED",
}

_KINDS: dict[type[WriterError], type[Exception]] = {
    NoSpace: NoSpaceOnWire,
    SliceSealed: SealedOnWire,
    WriterDraining: DrainingOnWire,
    WriterUnavailable: UnavailableOnWire,
    ContentConflict: ConflictOnWire,
    Fenced: FencedOnWire,
    Superseded: SupersededOnWire,
}


_KEYS = "; keys: "
"""Separates the message of `Superseded` from the keys; source nodes of earlier versions show both.
"""


def to_wire(error: WriterError) -> Exception:
    """Return the AMP error for *error*."""
    if isinstance(error, WrongOffset):
        return WrongOffsetOnWire(str(error.length))
    if isinstance(error, Superseded) and error.keys:
        keys = " ".join(sorted(key.hex() for key in error.keys))
        return SupersededOnWire(f"{error}{_KEYS}{keys}")
    return _KINDS.get(type(error), UnavailableOnWire)(str(error))


def from_wire(error: BaseException) -> WriterError:
    """Return the pipeline's error for a failed call; an unknown error is a lost connection."""
    if isinstance(error, WrongOffsetOnWire):
        return WrongOffset(int(str(error)))
    if isinstance(error, SupersededOnWire):
        text, _, keys = str(error).partition(_KEYS)
        return Superseded(text, frozenset(bytes.fromhex(key) for key in keys.split()))
    for kind, on_wire in _KINDS.items():
        if isinstance(error, on_wire):
            return kind(str(error))
    return WriterUnavailable(str(error) or type(error).__name__)


def encode_enquiries(enquiries: Sequence[Enquiry]) -> bytes:
    """Return *enquiries* as consecutive fixed-size entries."""
    return b"".join(each.key + each.attempt for each in enquiries)


def encode_owners(enquiries: Sequence[Enquiry]) -> bytes:
    """Return the owners of *enquiries* as consecutive fixed-size entries."""
    return b"".join(_OWNER.pack(*each.owner) for each in enquiries)


def enquiries_of(data: bytes, owners: bytes = b"") -> list[Enquiry]:
    """Decode the results of `encode_enquiries` and `encode_owners`."""
    size = KEY_BYTES + ATTEMPT_BYTES
    parts = [data[start : start + size] for start in range(0, len(data), size)]
    known = [*_OWNER.iter_unpack(owners)] if owners else [UNKNOWN_OWNER] * len(parts)
    return [
        Enquiry(part[:KEY_BYTES], part[KEY_BYTES:], (project_id, source))
        for part, (project_id, source) in zip(parts, known, strict=True)
    ]


def encode_stored(stored: Sequence[Sequence[StoredRows]]) -> bytes:
    """Return the answer to enquiries, in the order of the enquiries."""
    plain = [[[str(rows.sink), rows.content.hex()] for rows in each] for each in stored]
    return json.dumps(plain, separators=(",", ":")).encode()


def decode_stored(data: bytes) -> list[list[StoredRows]]:
    """Decode the result of `encode_stored`. Raises ValueError if it is invalid."""
    return [
        [StoredRows(SinkKey.parse(sink), bytes.fromhex(content)) for sink, content in each]
        for each in json.loads(data)
    ]


def checksum(data: bytes) -> int:
    """Return the CRC-32 of *data*, several times faster than `zlib`."""
    crc: int = isal_zlib.crc32(data)
    return crc


def source_proof(secret: str, challenge: bytes, nonce: bytes, source: SourceLife) -> bytes:
    """Return the node's proof that it knows the secret.

    :param challenge: the writer's nonce.
    :param nonce: the node's own.
    """
    return _proof(b"source", secret, challenge, nonce, source)


def writer_proof(secret: str, challenge: bytes, nonce: bytes, source: SourceLife) -> bytes:
    """Return the writer's proof, so that no other process at its address receives rows."""
    return _proof(b"writer", secret, challenge, nonce, source)


def _proof(end: bytes, secret: str, challenge: bytes, nonce: bytes, source: SourceLife) -> bytes:
    """Return a proof that includes its sender's side, so that neither can replay the other's."""
    if not secret:
        return b""
    parts = (end, challenge, nonce, source.node_id.encode(), b"%d" % source.number)
    message = b"".join(b"%d:%s," % (len(part), part) for part in parts)
    return hmac.digest(secret.encode(), message, "sha256")


class Challenge(amp.Command):
    """Requests the writer's nonce, which the greeting's proof must include."""

    arguments = []
    response = [(b"nonce", amp.String())]


class Hello(amp.Command):
    """The greeting of a source node: its name, its life, and its proof that it knows the secret."""

    arguments = [
        (b"version", amp.Integer()),
        (b"node", amp.Unicode()),
        (b"life", amp.Integer()),
        (b"nonce", amp.String()),
        (b"proof", amp.String()),
    ]
    response = [
        (b"version", amp.Integer()),
        (b"epoch", amp.String()),
        (b"proof", amp.String()),
    ]
    errors = _ERRORS


class Open(amp.Command):
    """Opens the file of a slice."""

    arguments = [
        (b"slice", amp.Unicode()),
        (b"node", amp.Unicode()),
        (b"life", amp.Integer()),
        (b"resume", amp.Integer()),
    ]
    response = [(b"handle", amp.String()), (b"length", amp.Integer())]
    errors = _ERRORS


class Append(amp.Command):
    """Appends bytes to an open file."""

    arguments = [
        (b"handle", amp.String()),
        (b"offset", amp.Integer()),
        (b"level", amp.Integer()),
        (b"crc", amp.Integer()),
        (b"data", BigBytes()),
    ]
    response = [(b"end", amp.Integer())]
    errors = _ERRORS


class Enquire(amp.Command):
    """Asks which rows of requests with idempotency keys are stored.

    See `stream.storage.writer.requests`.

    The answer is a JSON list with one entry for each enquiry: a list of sinks and content digests.
    """

    # Writers of earlier versions ignore the owners; source nodes of earlier versions don't send
    # them.
    arguments = [(b"enquiries", BigBytes()), (b"owners", BigBytes(optional=True))]
    response = [(b"stored", BigBytes())]
    errors = _ERRORS


class Close(amp.Command):
    """Closes an open file."""

    arguments = [(b"handle", amp.String())]
    response = []
    errors = _ERRORS


class Ping(amp.Command):
    """Signals that the source node is alive."""

    arguments = []
    response = []


class Draining(amp.Command):
    """Notifies source nodes that the writer is about to stop, so that they leave it."""

    arguments = []
    response = []


class Lost(amp.Command):
    """Notifies a source node that an open file is lost, so that it opens the file again."""

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
    Fenced: b"FENCED",
}


def kind_name(error: WriterError) -> bytes:
    """Return the name of an error's kind in `Lost`."""
    return _KIND_NAMES.get(type(error), b"UNAVAILABLE")


def error_of(kind: bytes, reason: str) -> WriterError:
    """Return the error that `Lost` describes."""
    kinds = {name: cls for cls, name in _KIND_NAMES.items()}
    return kinds.get(kind, WriterUnavailable)(reason)
