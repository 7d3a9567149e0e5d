"""Permissions of the files of a running service."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from tests.conftest import free_port
from tests.e2e.processes import ALL, Deployment, wait_for


def _keys(folder: Path) -> tuple[Path, Path]:
    """Create the console's host key and the file of authorized keys."""
    folder.mkdir()
    key = Ed25519PrivateKey.generate()
    host, authorized = folder / "host", folder / "authorized"
    host.touch(0o600)
    host.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    authorized.touch(0o600)
    authorized.write_bytes(public)
    return host, authorized


def _open_to_others(root: Path) -> Iterator[str]:
    for path in root.rglob("*"):
        try:
            mode = path.lstat().st_mode
        except FileNotFoundError:
            continue  # the service keeps running
        if not stat.S_ISLNK(mode) and mode & 0o077:
            yield f"{stat.filemode(mode)} {path.relative_to(root)}"


def test_files_are_private(deployed: Deployment, tmp_path: Path) -> None:
    """Only the owner can read volumes, sandbox, etcd, rejected records, staging, logs and sockets.

    This doesn't depend on the umask of the service.
    """
    for path in (tmp_path, tmp_path / "volumes", tmp_path / "volumes" / "default"):
        path.chmod(0o700)
    (tmp_path / "volumes" / "default" / "one").chmod(0o700)
    host, authorized = _keys(tmp_path / "keys")
    (tmp_path / "keys").chmod(0o700)
    before = os.umask(0)
    try:
        running = deployed.spawn(
            *ALL,
            STREAM_LOG_FILE=str(tmp_path / "stream.log"),
            STREAM_SOURCE_QUARANTINE_PATH=str(tmp_path / "rejected"),
            STREAM_MANHOLE_ENABLED="true",
            STREAM_MANHOLE_LISTEN=f"127.0.0.1:{free_port()}",
            STREAM_MANHOLE_HOST_KEY=str(host),
            STREAM_MANHOLE_AUTHORIZED_KEYS=str(authorized),
        )
    finally:
        os.umask(before)
    running.log.chmod(0o600)  # created with the permissions of the shell
    log = tmp_path / "stream.log"
    wait_for(lambda: log.exists() and b"ready to serve" in log.read_bytes(), "readiness")
    url = deployed.define()
    wait_for(lambda: deployed.push(url, {"id": "a"})[0] == 200, "an acknowledged record")
    deployed.wait_ids({"a"})
    found = list(_open_to_others(tmp_path))
    assert found == []
    for part in ("etcd/member", "sandbox", "volumes/default/one/volume-id"):
        assert (tmp_path / part).exists(), part
    assert running.stop() == 0
