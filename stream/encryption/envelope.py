"""Envelope encryption: each value has its own key, which a cloud's key service wraps.

The text form is ``<provider>::aes::``, followed by these bytes in base64: a version byte, the
length of the wrapped key (2 bytes), the wrapped key, and the value sealed as in
`stream.encryption.aes`. The metadata is bound to the value, and to the wrapped key if the key
service supports that.

The original service uses the same prefixes, but another format for the wrapped key and the value.
That format isn't published, so this service can't decrypt these values; see
`is_of_another_service`.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Protocol

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from stream.encryption.aes import KEY_BYTES, blob_of, bound, opened, packed, seal, unpacked
from stream.encryption.interface import KEY_SERVICES, DecryptionFailed, provider_of

__all__ = ["EnvelopeEncryptor", "KeyService", "is_of_another_service"]

CACHE_SECONDS = 3600.0
CACHED_KEYS = 10_000
_VERSION = 1
_HEAD_BYTES = 3
_MAX_WRAPPED_BYTES = 0xFFFF


class KeyService(Protocol):
    """A key that never leaves its cloud. Its methods run in a pool thread and may block."""

    def wrap(self, key: bytes, metadata: Mapping[str, str]) -> bytes:
        """Encrypt *key*. Raises UserError 503 if the service is unavailable or refuses."""

    def unwrap(self, wrapped: bytes, metadata: Mapping[str, str]) -> bytes:
        """Decrypt a key that was wrapped with the same *metadata*.

        Raises DecryptionFailed: the service reports other metadata or another key. Raises
        UserError: the service is unavailable (503).
        """


class EnvelopeEncryptor:
    """An `Encryptor` with a key service.

    Unwrapped keys are cached for an hour, so that uploads rarely wait for the cloud.

    :param provider: prefix of the text form.
    :param reactor: clock.
    :param pool: thread pool, which the first use starts.
    """

    enabled = True

    def __init__(self, provider: str, service: KeyService, reactor: Any, pool: ThreadPool) -> None:
        self._prefix = f"{provider}::aes::"
        self._service = service
        self._reactor = reactor
        self._pool = pool
        self._keys: OrderedDict[bytes, tuple[float, bytes]] = OrderedDict()

    async def encrypt(self, value: Any, metadata: Mapping[str, str]) -> str:
        """Encrypt a value; see `Encryptor.encrypt`."""
        key = os.urandom(KEY_BYTES)
        wrapped = await deferToThreadPool(
            self._reactor, self._pool, self._service.wrap, key, metadata
        )
        if len(wrapped) > _MAX_WRAPPED_BYTES:
            raise ValueError(f"a wrapped key of {len(wrapped)} bytes")
        head = bytes([_VERSION]) + len(wrapped).to_bytes(2, "big")
        blob = head + wrapped + seal(AESGCM(key), packed(value), metadata)
        self._keep(_name(wrapped, metadata), key)
        return self._prefix + base64.b64encode(blob).decode()

    async def decrypt(self, text: str, metadata: Mapping[str, str]) -> Any:
        """Decrypt a value; see `Encryptor.decrypt`."""
        blob = blob_of(text, self._prefix)
        if not _has_own_form(blob):
            raise DecryptionFailed(
                "another service, or a newer version of this one, has encrypted the value: the "
                "format of the wrapped key is unknown"
            )
        end = _HEAD_BYTES + int.from_bytes(blob[1:_HEAD_BYTES], "big")
        wrapped = blob[_HEAD_BYTES:end]
        key = self._kept(_name(wrapped, metadata))
        if key is None:
            key = await deferToThreadPool(
                self._reactor, self._pool, self._service.unwrap, wrapped, metadata
            )
            if len(key) != KEY_BYTES:
                raise DecryptionFailed("the key of the encrypted value has an unexpected length")
            self._keep(_name(wrapped, metadata), key)
        return unpacked(opened(AESGCM(key), blob[end:], metadata))

    def _kept(self, name: bytes) -> bytes | None:
        until, key = self._keys.get(name, (0.0, b""))
        return key if until > self._reactor.seconds() else None

    def _keep(self, name: bytes, key: bytes) -> None:
        self._keys[name] = (self._reactor.seconds() + CACHE_SECONDS, key)
        self._keys.move_to_end(name)
        if len(self._keys) > CACHED_KEYS:
            self._keys.popitem(last=False)


def is_of_another_service(text: str) -> bool:
    """Return whether a value was encrypted with a key service, but not by Stream.

    No settings make it possible to decrypt such a value.
    """
    provider = provider_of(text)
    if provider not in KEY_SERVICES:
        return False
    try:
        return not _has_own_form(blob_of(text, f"{provider}::aes::"))
    except DecryptionFailed:
        return True


def _has_own_form(blob: bytes) -> bool:
    return len(blob) >= _HEAD_BYTES and blob[0] == _VERSION


def _name(wrapped: bytes, metadata: Mapping[str, str]) -> bytes:
    return hashlib.sha256(bound(metadata) + b"\0" + wrapped).digest()
