"""The deployment scripts and templates, run against stand-ins of the tools that they call."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from stream.settings import load

_ROOT = Path(__file__).parents[2]
_PROVIDERS = ("aws", "azure", "gcp", "local")
_TOOLS = ("kubectl", "helm", "az", "aws", "gcloud", "minikube", "terraform", "docker")
_STAND_IN = """#!/bin/bash
echo "$(basename "$0") $*" >> "$CALLS"
case "$(basename "$0") $*" in
  *"get secret"*) printf '%s' "$ETCD_SECRET" ;;
  *loadBalancer*) echo 10.0.0.7 ;;
  *clusterName*|*appGatewayName*|*"output -raw"*) echo a-name ;;
  *"stream-api --url") echo http://192.168.49.2:30001 ;;
  *"stream-http-source --url") echo http://192.168.49.2:30002 ;;
  *"get configmap"*) cat "$CONFIG_MAP" ;;
  *"apply -f -") cat > "$APPLIED" ;;
esac
case "$*" in *"$FAIL"*) exit 1 ;; esac
"""
_VARIABLES = {
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
_LIMITS = {
    f"STREAM_{pod}_{limit}": value
    for pod in ("API", "HTTP_SOURCE", "STORAGE_WRITER", "STORAGE_READER", "STORAGE_COORDINATOR")
    for limit, value in (
        ("MEMORY_SOFT_LIMIT", "200Mi"),
        ("MEMORY_HARD_LIMIT", "250Mi"),
        ("CPU_SOFT_LIMIT", "100m"),
    )
}


class Place:
    """A copy of the provisioning tree, and stand-ins first on the PATH."""

    def __init__(self, folder: Path) -> None:
        shutil.copytree(_ROOT / "provisioning", folder / "provisioning")
        self.stream = folder / "provisioning" / "stream"
        self.calls_file = folder / "calls"
        self.calls_file.touch()
        self.applied = folder / "applied"
        tools = folder / "bin"
        tools.mkdir()
        for name in (*_TOOLS, "gke-gcloud-auth-plugin"):
            (tools / name).write_text(_STAND_IN)
            (tools / name).chmod(0o755)
        self.environ = {
            **_VARIABLES,
            "PATH": f"{tools}:{os.environ['PATH']}",
            "CALLS": str(self.calls_file),
            "APPLIED": str(self.applied),
            "ETCD_SECRET": "",
            "FAIL": "nothing fails",
        }

    def run(self, script: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environ = {**self.environ, **variables}
        return subprocess.run(
            [str(self.stream / script)],
            env={name: value for name, value in environ.items() if value != "unset"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    @property
    def calls(self) -> list[str]:
        return self.calls_file.read_text().splitlines()

    def rendered(self, provider: str, **variables: str) -> dict[str, Any]:
        environ = {"CLOUD_PROVIDER": provider, "CLOUD_ENCRYPTION_PROVIDER": "none", **_LIMITS}
        done = self.run("kubernetes/build.sh", **environ, **variables)
        assert done.returncode == 0, done.stderr
        files = (self.stream / "kubernetes" / "deploy").glob("*.yaml")
        return {file.stem: yaml.safe_load(file.read_text()) for file in files}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def _pods(objects: dict[str, Any]) -> list[dict[str, Any]]:
    return [o["spec"]["template"] for o in objects.values() if "template" in o.get("spec", {})]


@pytest.mark.parametrize("provider", _PROVIDERS)
def test_objects_of_each_provider_fit_the_schema(place: Place, provider: str) -> None:
    """Every rendered object is valid for Kubernetes."""
    for name, value in place.rendered(provider).items():
        if not name.startswith("etcd-values"):
            kubernetes_validate.validate(value, "1.32", strict=True)


@pytest.mark.parametrize("provider", _PROVIDERS)
def test_selectors_match_pods(place: Place, provider: str) -> None:
    """Every selector, and every peer of a policy in the namespace, is a label of some pod."""
    objects = place.rendered(provider)
    pods = [pod["metadata"]["labels"] for pod in _pods(objects)]
    assert len(pods) == 4
    assert all(labels["stream-etcd-client"] == "true" for labels in pods)
    apps = {labels["app"] for labels in pods}
    for value in objects.values():
        spec = value.get("spec", {})
        found = [spec.get("selector"), spec.get("podSelector")]
        for rule in spec.get("ingress", []):
            found += [
                p["podSelector"] for p in rule.get("from", []) if "namespaceSelector" not in p
            ]
        for selector in filter(None, found):
            assert selector.get("matchLabels", selector)["app"] in apps


@pytest.mark.parametrize("provider", _PROVIDERS)
def test_service_takes_the_configuration(place: Place, provider: str, tmp_path: Path) -> None:
    """The deployed file, the environment and the ports of each pod are those of the service."""
    objects = place.rendered(provider)
    config = tmp_path / "config.yaml"
    config.write_text(objects["config-map"]["data"]["config.yaml"])
    for pod in _pods(objects):
        for container in pod["spec"]["containers"]:
            environ = {e["name"]: e.get("value", "x") for e in container["env"]}
            settings = load({}, environ, [str(config)])
            ports = {port["containerPort"] for port in container["ports"]}
            assert int(settings.metrics.listen.rsplit(":", 1)[1]) in ports
            assert settings.etcd.endpoint == "stream-etcd.stream.svc.cluster.local:2379"
            probe = container["readinessProbe"]["httpGet"]
            assert probe["path"] == "/health-check"
            assert probe["port"] in ports


def test_limits_can_be_left_out(place: Place) -> None:
    """Without limits no container has resources, and the volume keeps its size."""
    objects = place.rendered("local", REMOVE_RESOURCES_LIMITS="true")
    containers = [c for pod in _pods(objects) for c in pod["spec"]["containers"]]
    assert len(containers) == 5
    assert not any("resources" in container for container in containers)
    claim = objects["storage-writer-reader-statefulset"]["spec"]["volumeClaimTemplates"][0]
    assert claim["spec"]["resources"]["requests"]["storage"] == "10Gi"


@pytest.mark.parametrize("provider", _PROVIDERS)
def test_deployment_calls(place: Place, provider: str) -> None:
    """Objects are applied in their order between the sign-in and the wait for the rollouts."""
    done = place.run("deploy.sh", CLOUD_PROVIDER=provider)
    assert done.returncode == 0, done.stderr
    calls = place.calls
    applied = [Path(call.split()[-1]).stem for call in calls if call.startswith("kubectl apply")]
    common = [
        "namespace",
        "config-map",
        "api-pdb",
        "api-network-policy",
        "api-deployment",
        "http-source-pdb",
        "http-source-network-policy",
        "http-source-deployment",
        "storage-writer-reader-network-policy",
        "storage-writer-reader-statefulset",
        "storage-writer-reader-service",
        "storage-coordinator-pdb",
        "storage-coordinator-network-policy",
        "storage-coordinator-deployment",
    ]
    ingress = ["api-service", "api-ingress", "http-source-service", "http-source-ingress"]
    own = {
        "aws": ["storage-class-aws", *ingress],
        "gcp": ["storage-class-gcp", *ingress],
        "azure": ["storage-class-azure", "api-service", "http-source-service"],
        "local": ["api-service", "http-source-service"],
    }
    assert applied == common + own[provider]
    first = {
        "aws": "aws eks update-kubeconfig --name eks --region eu",
        "azure": "az deployment group show --resource-group group --name kbc-aks "
        "--query properties.outputs.clusterName.value -o tsv",
        "gcp": "terraform -chdir=./gcp init -input=false -backend-config=bucket=bucket "
        "-backend-config=prefix=keboola-as-code/stream",
        "local": "minikube status --profile stream",
    }
    assert calls[0] == first[provider]
    rollouts = [call.split()[3] for call in calls if "rollout status" in call]
    assert rollouts == [
        "sts/stream-etcd",
        "deployment/stream-api",
        "deployment/stream-http-source",
        "statefulset/stream-storage-writer-reader",
        "deployment/stream-storage-coordinator",
    ]
    if provider == "azure":
        updates = [
            call.split()[3:5]
            for call in calls
            if "application-gateway" in call and "update" in call
        ]
        assert updates == [["address-pool", "update"], ["probe", "update"]] * 2
    if provider == "local":
        assert "http://192.168.49.2:30001" in done.stdout
        assert "http://192.168.49.2:30002" in done.stdout


def test_password_of_etcd_is_kept_and_not_shown(place: Place) -> None:
    """An upgrade hands the existing password to the chart, but not on the command line."""
    done = place.run("deploy.sh", CLOUD_PROVIDER="aws", ETCD_SECRET="cGFzc3dvcmQ=")
    assert done.returncode == 0, done.stderr
    helm = next(call for call in place.calls if call.startswith("helm upgrade"))
    assert "/dev/fd/9" in helm
    assert "password" not in helm + done.stdout + done.stderr


@pytest.mark.parametrize(
    "name", ["HOSTNAME_SUFFIX", "STREAM_IMAGE_TAG", "AWS_REGION", "BUILD_BUILDID"]
)
def test_missing_variable_is_named(place: Place, name: str) -> None:
    """Nothing is applied without a needed variable, and the message names it."""
    done = place.run("deploy.sh", CLOUD_PROVIDER="aws", **{name: "unset"})
    assert done.returncode == 1
    assert f"Missing {name}" in done.stderr
    assert not any("apply" in call for call in place.calls)


def test_failed_rollout_prints_logs(place: Place) -> None:
    """A part that doesn't come up fails the deployment after its logs were asked for."""
    done = place.run("deploy.sh", CLOUD_PROVIDER="aws", FAIL="status deployment/stream-api")
    assert done.returncode == 1
    assert "deployment/stream-api failed." in done.stderr
    assert "logs --namespace stream --selector app=stream-api" in place.calls[-1]


def test_rollout_replaces_addresses_again_and_again(place: Place, tmp_path: Path) -> None:
    """Both public addresses are replaced by key, whatever they were, and nothing else is."""
    before = place.rendered("local")["config-map"]
    source = tmp_path / "map.json"
    source.write_text(json.dumps(before))
    for _ in range(2):
        done = place.run("rollout-stream.sh", CONFIG_MAP=str(source))
        assert done.returncode == 0, done.stderr
        after = json.loads(place.applied.read_text())
        config = yaml.safe_load(after["data"]["config.yaml"])
        expected = yaml.safe_load(before["data"]["config.yaml"])
        expected["api"]["publicUrl"] = "http://192.168.49.2:30001"
        expected["source"]["http"]["publicUrl"] = "http://192.168.49.2:30002"
        assert config == expected
        source.write_text(place.applied.read_text())
    assert sum("rollout restart" in call for call in place.calls) == 8


def test_shellcheck() -> None:
    """No script has a finding of shellcheck."""
    tool = str(Path(sys.executable).with_name("shellcheck"))
    scripts = [str(path) for path in (_ROOT / "provisioning").rglob("*.sh")]
    subprocess.run([tool, "--exclude=SC1091", *scripts], check=True, timeout=60)
