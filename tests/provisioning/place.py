"""A copy of the provisioning tree, with stand-ins that record the calls of tools."""

from __future__ import annotations

import os
import shutil
import subprocess
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

__all__ = ["DOWNLOADED", "PROVIDERS", "ROOT", "STAND_IN", "Place"]

ROOT = Path(__file__).parents[2]
PROVIDERS = ("aws", "azure", "gcp", "local")
TOOLS = ("kubectl", "helm", "az", "aws", "gcloud", "minikube", "terraform", "docker", "curl")
DOWNLOADED = "what curl downloads"
STAND_IN = """#!/bin/bash
echo "$(basename "$0") $*" >> "$CALLS"
case "$(basename "$0") $*" in
  *"get secret"*"stream-etcd "*) printf '%s' "$ETCD_SECRET" ;;
  *loadBalancer*) echo 10.0.0.7 ;;
  *clusterName*|*appGatewayName*|*"output -raw"*) echo a-name ;;
  *"stream-api --url") echo http://192.168.49.2:30001 ;;
  *"stream-http-source --url") echo http://192.168.49.2:30002 ;;
  *"get configmap"*) cat "$CONFIG_MAP" ;;
  *"apply -f -" | *"create -f -") cat > "$APPLIED"; cat "$APPLIED" >> "$APPLIED.all" ;;
  "minikube status "*) [ -n "$RUNNING" ] || exit 1 ;;
  *"get secret"*"stream-writer"*) printf '%s' "$WRITER_SECRET" ;;
  *"get pods"*"-o name") echo pod/stream-api-0 ;;
  "curl "*.sha256) printf '%s' "$DOWNLOADED_SUM" >"$6" ;;
  "curl "*--output*) printf '%s' "$DOWNLOADED" >"$6" ;;
esac
case "$*" in *"$FAIL"*) exit 1 ;; esac
"""
VARIABLES = {
    "BUILD_BUILDID": "7",
    "RELEASE_RELEASENAME": "rel",
    "RELEASE_ID": "7-rel",
    "NAMESPACE": "stream",
    "KEBOOLA_STACK": "stack",
    "HOSTNAME_SUFFIX": "example.com",
    "STREAM_IMAGE_REPOSITORY": "example.com/stream",
    "STREAM_IMAGE_TAG": "tag",
    "STREAM_ETCD_REPLICAS": "3",
    "STREAM_API_REPLICAS": "2",
    "STREAM_HTTP_SOURCE_REPLICAS": "2",
    "STREAM_STORAGE_READER_WRITER_REPLICAS": "2",
    "STREAM_STORAGE_COORDINATOR_REPLICAS": "2",
    "STREAM_VOLUME_MEDIUM_STORAGE_CLASS_NAME": "stream-api",
    "STREAM_VOLUME_MEDIUM_STORAGE_SIZE": "10Gi",
    "STREAM_ETCD_STORAGE_CLASS_NAME": "etcd-gp3",
    "AWS_REGION": "eu",
    "AWS_EKS_CLUSTER_NAME": "eks",
    "RESOURCE_GROUP": "group",
    "TERRAFORM_REMOTE_STATE_BUCKET": "bucket",
    "GOOGLE_APPLICATION_CREDENTIALS": "/key.json",
    "GCP_PROJECT": "project",
}
LIMITS = {
    f"STREAM_{pod}_{limit}": value
    for pod in ("API", "HTTP_SOURCE", "STORAGE_WRITER", "STORAGE_READER", "STORAGE_COORDINATOR")
    for limit, value in (
        ("MEMORY_SOFT_LIMIT", "200Mi"),
        ("MEMORY_HARD_LIMIT", "250Mi"),
        ("CPU_SOFT_LIMIT", "100m"),
    )
}


class Place:
    """A copy of the provisioning tree, with stand-ins first on the PATH."""

    def __init__(self, folder: Path) -> None:
        shutil.copytree(ROOT / "provisioning", folder / "provisioning")
        self.stream = folder / "provisioning" / "stream"
        self.calls_file = folder / "calls"
        self.calls_file.touch()
        self.applied = folder / "applied"
        tools = folder / "bin"
        tools.mkdir()
        for name in (*TOOLS, "gke-gcloud-auth-plugin"):
            (tools / name).write_text(STAND_IN)
            (tools / name).chmod(0o755)
        self.environ = {
            **VARIABLES,
            "PATH": f"{tools}:{os.environ['PATH']}",
            "CALLS": str(self.calls_file),
            "APPLIED": str(self.applied),
            "ETCD_SECRET": "",
            "WRITER_SECRET": "",
            "RUNNING": "yes",
            "DOWNLOADED": DOWNLOADED,
            "DOWNLOADED_SUM": f"{sha256(DOWNLOADED.encode()).hexdigest()}  minikube-linux",
            "FAIL": "nothing fails",
        }

    def run(self, script: str, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environ = {**self.environ, **variables}
        return subprocess.run(
            [str(self.stream / script), *words],
            env={name: value for name, value in environ.items() if value != "unset"},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=60,
            check=False,
        )

    @property
    def calls(self) -> list[str]:
        return self.calls_file.read_text().splitlines()

    def rendered(self, provider: str, **variables: str) -> dict[str, Any]:
        environ = {"CLOUD_PROVIDER": provider, "CLOUD_ENCRYPTION_PROVIDER": "none", **LIMITS}
        done = self.run("kubernetes/build.sh", **environ, **variables)
        assert done.returncode == 0, done.stderr
        files = (self.stream / "kubernetes" / "deploy").glob("*.yaml")
        return {file.stem: yaml.safe_load(file.read_text()) for file in files}
