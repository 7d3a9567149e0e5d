"""Mutual TLS between source nodes and writers, with certificates from one certificate authority."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from OpenSSL import crypto
from twisted.internet.ssl import (
    Certificate,
    CertificateOptions,
    KeyPair,
    PrivateCertificate,
    TLSVersion,
    optionsForClientTLS,
    trustRootFromCertificates,
)

from stream.errors import UserError
from stream.settings.local import WriterTlsSettings

__all__ = ["Credentials", "credentials"]

_SECTION = "storage.level.local.writer.network.tls"
_OLDEST = TLSVersion.TLSv1_2


class Credentials:
    """The TLS credentials of this node, read from files.

    :param chain: the node's certificate, followed by intermediate certificates.
    """

    def __init__(self, chain: list[Certificate], key: KeyPair, ca: list[Certificate]) -> None:
        self._chain = chain
        self._key = key
        self._ca = ca

    def server(self) -> CertificateOptions:
        """Return the writer's TLS options, which require a certificate from the authority."""
        first, *rest = (certificate.original for certificate in self._chain)
        return CertificateOptions(
            privateKey=self._key.original,
            certificate=first,
            extraCertChain=rest,
            trustRoot=trustRootFromCertificates(self._ca),
            raiseMinimumTo=_OLDEST,
        )

    def client(self, host: str) -> Any:
        """Return a source node's TLS options, which require a writer's certificate for *host*."""
        return optionsForClientTLS(
            host,
            trustRoot=trustRootFromCertificates(self._ca),
            clientCertificate=PrivateCertificate.fromCertificateAndKeyPair(
                self._chain[0], self._key
            ),
            extraCertificateOptions={
                "extraCertChain": [certificate.original for certificate in self._chain[1:]],
                "raiseMinimumTo": _OLDEST,
            },
        )


def credentials(settings: WriterTlsSettings) -> Credentials | None:
    """Return the credentials in the configured files; ``None`` if none are configured. Blocks.

    Raises UserError: a file is missing or unreadable, or the files don't match.
    """
    paths = {"certificate": settings.certificate, "key": settings.key, "ca": settings.ca}
    if not any(paths.values()):
        return None
    missing = [name for name, path in paths.items() if not path]
    if missing:
        raise UserError(f'"{_SECTION}.{missing[0]}" is not set: TLS needs certificate, key and ca')
    chain = _certificates("certificate", settings.certificate)
    key = _key(settings.key)
    found = Credentials(chain, key, _certificates("ca", settings.ca))
    try:
        found.server().getContext().check_privatekey()
    except Exception:
        raise UserError(f'"{_SECTION}.key" does not match the certificate') from None
    return found


def _read(name: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f'"{_SECTION}.{name}": cannot read "{path}": {error.strerror}') from None


def _certificates(name: str, path: str) -> list[Certificate]:
    end = b"-----END CERTIFICATE-----"
    pieces = [piece + end for piece in _read(name, path).split(end)[:-1]]
    try:
        found = [Certificate.loadPEM(piece) for piece in pieces]
    except crypto.Error:
        found = []
    if not found:
        raise UserError(f'"{_SECTION}.{name}": "{path}" contains no PEM certificate')
    return found


def _key(path: str) -> KeyPair:
    data = _read("key", path)
    try:
        # Without a password callback, OpenSSL would prompt for one on the terminal.
        return KeyPair(crypto.load_privatekey(crypto.FILETYPE_PEM, data, b""))
    except (crypto.Error, ValueError, TypeError):
        raise UserError(f'"{_SECTION}.key": "{path}" contains no unencrypted PEM key') from None
