"""The real API server of Kubernetes. Without controllers it only validates and stores objects."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import attrs

from stream.etcd.embedded import etcd_binary
from tests.conftest import free_port
from tests.docs.blocks import ROOT
from tests.e2e.processes import wait_for

__all__ = ["KUBECTL", "SERVER", "Cluster", "cluster"]

SERVER = ROOT / "target" / "kube-apiserver"
KUBECTL = shutil.which("kubectl")
_CONFIG = """\
apiVersion: v1
kind: Config
current-context: stream
contexts: [{{name: stream, context: {{cluster: stream, user: stream}}}}]
clusters:
  - {{name: stream, cluster: {{server: "https://{address}", certificate-authority: {authority}}}}}
users: [{{name: stream, user: {{token: {token}}}}}]
"""


@attrs.frozen
class Cluster:
    """An API server.

    :ivar config: path for ``KUBECONFIG``.
    """

    config: Path

    def kubectl(self, *words: str, given: str = "") -> subprocess.CompletedProcess[str]:
        """Call kubectl and return its result, whose exit code the caller checks."""
        assert KUBECTL is not None
        return subprocess.run(
            [KUBECTL, *words],
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.config.parent),  # kubectl's cache is there
                "KUBECONFIG": str(self.config),
            },
            input=given,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """Run an API server on loopback with its own etcd until the block ends."""
    etcd, port, token = f"127.0.0.1:{free_port()}", free_port(), secrets.token_hex()
    (folder / "tokens.csv").write_text(f'{token},admin,1,"system:masters"\n')
    (folder / "tokens.csv").chmod(0o600)
    subprocess.run(
        ["openssl", "genrsa", "-out", str(folder / "key")], check=True, capture_output=True
    )
    config = folder / "kubeconfig"
    authority = folder / "certificates" / "apiserver.crt"
    config.write_text(_CONFIG.format(address=f"127.0.0.1:{port}", authority=authority, token=token))
    commands = {
        "etcd": [
            *(etcd_binary(), f"--data-dir={folder / 'etcd'}", "--unsafe-no-fsync"),
            *(f"--listen-client-urls=http://{etcd}", f"--advertise-client-urls=http://{etcd}"),
            f"--listen-peer-urls=http://127.0.0.1:{free_port()}",
        ],
        "server": [
            *(str(SERVER), f"--etcd-servers=http://{etcd}", f"--cert-dir={authority.parent}"),
            *("--bind-address=127.0.0.1", f"--secure-port={port}"),
            *("--authorization-mode=RBAC", f"--token-auth-file={folder / 'tokens.csv'}"),
            *("--service-cluster-ip-range=10.96.0.0/16", "--service-account-issuer=https://stream"),
            f"--service-account-key-file={folder / 'key'}",
            f"--service-account-signing-key-file={folder / 'key'}",
            # Accounts are created by a controller, which is missing here.
            "--disable-admission-plugins=ServiceAccount",
        ],
    }
    started = []
    try:
        for name, command in commands.items():
            with (folder / f"{name}.log").open("wb") as log:
                started.append(subprocess.Popen(command, stdout=log, stderr=log))
        made = Cluster(config)
        wait_for(lambda: made.kubectl("get", "--raw", "/readyz").returncode == 0, "the server", 60)
        yield made
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait(30)
