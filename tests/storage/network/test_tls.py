"""Certificates between source nodes and writers."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from stream.errors import UserError
from stream.settings.local import WriterTlsSettings
from stream.storage.network.tls import credentials
from tests.storage.network.authority import Authority


def test_tls_is_off_without_files() -> None:
    """TLS is off by default."""
    assert credentials(WriterTlsSettings()) is None


@pytest.mark.parametrize("name", ["certificate", "key", "ca"])
def test_all_files_are_required(tmp_path: Path, name: str) -> None:
    """An incomplete configuration is an error, not a weaker one."""
    settings = attrs.evolve(Authority(tmp_path).issue("node"), **{name: ""})
    with pytest.raises(UserError, match=rf'network\.tls\.{name}" is not set'):
        credentials(settings)


@pytest.mark.parametrize("name", ["certificate", "key", "ca"])
def test_errors_name_the_file(tmp_path: Path, name: str) -> None:
    """The error names the setting and the file, whether it is missing or invalid."""
    settings = Authority(tmp_path).issue("node")
    missing = attrs.evolve(settings, **{name: str(tmp_path / "missing")})
    with pytest.raises(UserError, match=rf'tls\.{name}": cannot read ".*missing"'):
        credentials(missing)
    other = tmp_path / "other"
    other.write_text("-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n")
    with pytest.raises(UserError, match=rf'tls\.{name}": ".*other" contains no (unencrypted )?PEM'):
        credentials(attrs.evolve(settings, **{name: str(other)}))


def test_a_key_of_another_certificate_is_found_at_start(tmp_path: Path) -> None:
    """The mismatch is found before a node connects."""
    authority = Authority(tmp_path)
    one, other = authority.issue("one"), authority.issue("other")
    with pytest.raises(UserError, match="does not match"):
        credentials(attrs.evolve(one, key=other.key))
