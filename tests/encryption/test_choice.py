"""The choice of an encryptor."""

from __future__ import annotations

import pytest
from zope.interface.verify import verifyObject

from stream.encryption import DecryptionFailed, IEncryptor, encryptor_from
from stream.errors import UserError


def test_none() -> None:
    """Without encryption the encrypted text stays empty, and encrypted values aren't readable."""
    encryptor = encryptor_from("none")
    verifyObject(IEncryptor, encryptor)
    assert not encryptor.enabled
    assert encryptor.encrypt({"token": "x"}, {}) == ""
    with pytest.raises(DecryptionFailed, match="encryption is off"):
        encryptor.decrypt("aes::AAAA", {})


def test_aes() -> None:
    """With a key of 32 bytes values are encrypted."""
    assert encryptor_from("aes", bytes(32)).enabled


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_key_length(length: int) -> None:
    """A key of another length is refused, and not shown."""
    with pytest.raises(UserError, match=f"must be 32 bytes long, found {length} bytes"):
        encryptor_from("aes", b"k" * length)


@pytest.mark.parametrize("provider", ["gcp", "aws", "azure"])
def test_cloud_providers(provider: str) -> None:
    """A provider this build lacks is refused clearly."""
    with pytest.raises(UserError, match=f'"{provider}" is not available in this build'):
        encryptor_from(provider)


def test_unknown_provider() -> None:
    """An unknown provider is refused with the list of the known ones."""
    with pytest.raises(UserError) as caught:
        encryptor_from("rot13")
    assert str(caught.value) == (
        'encryption.provider must be one of [none aes gcp aws azure], found "rot13"'
    )
