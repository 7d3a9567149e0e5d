"""The choice of an encryptor."""

from __future__ import annotations

import sys

import attrs
import pytest
from twisted.internet.task import Clock
from twisted.python.threadpool import ThreadPool

from stream.encryption import (
    DecryptionFailed,
    configured_encryptor,
    encryptor_from,
)
from stream.errors import UserError
from stream.settings import EncryptionSettings
from tests.encryption.steps import done


def test_without_encryption() -> None:
    """Without encryption the encrypted text is empty, and encrypted values can't be decrypted."""
    encryptor = encryptor_from("none")
    assert not encryptor.enabled
    assert done(encryptor.encrypt({"token": "x"}, {})) == ""
    with pytest.raises(DecryptionFailed, match="encryption is disabled"):
        done(encryptor.decrypt("aes::AAAA", {}))


@pytest.mark.parametrize("provider", ["gcp", "aws", "azure"])
def test_values_of_another_provider(provider: str) -> None:
    """The error names the required provider."""
    text = f"{provider}::aes::AAAA"
    for encryptor in (encryptor_from("none"), encryptor_from("aes", bytes(32))):
        with pytest.raises(DecryptionFailed, match=f'encryption.provider "{provider}"'):
            done(encryptor.decrypt(text, {}))
    with pytest.raises(DecryptionFailed, match='does not begin with "aes::"'):
        done(encryptor_from("aes", bytes(32)).decrypt("a-secret::AAAA", {}))


def test_a_key_of_32_bytes_encrypts() -> None:
    """With a key of 32 bytes values are encrypted."""
    assert encryptor_from("aes", bytes(32)).enabled


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_key_length(length: int) -> None:
    """A key of another length is refused, and not shown in the error."""
    with pytest.raises(UserError, match=f"must be 32 bytes long, found {length} bytes"):
        encryptor_from("aes", b"k" * length)


@pytest.mark.parametrize(("provider", "library"), [("gcp", "google"), ("azure", "azure")])
def test_missing_library(
    provider: str, library: str, monkeypatch: pytest.MonkeyPatch, pool: ThreadPool
) -> None:
    """A provider whose library is not installed is refused with the name of the extra."""
    for name in ("google.auth", "azure.identity"):
        monkeypatch.setitem(sys.modules, name, None)
    settings = attrs.evolve(EncryptionSettings(), provider=provider)
    with pytest.raises(UserError, match=rf"library {library}: .*stream-service\[{provider}\]"):
        configured_encryptor(settings, Clock(), pool)


def test_unknown_provider() -> None:
    """An unknown provider is refused with the list of the known ones."""
    with pytest.raises(UserError) as caught:
        encryptor_from("rot13")
    assert str(caught.value) == (
        'encryption.provider must be one of [none aes gcp aws azure], found "rot13"'
    )
